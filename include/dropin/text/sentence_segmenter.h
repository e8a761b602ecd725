// SentenceSegmenter: a small encoder that says where newlines would be.
#pragma once
#include "dropin/embedding/embedding.h"
#include "dropin/module/parameters.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/lora.h"
#include "dropin/text/segment.h"

namespace dropin {

struct SentenceSegmenterOptions {
  int64_t vocab_size = 0, embed_dim = 0, num_heads = 0, mlp_dim = 0;  ///< required
  int64_t num_layers = 0, max_positions = 0;                          ///< required
  int64_t num_labels = 1;
  std::optional<int64_t> lookahead = std::nullopt, lookahead_split_layers = std::nullopt;
  int64_t bos_id = 0, eos_id = 2, pad_id = 1, position_offset = 2;
  double layer_norm_eps = 1e-5;
  int64_t block_size = 512, stride = 64;
  std::string weighting = "uniform";
  int64_t lora_rank = 0;
  double lora_alpha = 0;
  double threshold = 0.25;
  bool paragraphs = false;
  double paragraph_threshold = 0.5;
  bool strip_whitespace = false, split_on_input_newlines = true;
  int64_t min_length = 1;
  std::optional<int64_t> max_length = std::nullopt;
  std::string prior = "uniform";
  double target_length = 70, spread = 25;
  std::string algorithm = "viterbi", length_mode = "official";
  static void fields(auto&& f) {
    using O = SentenceSegmenterOptions;
    f("vocab_size", &O::vocab_size, "ids; required");
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "attention heads; required");
    f("mlp_dim", &O::mlp_dim, "width inside the feed-forward; required");
    f("num_layers", &O::num_layers, "layers; required");
    f("max_positions", &O::max_positions, "rows of the table of positions; required");
    f("num_labels", &O::num_labels, "1, or 2 + marks with auxiliary training");
    f("lookahead", &O::lookahead, "tokens that a token's result may depend on; null: all");
    f("lookahead_split_layers", &O::lookahead_split_layers,
      "layers that look ahead, the others do not; null: all");
    f("bos_id", &O::bos_id, "before each block");
    f("eos_id", &O::eos_id, "behind each block");
    f("pad_id", &O::pad_id, "in padded places");
    f("position_offset", &O::position_offset, "position of the first token");
    f("layer_norm_eps", &O::layer_norm_eps, "of every norm");
    f("block_size", &O::block_size, "tokens that are run at a time");
    f("stride", &O::stride, "tokens from one block to the next");
    f("weighting", &O::weighting, "of a token's blocks: uniform, or hat (more in the middle)");
    f("lora_rank", &O::lora_rank, "r of the adapters of query, value and intermediate; 0: none");
    f("lora_alpha", &O::lora_alpha, "adapters are scaled by lora_alpha / lora_rank");
    detail::segment_fields<O>(f);
  }
};

/// Segment any Text (Frohmann et al. 2024): XLM-R's encoder of tokens that sees few tokens ahead,
/// and a classifier that says whether a newline would follow. Replaces RuleSegmenter. call() takes
/// ids [B, L] int64 with specials, key_padding_mask [B, L] bool -> logits [B, L, num_labels]; or
/// ids [N], offsets [N, 2], text [C] int64 -> probs [C], segments [S, 2], paragraph [S]. Parameters
/// by Hugging Face's names, roberta.{embeddings, encoder.layer.<i>} and classifier; with lora_rank
/// also <linear>.lora_A and lora_B, and all but these and the classifier is frozen. Files of
/// adapters load with strict = false.
class SentenceSegmenter
    : public Component<SentenceSegmenter, SentenceSegmenterOptions, TextSegmenter> {
 public:
  static constexpr const char* kSummary = "sentences of any text by a small encoder of tokens";
  static constexpr const char* kReplaces = "RuleSegmenter";
  static constexpr const char* kPaper = "Frohmann et al. 2024, arXiv 2406.16678";
  static constexpr const char* kCall =
      "ids [B, L] int64, key_padding_mask [B, L] bool -> logits [B, L, K]; or ids [N], offsets [N, "
      "2], text [C] int64 -> probs [C], segments [S, 2], paragraph [S]";
  static constexpr const char* kSample =
      R"({"vocab_size": 17, "embed_dim": 8, "num_heads": 2, "mlp_dim": 12, "num_layers": 2,
          "max_positions": 30, "lookahead": 4})";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  static void traits(const Options&, Traits& t) { t.no_batch = false; }
  static Work work(const Workload& w) {
    return work_of_places(w, static_cast<double>(w.x.numel()));
  }
  explicit SentenceSegmenter(const SentenceSegmenterOptions& o);

  /// ids [B, L] int64 with bos and eos, key_padding_mask [B, L] bool (true = padding) -> [B, L,
  /// num_labels]. Result i depends on no token behind i + lookahead.
  Tensor logits(const Tensor& ids, const Tensor& key_padding_mask = {});
  /// The probability [N] of a newline behind each of the tokens ids [N], without specials: the
  /// weighted mean of its blocks' logits. Without gradient.
  Tensor newline_probs(const Tensor& ids);
  /// The same of several texts, whose blocks of equal length are run together.
  Tensors newline_probs(const Tensors& texts);
  TextSegments forward(const Tensor& text, const TextTokens& tokens = {}) override;
  NamedTensors call(const NamedTensors& in) override;
  int64_t reach() const override;
  /// Adds the adapters to the weights; StateError without adapters, when merged, or in training.
  void merge_lora();
  /// Takes them out again.
  void unmerge();
  bool merged() const;
  /// How to cut, of the options.
  SegmentTextOptions cutting() const;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  struct Layer {
    Child<Projection> query, key, value, output, up, down;
    Child<LayerNorm> norm1, norm2;
    int64_t ahead = -1;  // keys seen behind the query's own; -1: all
  };
  void check_options() const;
  Child<Projection> projection(Parameters& in, const char* name, int64_t from, int64_t to,
                               bool adapted);
  Layer layer(Parameters& in, int64_t i);
  Tensor embed(const Tensor& ids, const Tensor& padding);
  Tensor run(const Layer& l, const Tensor& x, const Tensor& padding);
  int64_t most_tokens() const;
  void for_adapters(const std::function<void(LoRALinear&)>& f);
  Child<Embedding> words_, positions_, types_;
  Child<LayerNorm> norm_;
  std::vector<Layer> layers_;
  Child<Linear> classifier_;
};

}  // namespace dropin
