#include "dropin/feed_forward/bilinear_mlp.h"
#include "dropin/feed_forward/feed_forward.h"
#include "dropin/feed_forward/moe.h"
#include "registry/lists.h"

namespace dropin {

void register_feed_forward(Registry& r) {
  r.add<MLP>();
  r.add<GatedMLP>();
  r.add<BilinearMLP>();
  r.add(FunctionInfo<NoOptions>{
      .name = "bilinear_eigen",
      .family = "Function",
      .summary = "quadratic forms of a bilinear layer's outputs, and their spectra",
      .paper = BilinearMLP::kPaper,
      .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
        const BilinearEigen e = bilinear_eigen(in["w_weight"], in["o_weight"], in["directions"],
                                               in.find("x"), in.find("w_bias"));
        NamedTensors out{{"interaction", e.interaction}, {"eigenvalues", e.eigenvalues}};
        if (e.contributions.defined()) out.set("contributions", e.contributions);
        return out;
      },
      .inputs = [](const NoOptions&, const SampleSpec& s) -> Sample {
        const int64_t d = s.size ? 64 : 5, h = s.size ? 256 : 7;
        return {{{"w_weight", s.normal({2 * h, d})},
                 {"o_weight", s.normal({4, h})},
                 {"directions", s.normal({s.length >= 0 ? s.length : 3, 4})},
                 {"x", s.normal({6, d})},
                 {"w_bias", s.normal({2 * h})}}};
      },
      .traits = [](Traits& t) { t.surrogate_gradient = true; }});  // it has none, in words
  r.add<TopKMoE>();
  r.add<ReMoE>();
  r.add(FunctionInfo<RemoeLambdaOptions>{
      .name = "remoe_lambda_update",
      .family = "Function",
      .summary = "steers the penalty of a rectified router towards a sparsity",
      .paper = ReMoE::kPaper,
      .call = [](const RemoeLambdaOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", remoe_lambda_update(in["coeff"], in["sparsity"], o)}};
      },
      .inputs = [](const RemoeLambdaOptions&, const SampleSpec& s) -> Sample {
        const int64_t n = s.length >= 0 ? s.length : 6;
        return {{{"coeff", square(s.normal({n}))}, {"sparsity", square(s.normal({n}))}}};
      },
      .sample = R"({"top_k": 2, "num_experts": 8})"});
}

}  // namespace dropin
