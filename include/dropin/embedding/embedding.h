// Embedding and Dropout.
#pragma once
#include "dropin/embedding/contract.h"
#include "dropin/module/init.h"

namespace dropin {

struct EmbeddingOptions {
  int64_t num_embeddings = 0, embedding_dim = 0;  ///< required
  std::optional<int64_t> padding_idx = std::nullopt;
  static void fields(auto&& f) {
    using O = EmbeddingOptions;
    f("num_embeddings", &O::num_embeddings, "rows of the table; required");
    f("embedding_dim", &O::embedding_dim, "width of a row; required");
    f("padding_idx", &O::padding_idx, "a row that starts at 0 and receives no gradient");
  }
};
/// A table of rows: y = weight[id], int64 ids [*] -> [*, embedding_dim]. torch.nn.Embedding;
/// initial values N(0, 1).
class Embedding : public Component<Embedding, EmbeddingOptions, TokenEmbedding> {
 public:
  static constexpr const char* kSummary = "a learnable row per id";
  explicit Embedding(const EmbeddingOptions& o) : Component(o) {
    DROPIN_CHECK(o.num_embeddings > 0 && o.embedding_dim > 0, OptionError, who(),
                 ": num_embeddings ", o.num_embeddings, " and embedding_dim ", o.embedding_dim,
                 " must be positive");
    Tensor w = init::normal({o.num_embeddings, o.embedding_dim}, 1);
    if (o.padding_idx) {
      DROPIN_CHECK(*o.padding_idx >= -o.num_embeddings && *o.padding_idx < o.num_embeddings,
                   OptionError, who(), ": padding_idx ", *o.padding_idx, " is not one of ",
                   o.num_embeddings, " rows");
      padding_ = *o.padding_idx < 0 ? *o.padding_idx + o.num_embeddings : *o.padding_idx;
      w.select(0, padding_).zero_();
    }
    weight_ = &parameter("weight", w);
  }
  Tensor forward(const Tensor& ids) override {
    DROPIN_CHECK(ids.dtype() == kInt64, DTypeError, who(), ": ids are ", ids.dtype(),
                 ", expected int64");
    return embedding(*weight_, ids, padding_);
  }
  Tensor& weight() const { return *weight_; }

 private:
  Tensor* weight_;
  int64_t padding_ = -1;
};

}  // namespace dropin
