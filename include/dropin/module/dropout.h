// Dropout, PyTorch's names and semantics.
#pragma once
#include "dropin/module/unary.h"

namespace dropin {

struct DropoutOptions {
  double p = 0.5;
  static void fields(auto&& f) { f("p", &DropoutOptions::p, "probability of a zero"); }
};
/// Zeroes elements with probability p when training, and scales the rest by 1 / (1 - p).
class Dropout : public Component<Dropout, DropoutOptions, Layer> {
 public:
  static constexpr const char* kSummary = "random zeros while training";
  static Sample sample(const DropoutOptions&, const SampleSpec& s) { return sample_values(s); }
  static void traits(const DropoutOptions&, Traits& t) {
    t.any_shape = t.random_in_training = true;
  }
  explicit Dropout(const DropoutOptions& o = {}) : Component(o) {
    DROPIN_CHECK(o.p >= 0 && o.p <= 1, OptionError, who(), ": p is ", o.p, ", expected 0 to 1");
  }
  Tensor forward(const Tensor& x) override { return dropout(x, options_.p, is_training()); }
};

}  // namespace dropin
