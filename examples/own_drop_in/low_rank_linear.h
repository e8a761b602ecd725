// A drop-in written outside the library: a Linear of low rank, y = (x V^T) U^T + b (Hu et al. 2021
// train such factors beside a frozen weight). Everything an outsider writes is here: options with
// their field list, a class of the family, and the line in main() that registers it.
#pragma once
#include <algorithm>
#include <cmath>

#include "dropin/dropin.h"

namespace outside {

struct LowRankLinearOptions {
  int64_t in_features = 0, out_features = 0;  ///< required
  int64_t rank = 4;
  bool bias = true;
  static void fields(auto&& f) {
    using O = LowRankLinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    f("rank", &O::rank, "columns of the two factors");
    f("bias", &O::bias, "adds a learnable bias");
  }
};

/// x [*, in_features] -> [*, out_features]. Parameters down [rank, in], up [out, rank], bias [out].
class LowRankLinear
    : public dropin::Component<LowRankLinear, LowRankLinearOptions, dropin::Projection> {
 public:
  static constexpr const char* kSummary = "a Linear of two thin factors";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper = "Hu et al. 2021, arXiv 2106.09685";
  explicit LowRankLinear(const LowRankLinearOptions& o) : Component(o) {
    DROPIN_CHECK(o.rank > 0 && o.rank <= std::min(o.in_features, o.out_features), OptionError,
                 who(), ": rank is ", o.rank, ", expected 1 to min(in_features, out_features)");
    down_ = &parameter("down", dropin::randn({o.rank, o.in_features}) *
                                   (1 / std::sqrt(static_cast<double>(o.in_features))));
    up_ = &parameter("up", dropin::randn({o.out_features, o.rank}) *
                               (1 / std::sqrt(static_cast<double>(o.rank))));
    bias_ = &parameter("bias", o.bias ? dropin::zeros({o.out_features}) : dropin::Tensor());
  }
  dropin::Tensor forward(const dropin::Tensor& x) override {
    return dropin::linear(dropin::linear(x, *down_), *up_, *bias_);
  }

 private:
  dropin::Tensor *down_, *up_, *bias_;
};

}  // namespace outside
