// What decoders drive: a language model that takes tokens row by row.
#pragma once
#include "dropin/model/transformer.h"

namespace dropin {

struct DraftTree;

/// What a language model keeps of the rows it has read.
class LanguageState {
 public:
  virtual ~LanguageState() = default;
  virtual int64_t rows() const = 0;
  /// A new state of the rows `rows`, in their order; repeats are allowed. Nothing that step()
  /// changes is shared.
  virtual Box<LanguageState> select(const std::vector<int64_t>& rows) const = 0;
};

/// Tokens in, logits of the next ones out. Derive, and give it to a decoder.
class LanguageModel : public Module {
 public:
  using Family = LanguageModel;
  virtual int64_t vocab_size() const = 0;
  /// The most tokens that a row may hold.
  virtual int64_t max_len() const { return INT64_MAX; }
  /// Empty rows.
  virtual Box<LanguageState> init_state(int64_t rows) = 0;
  /// The next token of every row, [N] int64 -> logits [N, V].
  virtual Tensor step(const Tensor& tokens, LanguageState& state) = 0;
  /// Whether step_soft() works.
  virtual bool has_soft_step() const { return false; }
  /// The same with the expected embedding of a distribution: probs [N, V] -> logits [N, V].
  /// OptionError unless has_soft_step().
  virtual Tensor step_soft(const Tensor& probs, LanguageState& state);
  /// Prompts [N, P], row i of lengths[i] tokens and then anything, into empty rows -> logits of
  /// each row's last token, [N, V]. As it stands: StateError where the lengths differ.
  virtual Tensor prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                         LanguageState& state);

  // --- what drafts need: trees of them, or runs, which are trees of one branch

  /// Of n tokens: what the output layer reads [n, D] (of models with trees; DraftHeads read it),
  /// and what it says [n, V].
  struct Pass {
    Tensor hidden, logits;
  };
  /// Whether read(), tree_step() and keep() work.
  virtual bool has_trees() const { return false; }
  /// Whether they do at least for trees of one branch.
  virtual bool has_runs() const { return has_trees(); }
  /// Width of hidden; 0 without trees.
  virtual int64_t embed_dim() const { return 0; }
  /// One empty row for them, behind which trees of at most `nodes` nodes are tried. As it stands:
  /// init_state(1).
  virtual Box<LanguageState> init_drafts(int64_t nodes);
  /// Reads a prompt [P] into the only row, which is empty.
  virtual Pass read(const Tensor& prompt, LanguageState& state);
  /// tokens [N] of a tree's nodes behind what the row holds. Each sees its ancestors, and none is
  /// there for good.
  virtual Pass tree_step(const Tensor& tokens, const DraftTree& tree, LanguageState& state);
  /// The nodes of `path`, root first, of the last tree_step() stay; the others are forgotten.
  virtual void keep(const std::vector<int64_t>& path, LanguageState& state);
};

/// The model that {"type": "TableLM", ...} names: TableLM, LlamaLM or Transformer (as a
/// TransformerLM). OptionError naming `who` for anything else.
Box<LanguageModel> language_model_of(std::string_view who, const Json& spec);

struct TableLMOptions {
  int64_t vocab_size = 0, embed_dim = 0;  ///< required
  static void fields(auto&& f) {
    f("vocab_size", &TableLMOptions::vocab_size, "number V of token ids; required");
    f("embed_dim", &TableLMOptions::embed_dim, "width D of the hidden state; required");
  }
};
/// h = table[last token but one, or 0; last token], logits = lm_head.weight h, in float64: for
/// tests. Parameters table [V, V, D], lm_head.weight [V, D]. Soft tokens contract the table.
class TableLM : public Component<TableLM, TableLMOptions, LanguageModel> {
 public:
  explicit TableLM(const TableLMOptions& o);
  int64_t vocab_size() const override { return options_.vocab_size; }
  Box<LanguageState> init_state(int64_t rows) override;
  Tensor step(const Tensor& tokens, LanguageState& state) override;
  bool has_soft_step() const override { return true; }
  Tensor step_soft(const Tensor& probs, LanguageState& state) override;
  Tensor prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                 LanguageState& state) override;
  bool has_trees() const override { return true; }
  int64_t embed_dim() const override { return options_.embed_dim; }
  Pass read(const Tensor& prompt, LanguageState& state) override;
  Pass tree_step(const Tensor& tokens, const DraftTree& tree, LanguageState& state) override;
  void keep(const std::vector<int64_t>& path, LanguageState& state) override;

 private:
  Pass pass(const std::vector<int64_t>& before, const std::vector<int64_t>& tokens) const;
  Tensor logits(const Tensor& hidden) const;
  Tensor* table_;
  Child<Linear> lm_head_;
};

/// Any Transformer, with whatever mixers stand in it, as a LanguageModel: child "model". Prompts of
/// different lengths are padded on the left. Runs of drafts are taken back by
/// TransformerState::rollback().
class TransformerLM : public Component<TransformerLM, TransformerOptions, LanguageModel> {
 public:
  explicit TransformerLM(const TransformerOptions& o);
  /// Of the caller's.
  explicit TransformerLM(Box<Transformer> model);
  Box<Module> make_like() const override;
  int64_t vocab_size() const override { return options_.vocab_size; }
  int64_t max_len() const override { return options_.max_len; }
  Box<LanguageState> init_state(int64_t rows) override;
  Tensor step(const Tensor& tokens, LanguageState& state) override;
  bool has_soft_step() const override { return true; }
  Tensor step_soft(const Tensor& probs, LanguageState& state) override;
  Tensor prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                 LanguageState& state) override;
  bool has_runs() const override { return true; }
  Box<LanguageState> init_drafts(int64_t nodes) override;
  Pass read(const Tensor& prompt, LanguageState& state) override;
  Pass tree_step(const Tensor& tokens, const DraftTree& tree, LanguageState& state) override;
  void keep(const std::vector<int64_t>& path, LanguageState& state) override;
  Transformer& model() const { return dynamic_cast<Transformer&>(*model_); }

 private:
  Child<Transformer> model_;
};

}  // namespace dropin
