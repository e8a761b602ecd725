#include "dropin/embedding/contract.h"

namespace dropin {

FamilyInfo TokenEmbedding::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [B, L] int64 ids -> y [B, L, D]";
  f.options = [](int size) {
    return size ? json_of({{"num_embeddings", 8192},
                           {"embedding_dim", 512},
                           {"num_chars", 128},
                           {"embed_dim", 512}})
                : json_of({{"num_embeddings", 11}, {"embedding_dim", 8}});
  };
  f.inputs = [](const Json&, const SampleSpec& s) {
    return sample_ids(s, s.size ? 256 : 11, s.size ? 16 << (2 * (s.size - 1)) : 0);
  };
  f.bad_inputs = [](const Json&) -> std::vector<BadInput> { return {{{{"x", zeros({2, 3})}}}}; };
  f.work = [](const Workload& w) {  // rows in use; all of the gradient
    auto bytes = [](const Tensor& t) {
      return static_cast<double>(t.numel() * item_size(t.dtype()));
    };
    return Work{.bytes = bytes(w.x) + 2 * bytes(w.y),
                .both_bytes = 2 * bytes(w.x) + 3 * bytes(w.y) + w.weight_bytes};
  };
  f.traits.integer_inputs = true;
  return f;
}

}  // namespace dropin
