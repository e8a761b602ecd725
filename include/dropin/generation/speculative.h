// Speculative decoding: draft heads guess a tree of tokens, one pass of the base judges it.
#pragma once
#include "dropin/generation/decoder.h"
#include "dropin/generation/draft_heads.h"

namespace dropin {

struct SpeculativeOptions {
  Json base, heads;
  Json tree = "mc_sim_7b_63";
  std::string acceptance = "greedy";
  double temperature = 0, posterior_threshold = 0.09, posterior_alpha = 0.3;
  int64_t max_new_tokens = 512, eos_id = -1;
  std::vector<int64_t> stop_ids = {};
  int64_t min_new_tokens = 0, no_repeat_ngram = 0;
  static void fields(auto&& f) {
    using O = SpeculativeOptions;
    f("base", &O::base, "of files: {\"type\": \"TableLM\", ...}; else given as a module");
    f("heads", &O::heads, "of files: {\"type\": \"HydraHeads\", ...}; else given as a module");
    f("tree", &O::tree, "list of choices, or mc_sim_7b_63");
    f("acceptance", &O::acceptance, "greedy, typical or sample");
    f("temperature", &O::temperature, "of typical and sample; 0 for greedy");
    f("posterior_threshold", &O::posterior_threshold, "typical: probability that always suffices");
    f("posterior_alpha", &O::posterior_alpha, "typical: factor of e^-entropy");
    f("max_new_tokens", &O::max_new_tokens, "the most tokens that are generated");
    f("eos_id", &O::eos_id, "token that ends a text; -1: none");
    f("stop_ids", &O::stop_ids, "more such tokens");
    f("min_new_tokens", &O::min_new_tokens, "no end before so many");
    f("no_repeat_ngram", &O::no_repeat_ngram, "no run of so many tokens comes twice; 0: off");
  }
};
/// Several tokens per pass of the base: the heads propose a tree behind each root, the base reads
/// it in one pass, and the path it agrees with stays (Cai et al. 2024, section 3; Ankner et al.
/// 2024). Greedy: GreedyDecoder's tokens; sample: those of SamplingDecoder with the same uniforms,
/// so exactly the base's distribution; typical: not that distribution. Limits and process_logits
/// hold at every node with its own prefix. Rows are decoded one after the other. OptionError for a
/// base without trees, or heads, tree and base that do not fit.
class SpeculativeDecoder : public Component<SpeculativeDecoder, SpeculativeOptions, Decoder> {
 public:
  static constexpr const char* kSummary = "several tokens per pass, by draft heads and a tree";
  static constexpr const char* kReplaces = "GreedyDecoder";
  static constexpr const char* kPaper = MedusaHeads::kPaper;
  static constexpr const char* kCall =
      "prompt [B, P] int64, prompt_lengths [B] -> tokens [B, max_new_tokens], lengths, scores "
      "[B], accept_lengths [B, steps]";
  static constexpr const char* kSample = R"({"max_new_tokens": 6})";
  static std::vector<std::string> examples();
  explicit SpeculativeDecoder(const SpeculativeOptions& o);
  SpeculativeDecoder(Box<LanguageModel> base, Box<DraftHeads> heads, const SpeculativeOptions& o);
  Box<Module> make_like() const override;
  Decoded generate(const DecodeArgs& args) override;
  DraftHeads& heads() const { return *heads_; }
  /// Changes the log-probabilities of every choice before it is made: of `position` tokens behind
  /// the prompt, `path` (prompt, output, nodes of the tree).
  void set_process_logits(ProcessLogits f) { process_logits_ = std::move(f); }

 private:
  void build(Box<LanguageModel> base, Box<DraftHeads> heads);
  Child<DraftHeads> heads_;
  DraftTree tree_;
  ProcessLogits process_logits_;
};

}  // namespace dropin
