// Activations at their corners, where one-sided slopes disagree: as PyTorch 2.15 answers.
#include "dropin/activation/activation.h"
#include "dropin/ops/ops.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;

template <class M>
void expect_slopes(M& m, const std::vector<double>& at, const std::vector<double>& slopes) {
  const Tensor x = tensor(at, {static_cast<int64_t>(at.size())}, kFloat64).requires_grad_();
  sum(m(x)).backward();
  expect_values(x.grad(), slopes, 1e-12);
}

TEST(Activation, SlopesAtTheCorners) {
  CELU celu({.alpha = 0.5});
  expect_slopes(celu, {0, 1, 800, -800}, {1, 1, 1, 0});
  Softshrink shrink({.lambda = 0.5});
  expect_slopes(shrink, {-0.5, 0.5, 0, 0.75, -0.75}, {0, 0, 0, 1, 1});
}

}  // namespace
}  // namespace dropin
