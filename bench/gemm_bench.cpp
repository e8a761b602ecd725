// Products and convolutions beside direct oneDNN calls of the same shapes. The context lines give
// the machine's multiply-add peak, measured in the same run; "peak" is the share of it (all
// threads). Best with --benchmark_enable_random_interleaving=true --benchmark_repetitions=5.
#include <benchmark/benchmark.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "kernels/conv/kernel.h"
#include "kernels/gemm/kernel.h"

namespace {

using namespace dropin;

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Multiply-adds on registers only, one thread, in flops a second.
#if defined(__x86_64__)
#define DROPIN_PEAK(NAME, TARGET, LANES)                                                       \
  __attribute__((target(TARGET), noinline)) double NAME() {                                    \
    typedef float V __attribute__((vector_size(LANES * 4)));                                   \
    V m = V{} + 0.999f, c = V{} + 1e-3f, a0{}, a1{}, a2{}, a3{}, a4{}, a5{}, a6{}, a7{}, a8{}, \
      a9{};                                                                                    \
    double best = 1e9;                                                                         \
    constexpr int kLoops = 1 << 20;                                                            \
    for (int r = 0; r < 8; ++r) {                                                              \
      const double t0 = seconds();                                                             \
      for (int i = 0; i < kLoops; ++i) {                                                       \
        a0 = a0 * m + c, a1 = a1 * m + c, a2 = a2 * m + c, a3 = a3 * m + c, a4 = a4 * m + c;   \
        a5 = a5 * m + c, a6 = a6 * m + c, a7 = a7 * m + c, a8 = a8 * m + c, a9 = a9 * m + c;   \
        asm volatile(""                                                                        \
                     : "+v"(a0), "+v"(a1), "+v"(a2), "+v"(a3), "+v"(a4), "+v"(a5), "+v"(a6),   \
                       "+v"(a7), "+v"(a8), "+v"(a9));                                          \
      }                                                                                        \
      best = std::min(best, seconds() - t0);                                                   \
    }                                                                                          \
    return kLoops * 10.0 * 2 * LANES / best;                                                   \
  }
DROPIN_PEAK(peak512, "avx512f", 16)
DROPIN_PEAK(peak256, "avx2,fma", 8)
double measure_peak() {
  return __builtin_cpu_supports("avx512f") ? peak512()
         : __builtin_cpu_supports("fma")   ? peak256()
                                           : 0;
}
#else
double measure_peak() { return 0; }
#endif

double peak() {
  static const double p = measure_peak();
  return p;
}

/// Bytes a second that all threads together read from an array far larger than the caches.
double read_bandwidth() {
  std::vector<float> v(std::size_t{1} << 26, 1.0f);
  double best = 1e9;
  for (int r = 0; r < 4; ++r) {
    const double t0 = seconds();
    parallel_for(static_cast<int64_t>(v.size()), 1 << 20, [&](int64_t b, int64_t e) {
      float s[64] = {};
      for (; b + 64 <= e; b += 64)
        for (int k = 0; k < 64; ++k) s[k] += v[b + k];
      benchmark::DoNotOptimize(s);
    });
    best = std::min(best, seconds() - t0);
  }
  return static_cast<double>(v.size()) * 4 / best;
}

void report(benchmark::State& state, double flops, double bytes = 0) {
  const double n = static_cast<double>(state.iterations());
  state.counters["GF/s"] = benchmark::Counter(flops * n / 1e9, benchmark::Counter::kIsRate);
  if (peak() > 0)
    state.counters["peak"] =
        benchmark::Counter(flops * n / peak() / get_num_threads(), benchmark::Counter::kIsRate);
  if (bytes > 0)
    state.counters["GB/s"] = benchmark::Counter(bytes * n / 1e9, benchmark::Counter::kIsRate);
}

struct Array {
  std::vector<float> data;
  abi::TensorOut t;
  Array(std::vector<int64_t> sizes, std::vector<int64_t> strides = {}) {
    int64_t n = 1;
    for (auto s : sizes) n *= s;
    data.assign(static_cast<std::size_t>(n), 0.5f);
    t.ndim = static_cast<int>(sizes.size());
    t.data = data.data();
    int64_t dense = 1;
    for (int i = t.ndim - 1; i >= 0; --i) {
      t.sizes[i] = sizes[i];
      t.strides[i] = strides.empty() ? dense : strides[i];
      dense *= sizes[i];
    }
  }
};

struct Product {
  const char* name;
  int64_t T, M, N, K;
  bool ta, tb;
};
const Product kShapes[] = {{"square 1024", 1, 1024, 1024, 1024, false, false},
                           {"square 1024 NT", 1, 1024, 1024, 1024, false, true},
                           {"square 256 NT", 1, 256, 256, 256, false, true},
                           {"weight gradient 512x512, 4096 rows", 1, 512, 512, 4096, true, false},
                           {"small result 64x64, sum of 65536", 1, 64, 64, 65536, true, false},
                           {"attention scores T32 64x64x64", 32, 64, 64, 64, false, true},
                           {"attention scores T32 256x256x64", 32, 256, 256, 64, false, true},
                           {"attention values T32 256x64x256", 32, 256, 64, 256, false, false},
                           {"attention step T32 1x256x64", 32, 1, 256, 64, false, true}};

void ours_matmul(benchmark::State& state, const Product& s) {
  Array a({s.T, s.M, s.K}, s.ta ? std::vector<int64_t>{s.M * s.K, 1, s.M} : std::vector<int64_t>{});
  Array b({s.T, s.K, s.N}, s.tb ? std::vector<int64_t>{s.K * s.N, 1, s.K} : std::vector<int64_t>{});
  Array c({s.T, s.M, s.N});
  for (auto _ : state) run<kernels::matmul>(kCPU, a.t, b.t, 0.0, c.t);
  report(state, 2.0 * s.T * s.M * s.N * s.K);
}

void raw_matmul(benchmark::State& state, const Product& s) {
  Array a({s.T, s.M, s.K}), b({s.T, s.K, s.N}), c({s.T, s.M, s.N});
  for (auto _ : state)
    for (int64_t t = 0; t < s.T; ++t)
      dnnl_sgemm(s.ta ? 'T' : 'N', s.tb ? 'T' : 'N', s.M, s.N, s.K, 1,
                 a.data.data() + t * s.M * s.K, s.ta ? s.M : s.K, b.data.data() + t * s.K * s.N,
                 s.tb ? s.K : s.N, 0, c.data.data() + t * s.M * s.N, s.N);
  report(state, 2.0 * s.T * s.M * s.N * s.K);
}

void ours_linear(benchmark::State& state, int64_t m, int64_t n, int64_t k) {
  Array x({m, k}), w({n, k}), bias({n}), y({m, n});
  for (auto _ : state) run<kernels::linear_forward>(kCPU, x.t, w.t, bias.t, y.t);
  report(state, 2.0 * m * n * k, 4.0 * n * k);
}

void raw_linear(benchmark::State& state, int64_t m, int64_t n, int64_t k) {
  Array x({m, k}), w({n, k}), y({m, n});
  for (auto _ : state)
    dnnl_sgemm('N', 'T', m, n, k, 1, x.data.data(), k, w.data.data(), k, 0, y.data.data(), n);
  report(state, 2.0 * m * n * k, 4.0 * n * k);
}

struct Conv {
  const char* name;
  int64_t b, c, o, size, k, groups, stride;
};
const Conv kConvs[] = {{"3x3 64-64 56x56 B8", 8, 64, 64, 56, 3, 1, 1},
                       {"3x3 64-64 56x56 B1", 1, 64, 64, 56, 3, 1, 1},
                       {"3x3 512-512 7x7 B8", 8, 512, 512, 7, 3, 1, 1},
                       {"1x1 256-64 56x56 B8", 8, 256, 64, 56, 1, 1, 1},
                       {"7x7 s2 3-64 224x224 B4", 4, 3, 64, 224, 7, 1, 2},
                       {"depthwise 3x3 96 56x56 B8", 8, 96, 96, 56, 3, 96, 1},
                       {"depthwise 5x5 96 56x56 B8", 8, 96, 96, 56, 5, 96, 1}};

void conv(benchmark::State& state, const Conv& v, int pass) {
  kernels::ConvGeometry g;
  g.groups = v.groups;
  for (int i = 0; i < 2; ++i) g.stride[i] = v.stride, g.pad_begin[i] = g.pad_end[i] = v.k / 2;
  const int64_t out = (v.size + 2 * (v.k / 2) - v.k) / v.stride + 1;
  Array x({v.b, v.c, v.size, v.size}), w({v.o, v.c / v.groups, v.k, v.k}), bias({v.o}),
      y({v.b, v.o, out, out});
  for (auto _ : state) {
    if (pass == 0)
      run<kernels::conv2d_forward>(kCPU, x.t, w.t, bias.t, g, y.t);
    else if (pass == 1)
      run<kernels::conv2d_backward_input>(kCPU, y.t, w.t, g, x.t);
    else
      run<kernels::conv2d_backward_weight>(kCPU, y.t, x.t, g, w.t, bias.t);
  }
  report(state, 2.0 * v.b * v.o * (v.c / v.groups) * v.k * v.k * out * out);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("multiply-add peak of a thread",
                              std::to_string(peak() / 1e9) + " GF/s");
  benchmark::AddCustomContext("read bandwidth of all threads",
                              std::to_string(read_bandwidth() / 1e9) + " GB/s");
  benchmark::AddCustomContext("threads", std::to_string(get_num_threads()));
  auto add = [](const std::string& name, auto f) {
    benchmark::RegisterBenchmark(name.c_str(), f)->UseRealTime()->Unit(benchmark::kMicrosecond);
  };
  for (const Product& s : kShapes) {
    add(std::string("matmul/") + s.name + "/ours",
        [&s](benchmark::State& st) { ours_matmul(st, s); });
    add(std::string("matmul/") + s.name + "/dnnl_sgemm",
        [&s](benchmark::State& st) { raw_matmul(st, s); });
  }
  const int64_t rows[] = {1, 2, 4, 8, 16, 32, 64, 512};
  for (const int64_t size : {512, 4096})
    for (const int64_t m : rows) {
      const std::string name = "linear/" + std::to_string(m) + " rows " + std::to_string(size) +
                               "x" + std::to_string(size);
      add(name + "/ours", [=](benchmark::State& st) { ours_linear(st, m, size, size); });
      add(name + "/dnnl_sgemm", [=](benchmark::State& st) { raw_linear(st, m, size, size); });
    }
  for (const Conv& v : kConvs)
    for (int pass = 0; pass < 3; ++pass)
      add(std::string("conv/") + v.name +
              (pass == 0   ? "/forward"
               : pass == 1 ? "/backward_input"
                           : "/backward_weight"),
          [&v, pass](benchmark::State& st) { conv(st, v, pass); });
  benchmark::RunSpecifiedBenchmarks();
}
