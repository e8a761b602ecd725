// Random numbers: the generator of a thread and tensors drawn from it.
#include <algorithm>

#include "dropin/dispatch/dispatch.h"
#include "dropin/tensor/tensor.h"
#include "kernels/elementwise/kernel.h"
#include "tensor/write.h"

namespace dropin {

Generator& default_generator() {
  thread_local Generator g;
  return g;
}
void manual_seed(std::uint64_t seed) { default_generator().manual_seed(seed); }

void detail::random_into(const Tensor& y, kernels::Distribution d, double a, double b,
                         Generator* g) {
  if (!g) g = &default_generator();
  const bool wide = y.dtype() == kFloat64 || d == kernels::Distribution::Integer;
  const auto n = static_cast<std::uint64_t>(y.numel());
  const std::uint64_t offset = g->advance(wide ? (n + 1) / 2 : (n + 3) / 4);
  if (y.is_contiguous())
    return run<kernels::random_fill>(y.device(), d, a, b, g->seed(), offset, y.out());
  Tensor t = empty(y.sizes(), y.options());
  run<kernels::random_fill>(y.device(), d, a, b, g->seed(), offset, t.out());
  run<kernels::copy>(y.device(), t.in(), y.out());
}

Tensor rand(const Shape& sizes, const TensorOptions& o, Generator* g) {
  Tensor t = empty(sizes, o);
  detail::random_into(t, kernels::Distribution::Uniform, 0, 1, g);
  return t;
}
Tensor randn(const Shape& sizes, const TensorOptions& o, Generator* g) {
  Tensor t = empty(sizes, o);
  detail::random_into(t, kernels::Distribution::Normal, 0, 1, g);
  return t;
}
Tensor rand_like(const Tensor& x, Generator* g) { return rand(x.sizes(), x.options(), g); }
Tensor randn_like(const Tensor& x, Generator* g) { return randn(x.sizes(), x.options(), g); }
Tensor randint(int64_t low, int64_t high, const Shape& sizes, const TensorOptions& o,
               Generator* g) {
  if (low >= high) fail<OptionError>({"randint: the range ", low, " to ", high, " is empty"});
  Tensor t = empty(sizes, {kInt64, o.device});
  detail::random_into(t, kernels::Distribution::Integer, static_cast<double>(low),
                      static_cast<double>(high), g);
  return t.to(o.dtype);
}
Tensor randperm(int64_t n, Generator* g) {
  if (n < 0) fail<OptionError>({"randperm: n is ", n});
  Tensor keys = rand({n}, kFloat64, g), order = empty({n}, kInt64);
  const double* k = keys.data<double>();
  int64_t* p = order.data<int64_t>();
  for (int64_t i = 0; i < n; ++i) p[i] = i;
  std::stable_sort(p, p + n, [k](int64_t a, int64_t b) { return k[a] < k[b]; });
  return order;
}

}  // namespace dropin
