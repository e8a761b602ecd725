#include "dropin/retrieval/contract.h"

namespace dropin {

FamilyInfo DecisionRule::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "probs [B, K] -> prediction [B] int64, scores [B, N]";
  f.options = [](int size) { return json_of({{"num_classes", size ? 1000 : 5}}); };
  f.inputs = [](const Json& o, const SampleSpec& s) -> Sample {
    static constexpr int64_t kBatches[] = {2, 64, 1024, 16384};
    const int64_t batch = s.batch >= 0 ? s.batch : s.of(kBatches),
                  classes = option_or(o, {"num_classes"}, s.size ? 1000 : 5);
    return {{{"probs", softmax(s.normal({batch, classes}), 1)}}};
  };
  f.bad_inputs = [](const Json&) -> std::vector<BadInput> {
    return {{{{"probs", zeros({2, 3, 4})}}}, {{{"probs", zeros({2, 0})}}}};
  };
  return f;
}

NamedTensors DecisionRule::call(const NamedTensors& in) {
  const Decision d = forward(in.get("probs", type()));
  NamedTensors r{{"prediction", d.prediction}, {"scores", d.scores}};
  if (d.onehot.defined()) r.set("onehot", d.onehot);
  return r;
}

void detail::check_probs(std::string_view who, const Tensor& probs, int64_t classes) {
  DROPIN_CHECK(probs.dim() == 2 && probs.size(1) > 0, ShapeError, who, ": probs is ", probs.sizes(),
               ", expected [B, K >= 1]");
  DROPIN_CHECK(classes < 0 || probs.size(1) == classes, ShapeError, who, ": probs is ",
               probs.sizes(), ", expected [B, ", classes, "], one for each observed class");
  DROPIN_CHECK(is_floating(probs.dtype()), DTypeError, who, ": probs is ", probs.dtype(),
               ", expected a floating-point tensor");
}

void detail::fit_buffer(Tensor& buffer, const Tensor& saved) {
  if (!saved.defined()) return;
  if (buffer.defined() && (buffer.sizes() == saved.sizes() || buffer.dim() != saved.dim())) return;
  buffer = zeros(saved.sizes(), buffer.defined() ? buffer.options() : saved.options());
}

}  // namespace dropin
