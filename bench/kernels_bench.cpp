// The CPU kernels against a triad measured in the same run: bytes per second of memory that must
// move at least.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "kernels/elementwise/kernel.h"
#include "kernels/norm/kernel.h"
#include "kernels/optim/kernel.h"
#include "kernels/reduce/kernel.h"
#include "kernels/softmax/kernel.h"

namespace {

using namespace dropin;
using Sizes = std::vector<int64_t>;
constexpr int64_t kN = 1 << 22;

struct Buffer {
  explicit Buffer(Sizes s, DType t = kFloat32, float lo = -1, float hi = 1) : sizes(std::move(s)) {
    int64_t n = 1;
    for (auto v : sizes) n *= v;
    const std::size_t bytes =
        (static_cast<std::size_t>(n * item_size(t)) + 2097151) / 2097152 * 2097152;
    data.reset(static_cast<char*>(std::aligned_alloc(2097152, bytes)));
    view.dtype = t;
    view.data = data.get();
    view.ndim = static_cast<int>(sizes.size());
    int64_t step = 1;
    for (int i = view.ndim - 1; i >= 0; --i)
      view.sizes[i] = sizes[i], view.strides[i] = step, step *= sizes[i];
    run<kernels::fill>(kCPU, 0.0, view);
    if (t == kFloat32)
      for (int64_t i = 0; i < n; ++i)
        view.as<float>()[i] = lo + (hi - lo) * static_cast<float>(i * 7919 % 10007) / 10007;
  }
  operator const abi::TensorIn&() const { return view; }
  operator const abi::TensorOut&() const { return view; }
  abi::TensorIn expanded(const Sizes& s) const {  // a vector as rows of s
    abi::TensorIn t = view;
    t.ndim = static_cast<int>(s.size());
    for (int i = 0; i < t.ndim; ++i) t.sizes[i] = s[i], t.strides[i] = i == t.ndim - 1 ? 1 : 0;
    return t;
  }
  abi::TensorIn transposed() const {
    abi::TensorIn t = view;
    std::swap(t.sizes[0], t.sizes[1]);
    std::swap(t.strides[0], t.strides[1]);
    return t;
  }
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  Sizes sizes;
  std::unique_ptr<char, Free> data;
  abi::TensorOut view;
};

void row(const std::string& name, double bytes, const std::function<void()>& f) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [bytes, f](benchmark::State& state) {
                                 for (auto _ : state) f();
                                 state.SetBytesProcessed(static_cast<int64_t>(
                                     static_cast<double>(state.iterations()) * bytes));
                               })
      ->UseRealTime()
      ->MinTime(0.2);
}

}  // namespace

int main(int argc, char** argv) {
  using kernels::Binary;
  using kernels::Reduce;
  using kernels::Unary;
  const double mb = 4.0 * kN;
  Buffer a({kN}), b({kN}), c({kN}), m({kN}), v({kN}), small({16}), small2({16}), small_out({16});
  Buffer x({4096, 1024}), y({4096, 1024}), g({4096, 1024}), w({1024}), bias({1024}), rows({4096}),
      rows2({4096}), rows3({4096}), gw({1024}), gb({1024});
  Buffer planes({32, 64, 2048}), planes_y({32, 64, 2048}), planes_g({32, 64, 2048}),
      per_channel({64}), rstd({64}), var({64}), gw64({64}), gb64({64});
  Buffer half({kN}, kBFloat16), half16({kN}, kFloat16), wide({kN / 2}, kFloat64), narrow({kN / 2}),
      mask({kN}, kBool), target({4096}, kInt64);
  Buffer column({1024, 4096}), one({1}), per_row({4096, 1}), per_column({1, 1024}),
      index({4096, 1}, kInt64);
  auto triad = [&] {
    parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
      const float *p = a.view.as<float>(), *q = b.view.as<float>();
      float* r = c.view.as<float>();
      for (int64_t i = begin; i < end; ++i) r[i] = p[i] + 3.0f * q[i];
    });
  };
  row("triad", 3 * mb, triad);
  // Plain loops with the streams of the other rows: 16 to 64 MiB sit differently in the last-level
  // cache, and a store to a line that was not read costs a read that the bytes above do not count,
  // so a row is to be held against the loop that touches memory as it does.
  row("baseline: read", mb, [&] {
    parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
      const float* p = a.view.as<float>();
      float s[64] = {};
      for (int64_t i = begin; i + 64 <= end; i += 64)
        for (int k = 0; k < 64; ++k) s[k] += p[i + k];
      benchmark::DoNotOptimize(s);
    });
  });
  row("baseline: read, write", 2 * mb, [&] {
    parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
      const float* p = a.view.as<float>();
      float* r = c.view.as<float>();
      for (int64_t i = begin; i < end; ++i) r[i] = 3.0f * p[i];
    });
  });
  row("baseline: the streams of adam", 7 * mb, [&] {
    parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
      const float* q = a.view.as<float>();
      float *__restrict p = c.view.as<float>(), *__restrict u = m.view.as<float>(), *__restrict w2 = v.view.as<float>();
      for (int64_t i = begin; i < end; ++i) u[i] += q[i], w2[i] += q[i], p[i] += 1e-6f * q[i];
    });
  });
  row("add", 3 * mb, [&] { run<kernels::binary>(kCPU, Binary::Add, a, b, c); });
  row("add 16 elements", 3 * 64,
      [&] { run<kernels::binary>(kCPU, Binary::Add, small, small2, small_out); });
  row("add row [4096, 1024] + [1024]", 2 * mb, [&] {
    run<kernels::binary>(kCPU, Binary::Add, x, bias.expanded({4096, 1024}), y);
  });
  row("lt", 9.0 * kN, [&] { run<kernels::binary>(kCPU, Binary::Lt, a, b, mask); });
  row("pow", 3 * mb, [&] { run<kernels::binary>(kCPU, Binary::Pow, a, b, c); });
  const std::pair<const char*, Unary> unaries[] = {
      {"relu", Unary::Relu},       {"exp", Unary::Exp},
      {"log", Unary::Log},         {"tanh", Unary::Tanh},
      {"sigmoid", Unary::Sigmoid}, {"silu", Unary::Silu},
      {"gelu", Unary::Gelu},       {"gelu_tanh", Unary::GeluTanh},
      {"erf", Unary::Erf},         {"sin", Unary::Sin},
      {"sqrt", Unary::Sqrt}};
  for (auto [name, op] : unaries)
    row(name, 2 * mb, [&, op = op] { run<kernels::unary>(kCPU, op, a, c); });
  row("gelu gradient", 3 * mb,
      [&] { run<kernels::unary_grad>(kCPU, kernels::UnaryGrad::Gelu, a, b, c); });
  row("relu bf16", 4.0 * kN, [&] { run<kernels::unary>(kCPU, Unary::Relu, half, half); });
  row("axpy", 3 * mb, [&] { run<kernels::axpy>(kCPU, 1.0, a, c); });
  row("fill", mb, [&] { run<kernels::fill>(kCPU, 1.0, c); });
  row("copy", 2 * mb, [&] { run<kernels::copy>(kCPU, a, c); });
  row("copy transposed [4096, 1024]", 2 * mb,
      [&] { run<kernels::copy>(kCPU, x.transposed(), column); });
  row("copy f32 to bf16", 6.0 * kN, [&] { run<kernels::copy>(kCPU, a, half); });
  row("copy f16 to f32", 6.0 * kN, [&] { run<kernels::copy>(kCPU, half16, c); });
  row("copy f64 to f32", 6.0 * kN, [&] { run<kernels::copy>(kCPU, wide, narrow); });
  row("where", 13.0 * kN, [&] { run<kernels::where>(kCPU, mask, a, b, c); });
  row("sum", mb, [&] { run<kernels::reduce>(kCPU, Reduce::Sum, a, 1u, one); });
  row("max", mb, [&] { run<kernels::reduce>(kCPU, Reduce::Max, a, 1u, one); });
  row("sum rows [4096, 1024]", mb,
      [&] { run<kernels::reduce>(kCPU, Reduce::Sum, x, 2u, per_row); });
  row("sum columns [4096, 1024]", mb,
      [&] { run<kernels::reduce>(kCPU, Reduce::Sum, x, 1u, per_column); });
  row("argmax rows [4096, 1024]", mb, [&] { run<kernels::arg_reduce>(kCPU, true, x, 1, index); });
  row("cumsum rows [4096, 1024]", 2 * mb,
      [&] { run<kernels::scan>(kCPU, kernels::Scan::CumSum, x, 1, false, y); });
  row("softmax [4096, 1024]", 2 * mb, [&] { run<kernels::softmax_forward>(kCPU, x, false, y); });
  row("softmax gradient [4096, 1024]", 3 * mb,
      [&] { run<kernels::softmax_backward>(kCPU, g, x, false, y); });
  row("cross_entropy [4096, 1024]", mb, [&] {
    run<kernels::cross_entropy_forward>(kCPU, kernels::CrossEntropyInputs{x, target}, rows, rows2);
  });
  row("cross_entropy gradient [4096, 1024]", 2 * mb, [&] {
    run<kernels::cross_entropy_backward>(kCPU, rows3, kernels::CrossEntropyInputs{x, target}, rows2,
                                         y);
  });
  row("layer_norm [4096, 1024]", 2 * mb, [&] {
    run<kernels::layer_norm_forward>(kCPU, kernels::NormInputs{x, 1024, w, bias}, y, rows, rows2);
  });
  row("layer_norm gradient [4096, 1024]", 3 * mb, [&] {
    run<kernels::layer_norm_backward>(kCPU, g, kernels::NormInputs{x, 1024, w}, rows, rows2,
                                      kernels::NormGradients{y, gw, gb});
  });
  row("rms_norm [4096, 1024]", 2 * mb, [&] {
    run<kernels::rms_norm_forward>(kCPU, kernels::NormInputs{x, 1024, w}, y, rows2);
  });
  row("batch_norm stats [32, 64, 2048]", mb,
      [&] { run<kernels::batch_norm_stats>(kCPU, planes, 1e-5, per_channel, var, rstd); });
  row("batch_norm [32, 64, 2048]", 2 * mb, [&] {
    run<kernels::batch_norm_forward>(
        kCPU, kernels::BatchNormInputs{planes, per_channel, rstd, var, gb64}, planes_y);
  });
  row("batch_norm gradient [32, 64, 2048]", 5 * mb, [&] {
    run<kernels::batch_norm_backward>(
        kCPU, planes_g, kernels::BatchNormInputs{planes, per_channel, rstd, var, {}, true},
        kernels::NormGradients{planes_y, gw64, gb64});
  });
  row("sgd with momentum", 5 * mb, [&] {
    run<kernels::sgd_step>(kCPU, kernels::SgdStep{.lr = 1e-6, .momentum = 0.9}, c, a, m);
  });
  row("adam", 7 * mb, [&] {
    run<kernels::adam_step>(
        kCPU, kernels::AdamStep{.lr = 1e-6, .weight_decay = 0.01, .decoupled = true, .step = 10}, c,
        a, m, v, abi::TensorOut{});
  });
  row("triad again", 3 * mb, triad);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
