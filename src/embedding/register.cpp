#include "dropin/embedding/char2subword.h"
#include "dropin/embedding/embedding.h"
#include "dropin/embedding/stable_embedding.h"
#include "registry/lists.h"

namespace dropin {

void register_embedding(Registry& r) {
  r.add<Embedding>();
  r.add<StableEmbedding>();
  r.add<Char2Subword>();
  r.add(FunctionInfo<Char2SubwordLossOptions>{
      .name = "char2subword_loss",
      .family = "Function",
      .summary = "how well embeddings imitate rows of a table",
      .paper = Char2Subword::kPaper,
      .call = [](const Char2SubwordLossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", char2subword_loss(in["embedding"], in["table"], in["target"], o)}};
      },
      .inputs = [](const Char2SubwordLossOptions&, const SampleSpec& s) -> Sample {
        const int64_t n = s.length >= 0 ? s.length : 4, width = s.size ? 64 : 6;
        SampleSpec other = s;
        other.seed = s.seed + 1;
        return {{{"embedding", s.normal({n, width})},
                 {"table", other.normal({9, width})},
                 {"target", s.integers(9, {n})}}};
      },
      .examples = {R"({"l2_weight": 0.5, "neighbor_weight": 2, "num_neighbors": 3})"},
      .traits = [](Traits& t) { t.surrogate_gradient = true; }});  // the table is a constant
}

}  // namespace dropin
