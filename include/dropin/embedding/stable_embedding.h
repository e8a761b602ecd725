// StableEmbedding: an embedding that trains well under 8-bit optimizers.
#pragma once
#include "dropin/embedding/contract.h"
#include "dropin/norm/norm.h"

namespace dropin {

struct StableEmbeddingOptions {
  int64_t num_embeddings = 0, embedding_dim = 0;  ///< required
  std::optional<int64_t> padding_idx = std::nullopt;
  static void fields(auto&& f) {
    using O = StableEmbeddingOptions;
    f("num_embeddings", &O::num_embeddings, "rows of the table; required");
    f("embedding_dim", &O::embedding_dim, "width of a row; required");
    f("padding_idx", &O::padding_idx, "a row that starts at 0 and receives no gradient");
  }
};
/// LayerNorm of a table's rows, y = norm(weight[id]) (Dettmers et al. 2022, section 2.3): integer
/// ids [*] -> [*, embedding_dim]. Parameters weight [V, D] (Xavier uniform, the padding row zero),
/// norm.weight, norm.bias [D]. weight is marked, so that 8-bit optimizers keep 32-bit state for it.
/// Replaces Embedding.
class StableEmbedding : public Component<StableEmbedding, StableEmbeddingOptions, TokenEmbedding> {
 public:
  static constexpr const char* kSummary = "a normalised row per id, for 8-bit optimizers";
  static constexpr const char* kReplaces = "Embedding";
  static constexpr const char* kPaper = "Dettmers et al. 2022, arXiv 2110.02861";
  static std::vector<std::string> examples() { return {R"({"padding_idx": -2})"}; }
  explicit StableEmbedding(const StableEmbeddingOptions& o);
  Tensor forward(const Tensor& ids) override;
  /// The ids may be called "input" or "x".
  NamedTensors call(const NamedTensors& in) override;
  Tensor& weight() const { return *weight_; }

 private:
  Tensor* weight_;
  Child<LayerNorm> norm_;
  int64_t padding_ = -1;
};

}  // namespace dropin
