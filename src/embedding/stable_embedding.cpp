#include "dropin/embedding/stable_embedding.h"

#include "dropin/autograd/full_state.h"
#include "dropin/module/init.h"

namespace dropin {

StableEmbedding::StableEmbedding(const StableEmbeddingOptions& o) : Component(o) {
  DROPIN_CHECK(o.num_embeddings > 0 && o.embedding_dim > 0, OptionError, who(), ": num_embeddings ",
               o.num_embeddings, " and embedding_dim ", o.embedding_dim, " must be positive");
  Tensor w =
      init::xavier_uniform({o.num_embeddings, o.embedding_dim}, o.embedding_dim, o.num_embeddings);
  if (o.padding_idx) {
    DROPIN_CHECK(*o.padding_idx >= -o.num_embeddings && *o.padding_idx < o.num_embeddings,
                 OptionError, who(), ": padding_idx ", *o.padding_idx, " is not one of ",
                 o.num_embeddings, " rows");
    padding_ = *o.padding_idx < 0 ? *o.padding_idx + o.num_embeddings : *o.padding_idx;
    w.select(0, padding_).zero_();
  }
  weight_ = &parameter("weight", w);
  keep_full_state(*weight_);
  norm_ = child<LayerNorm>("norm", {.normalized_shape = {o.embedding_dim}});
}

Tensor StableEmbedding::forward(const Tensor& ids) {
  DROPIN_CHECK(is_integral(ids.dtype()), DTypeError, who(), ": ids are ", ids.dtype(),
               ", expected int64");
  return norm_(embedding(*weight_, ids.to(kInt64), padding_));
}

NamedTensors StableEmbedding::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get(in.contains("input") ? "input" : "x", who()))}};
}

}  // namespace dropin
