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

constexpr double mb = 4.0 * kN;

/// The arrays that the rows share.
struct Arrays {
  Buffer a{Sizes{kN}}, b{Sizes{kN}}, c{Sizes{kN}}, m{Sizes{kN}}, v{Sizes{kN}}, small{Sizes{16}},
      small2{Sizes{16}}, small_out{Sizes{16}};
  Buffer x{Sizes{4096, 1024}}, y{Sizes{4096, 1024}}, g{Sizes{4096, 1024}}, w{Sizes{1024}},
      bias{Sizes{1024}}, rows{Sizes{4096}}, rows2{Sizes{4096}}, rows3{Sizes{4096}}, gw{Sizes{1024}},
      gb{Sizes{1024}};
  Buffer planes{Sizes{32, 64, 2048}}, planes_y{Sizes{32, 64, 2048}}, planes_g{Sizes{32, 64, 2048}},
      per_channel{Sizes{64}}, rstd{Sizes{64}}, var{Sizes{64}}, gw64{Sizes{64}}, gb64{Sizes{64}};
  Buffer half{Sizes{kN}, kBFloat16}, half16{Sizes{kN}, kFloat16}, wide{Sizes{kN / 2}, kFloat64},
      narrow{Sizes{kN / 2}}, mask{Sizes{kN}, kBool}, target{Sizes{4096}, kInt64};
  Buffer column{Sizes{1024, 4096}}, one{Sizes{1}}, per_row{Sizes{4096, 1}},
      per_column{Sizes{1, 1024}}, index{Sizes{4096, 1}, kInt64};
};

void triad(Arrays& d) {
  parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
    const float *p = d.a.view.as<float>(), *q = d.b.view.as<float>();
    float* r = d.c.view.as<float>();
    for (int64_t i = begin; i < end; ++i) r[i] = p[i] + 3.0f * q[i];
  });
}

void baseline_rows(Arrays& d) {
  // Plain loops with the streams of the other rows: 16 to 64 MiB sit differently in the last-level
  // cache, and a store to a line that was not read costs a read that the bytes above do not count,
  // so a row is to be held against the loop that touches memory as it does.
  row("baseline: read", mb, [&] {
    parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
      const float* p = d.a.view.as<float>();
      float s[64] = {};
      for (int64_t i = begin; i + 64 <= end; i += 64)
        for (int k = 0; k < 64; ++k) s[k] += p[i + k];
      benchmark::DoNotOptimize(s);
    });
  });
  row("baseline: read, write", 2 * mb, [&] {
    parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
      const float* p = d.a.view.as<float>();
      float* r = d.c.view.as<float>();
      for (int64_t i = begin; i < end; ++i) r[i] = 3.0f * p[i];
    });
  });
  row("baseline: the streams of adam", 7 * mb, [&] {
    parallel_for(kN, 32768, [&](int64_t begin, int64_t end) {
      const float* q = d.a.view.as<float>();
      float *__restrict p = d.c.view.as<float>(), *__restrict u = d.m.view.as<float>(), *__restrict w2 = d.v.view.as<float>();
      for (int64_t i = begin; i < end; ++i) u[i] += q[i], w2[i] += q[i], p[i] += 1e-6f * q[i];
    });
  });
}

void elementwise_rows(Arrays& d) {
  row("add", 3 * mb, [&] { run<kernels::binary>(kCPU, kernels::Binary::Add, d.a, d.b, d.c); });
  row("add 16 elements", 3 * 64,
      [&] { run<kernels::binary>(kCPU, kernels::Binary::Add, d.small, d.small2, d.small_out); });
  row("add row [4096, 1024] + [1024]", 2 * mb, [&] {
    run<kernels::binary>(kCPU, kernels::Binary::Add, d.x, d.bias.expanded({4096, 1024}), d.y);
  });
  row("lt", 9.0 * kN, [&] { run<kernels::binary>(kCPU, kernels::Binary::Lt, d.a, d.b, d.mask); });
  row("pow", 3 * mb, [&] { run<kernels::binary>(kCPU, kernels::Binary::Pow, d.a, d.b, d.c); });
  const std::pair<const char*, kernels::Unary> unaries[] = {
      {"relu", kernels::Unary::Relu},       {"exp", kernels::Unary::Exp},
      {"log", kernels::Unary::Log},         {"tanh", kernels::Unary::Tanh},
      {"sigmoid", kernels::Unary::Sigmoid}, {"silu", kernels::Unary::Silu},
      {"gelu", kernels::Unary::Gelu},       {"gelu_tanh", kernels::Unary::GeluTanh},
      {"erf", kernels::Unary::Erf},         {"sin", kernels::Unary::Sin},
      {"sqrt", kernels::Unary::Sqrt}};
  for (auto [name, op] : unaries)
    row(name, 2 * mb, [&, op = op] { run<kernels::unary>(kCPU, op, d.a, d.c); });
  row("gelu gradient", 3 * mb,
      [&] { run<kernels::unary_grad>(kCPU, kernels::UnaryGrad::Gelu, d.a, d.b, d.c); });
  row("relu bf16", 4.0 * kN,
      [&] { run<kernels::unary>(kCPU, kernels::Unary::Relu, d.half, d.half); });
  row("axpy", 3 * mb, [&] { run<kernels::axpy>(kCPU, 1.0, d.a, d.c); });
  row("fill", mb, [&] { run<kernels::fill>(kCPU, 1.0, d.c); });
  row("copy", 2 * mb, [&] { run<kernels::copy>(kCPU, d.a, d.c); });
  row("copy transposed [4096, 1024]", 2 * mb,
      [&] { run<kernels::copy>(kCPU, d.x.transposed(), d.column); });
  row("copy f32 to bf16", 6.0 * kN, [&] { run<kernels::copy>(kCPU, d.a, d.half); });
  row("copy f16 to f32", 6.0 * kN, [&] { run<kernels::copy>(kCPU, d.half16, d.c); });
  row("copy f64 to f32", 6.0 * kN, [&] { run<kernels::copy>(kCPU, d.wide, d.narrow); });
  row("where", 13.0 * kN, [&] { run<kernels::where>(kCPU, d.mask, d.a, d.b, d.c); });
}

void reduction_rows(Arrays& d) {
  row("sum", mb, [&] { run<kernels::reduce>(kCPU, kernels::Reduce::Sum, d.a, 1u, d.one); });
  row("max", mb, [&] { run<kernels::reduce>(kCPU, kernels::Reduce::Max, d.a, 1u, d.one); });
  row("sum rows [4096, 1024]", mb,
      [&] { run<kernels::reduce>(kCPU, kernels::Reduce::Sum, d.x, 2u, d.per_row); });
  row("sum columns [4096, 1024]", mb,
      [&] { run<kernels::reduce>(kCPU, kernels::Reduce::Sum, d.x, 1u, d.per_column); });
  row("argmax rows [4096, 1024]", mb,
      [&] { run<kernels::arg_reduce>(kCPU, true, d.x, 1, d.index); });
  row("cumsum rows [4096, 1024]", 2 * mb,
      [&] { run<kernels::scan>(kCPU, kernels::Scan::CumSum, d.x, 1, false, d.y); });
}

void norm_rows(Arrays& d) {
  row("softmax [4096, 1024]", 2 * mb,
      [&] { run<kernels::softmax_forward>(kCPU, d.x, false, d.y); });
  row("softmax gradient [4096, 1024]", 3 * mb,
      [&] { run<kernels::softmax_backward>(kCPU, d.g, d.x, false, d.y); });
  row("cross_entropy [4096, 1024]", mb, [&] {
    run<kernels::cross_entropy_forward>(kCPU, kernels::CrossEntropyInputs{d.x, d.target}, d.rows,
                                        d.rows2);
  });
  row("cross_entropy gradient [4096, 1024]", 2 * mb, [&] {
    run<kernels::cross_entropy_backward>(kCPU, d.rows3, kernels::CrossEntropyInputs{d.x, d.target},
                                         d.rows2, d.y);
  });
  row("layer_norm [4096, 1024]", 2 * mb, [&] {
    run<kernels::layer_norm_forward>(kCPU, kernels::NormInputs{d.x, 1024, d.w, d.bias}, d.y, d.rows,
                                     d.rows2);
  });
  row("layer_norm gradient [4096, 1024]", 3 * mb, [&] {
    run<kernels::layer_norm_backward>(kCPU, d.g, kernels::NormInputs{d.x, 1024, d.w}, d.rows,
                                      d.rows2, kernels::NormGradients{d.y, d.gw, d.gb});
  });
  row("rms_norm [4096, 1024]", 2 * mb, [&] {
    run<kernels::rms_norm_forward>(kCPU, kernels::NormInputs{d.x, 1024, d.w}, d.y, d.rows2);
  });
  row("batch_norm stats [32, 64, 2048]", mb,
      [&] { run<kernels::batch_norm_stats>(kCPU, d.planes, 1e-5, d.per_channel, d.var, d.rstd); });
  row("batch_norm [32, 64, 2048]", 2 * mb, [&] {
    run<kernels::batch_norm_forward>(
        kCPU, kernels::BatchNormInputs{d.planes, d.per_channel, d.rstd, d.var, d.gb64}, d.planes_y);
  });
  row("batch_norm gradient [32, 64, 2048]", 5 * mb, [&] {
    run<kernels::batch_norm_backward>(
        kCPU, d.planes_g,
        kernels::BatchNormInputs{d.planes, d.per_channel, d.rstd, d.var, {}, true},
        kernels::NormGradients{d.planes_y, d.gw64, d.gb64});
  });
}

void optimizer_rows(Arrays& d) {
  row("sgd with momentum", 5 * mb, [&] {
    run<kernels::sgd_step>(kCPU, kernels::SgdStep{.lr = 1e-6, .momentum = 0.9}, d.c, d.a, d.m);
  });
  row("adam", 7 * mb, [&] {
    run<kernels::adam_step>(
        kCPU, kernels::AdamStep{.lr = 1e-6, .weight_decay = 0.01, .decoupled = true, .step = 10},
        d.c, d.a, d.m, d.v, abi::TensorOut{});
  });
}

}  // namespace

int main(int argc, char** argv) {
  Arrays d;
  row("triad", 3 * mb, [&] { triad(d); });
  baseline_rows(d);
  elementwise_rows(d);
  reduction_rows(d);
  norm_rows(d);
  optimizer_rows(d);
  row("triad again", 3 * mb, [&] { triad(d); });
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
