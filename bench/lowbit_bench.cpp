// Low precision against what it replaces. Every row runs the subject and its baseline in turn; "x"
// is baseline time over subject time (medians), so noise hits both. Limits stand beside: a copy, or
// a plain loop over the same memory streams. Bytes kept are measured by the allocator.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "dropin/activation/fewbit.h"
#include "dropin/convolution/mx_conv.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"
#include "dropin/projection/mx_linear.h"
#include "dropin/serialize/npy.h"
#include "kernels/elementwise/kernel.h"
#include "kernels/mx/kernel.h"

namespace {

using namespace dropin;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

struct Baseline {
  const char* name;
  std::function<void()> run;
};
struct Subject {
  std::function<void()> run;
  std::vector<Baseline> baselines;
};
/// A row: what `make` gives beside its baselines, interleaved; made when the row runs. bytes: what
/// must move at least.
void row(const std::string& name, double bytes, std::function<Subject()> make) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 const Subject s = make();
                                 std::vector<double> mine;
                                 std::vector<std::vector<double>> others(s.baselines.size());
                                 s.run();
                                 for (const Baseline& b : s.baselines) b.run();
                                 for (auto _ : state) {
                                   for (std::size_t i = 0; i < others.size(); ++i) {
                                     const double t = now();
                                     s.baselines[i].run();
                                     others[i].push_back(now() - t);
                                   }
                                   const double t = now();
                                   s.run();
                                   mine.push_back(now() - t);
                                   state.SetIterationTime(mine.back());
                                 }
                                 const double m = median(mine);
                                 state.counters["median_ms"] = 1e3 * m;
                                 if (bytes > 0) state.counters["GB/s"] = bytes / m / 1e9;
                                 for (std::size_t i = 0; i < others.size(); ++i)
                                   state.counters[std::string("x ") + s.baselines[i].name] =
                                       median(others[i]) / m;
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(25);
}

Tensor normal(const Shape& s, std::uint64_t seed = 1) {
  Generator g(seed);
  return randn(s, kFloat32, &g);
}

// --- microscaling

void mx_rows() {
  const int64_t rows = 4096, n = 4096;
  for (auto [name, format, packed, axis] :
       {std::tuple{"MXFP8_E4M3", kernels::MxFormat::E4M3, false, 1},
        {"MXFP8_E5M2", kernels::MxFormat::E5M2, false, 1},
        {"MXFP6_E3M2 packed", kernels::MxFormat::E3M2, true, 1},
        {"MXFP4_E2M1 packed", kernels::MxFormat::E2M1, true, 1},
        {"MXINT8", kernels::MxFormat::Int8, false, 1},
        {"MXFP8_E4M3 axis 0", kernels::MxFormat::E4M3, false, 0}}) {
    kernels::MxArgs a{format};
    a.packed = packed;
    a.outer = axis ? rows : 1, a.n = axis ? n : rows, a.inner = axis ? 1 : n;
    const int64_t width = format == kernels::MxFormat::E2M1   ? 4
                          : format == kernels::MxFormat::E3M2 ? 6
                                                              : 8;
    row(std::string("quantize_mx ") + name,
        static_cast<double>(rows * n) *
            (4 + (packed ? static_cast<double>(width) / 8 : 1) + 1.0 / 32),
        [=]() -> Subject {
          const Tensor x = normal({rows, n}), y = empty({rows, n}),
                       codes = empty({rows, packed ? n * width / 8 : n}, kUInt8),
                       scales = empty({rows * n / 32}, kUInt8);
          return {[=] {
                    run<kernels::mx_quantize>(kCPU, a, x.in(), abi::TensorIn{}, codes.out(),
                                              scales.out());
                  },
                  {{"copy", [=] { run<kernels::copy>(kCPU, x.in(), y.out()); }}}};
        });
  }
  for (const int axis : {1, 0})
    row("fake_quantize_mx MXFP8_E4M3, axis " + std::to_string(axis),
        8.0 * static_cast<double>(rows * n), [=]() -> Subject {
          kernels::MxArgs a{kernels::MxFormat::E4M3};
          a.outer = axis ? rows : 1, a.n = axis ? n : rows, a.inner = axis ? 1 : n;
          const Tensor x = normal({rows, n}), y = empty({rows, n});
          return {
              [=] { run<kernels::mx_fake_quantize>(kCPU, a, x.in(), abi::TensorIn{}, y.out()); },
              {{"copy", [=] { run<kernels::copy>(kCPU, x.in(), y.out()); }}}};
        });
}

// --- optimizers

constexpr int64_t kParameters = int64_t{1} << 24;
Tensor parameter(std::uint64_t seed, int64_t n = kParameters) {
  Tensor p = normal({n}, seed).clone().requires_grad_();
  p.set_grad(normal({n}, seed + 1));
  return p;
}
template <class Q>
std::function<void()> stepper(const Tensor& p, const typename Q::Options& o) {
  auto q = std::make_shared<Q>(Tensors{p}, o);
  return [q] { q->step(); };
}

void optimizer_rows() {
  row("AdamW8bit, 16M parameters", 16.0 * static_cast<double>(kParameters), []() -> Subject {
    const Tensor p = parameter(1), q = parameter(3), c1 = zeros({kParameters}, kUInt8),
                 c2 = zeros({kParameters}, kUInt8), g = q.grad(), v = q.detach();
    auto streams = [=] {  // p read and written, g read, two bytes read and written
      parallel_for(kParameters, 32768, [&](int64_t begin, int64_t end) {
        float* __restrict a = v.data<float>();
        const float* __restrict b = g.data<float>();
        std::uint8_t* __restrict s = c1.data<std::uint8_t>(), * __restrict t =
                                                                  c2.data<std::uint8_t>();
        for (int64_t from = begin; from < end; from += 256) {
          const int64_t to = std::min(end, from + 256);
          for (int64_t i = from; i < to; ++i) a[i] += 1e-6f * b[i];
          for (int64_t i = from; i < to; ++i) s[i] = static_cast<std::uint8_t>(s[i] + 1);
          for (int64_t i = from; i < to; ++i) t[i] = static_cast<std::uint8_t>(t[i] + 1);
        }
      });
    };
    return {stepper<AdamW8bit>(p, {.lr = 1e-6}),
            {{"its streams", streams}, {"AdamW", stepper<AdamW>(q, {.lr = 1e-6})}}};
  });
  row("SGD8bit, 16M parameters", 14.0 * static_cast<double>(kParameters), []() -> Subject {
    return {stepper<SGD8bit>(parameter(1), {.lr = 1e-6}),
            {{"SGD", stepper<SGD>(parameter(3), {.lr = 1e-6, .momentum = 0.9})}}};
  });
}

// --- BitLinear

template <class L>
std::function<void()> training_step(std::shared_ptr<L> layer, int64_t m, int64_t k, int64_t n) {
  const Tensor x = normal({m, k}).requires_grad_(), g = normal({m, n}, 2);
  return [=] {
    layer->parameters()[0]
        .bump_version();  // as after an optimizer's step: weights are quantized once per step
    (*layer)(x).backward(g);
    x.set_grad({});
    layer->zero_grad();
  };
}

void bitlinear_rows() {
  for (const char* variant : {"b1", "b1.58"}) {
    for (auto [width, m] : {std::pair{1024, 512}, {1024, 2048}, {4096, 512}})
      row(std::string("BitLinear ") + variant + " training step, M = " + std::to_string(m) +
              ", K = N = " + std::to_string(width),
          0, [=]() -> Subject {
            return {
                training_step(std::make_shared<BitLinear>(BitLinearOptions{
                                  .in_features = width, .out_features = width, .variant = variant}),
                              m, width, width),
                {{"Linear", training_step(std::make_shared<Linear>(LinearOptions{
                                              .in_features = width, .out_features = width}),
                                          m, width, width)}}};
          });
    for (const int64_t m : {1, 4, 16, 64, 512})
      row(std::string("BitLinear ") + variant + " packed, M = " + std::to_string(m) +
              ", K = N = 4096",
          static_cast<double>(4096 * 4096 / (variant[2] ? 4 : 8)), [=]() -> Subject {
            auto linear =
                std::make_shared<Linear>(LinearOptions{.in_features = 4096, .out_features = 4096});
            auto bit = std::make_shared<BitLinear>(
                BitLinearOptions{.in_features = 4096, .out_features = 4096, .variant = variant});
            bit->eval();
            bit->pack(true);
            const Tensor x = normal({m, 4096});
            auto with = [x](auto layer) {
              return [=] {
                no_grad guard;
                benchmark::DoNotOptimize((*layer)(x).data_ptr());
              };
            };
            return {with(bit), {{"Linear", with(linear)}}};
          });
  }
}
/// Alone, for bench/peers/lowbit.py: rows above spend most of their time in their baselines.
void alone_rows() {
  auto alone = [](const char* name, std::function<Subject()> make) {
    row(name, 0, std::move(make));
  };
  for (auto [name, format, packed] :
       {std::tuple{"alone/quantize_mx/MXFP8_E4M3", kernels::MxFormat::E4M3, false},
        {"alone/quantize_mx/MXFP4_E2M1", kernels::MxFormat::E2M1, false}})
    alone(name, [=]() -> Subject {
      kernels::MxArgs a{format};
      a.packed = packed, a.outer = 1024, a.n = 4096, a.inner = 1;
      const Tensor x = normal({1024, 4096}), codes = empty({1024, 4096}, kUInt8),
                   scales = empty({1024 * 4096 / 32}, kUInt8);
      return {[=] {
                run<kernels::mx_quantize>(kCPU, a, x.in(), abi::TensorIn{}, codes.out(),
                                          scales.out());
              },
              {}};
    });
  alone("alone/AdamW", []() -> Subject {
    return {stepper<AdamW>(parameter(1), {.lr = 1e-6}), {}};
  });
  alone("alone/AdamW8bit", []() -> Subject {
    return {stepper<AdamW8bit>(parameter(1), {.lr = 1e-6}), {}};
  });
  alone("alone/AdamW8bit/1M", []() -> Subject {
    return {stepper<AdamW8bit>(parameter(1, 1 << 20), {.lr = 1e-6}), {}};
  });
  alone("alone/SGD8bit/1M", []() -> Subject {
    return {stepper<SGD8bit>(parameter(1, 1 << 20), {.lr = 1e-6}), {}};
  });
  for (auto [name, m] :
       {std::pair{"alone/BitLinear packed/1", 1}, {"alone/BitLinear packed/512", 512}})
    alone(name, [m = m]() -> Subject {
      auto bit = std::make_shared<BitLinear>(
          BitLinearOptions{.in_features = 4096, .out_features = 4096, .variant = "b1.58"});
      bit->eval();
      bit->pack(true);
      const Tensor x = normal({m, 4096});
      return {[=] {
                no_grad guard;
                benchmark::DoNotOptimize((*bit)(x).data_ptr());
              },
              {}};
    });
}

// --- few-bit activations

template <class F>
std::function<void()> there_and_back(F f) {
  const Tensor leaf = normal({4096, 1024}).requires_grad_(), g = normal({4096, 1024}, 2);
  return [=] {
    f(leaf).backward(g);
    leaf.set_grad({});
  };
}
template <class Few>
Subject few_against(const char* name, const typename Few::Options& o,
                    Tensor (*standard)(const Tensor&)) {
  auto few = std::make_shared<Few>(o);
  return {there_and_back([few](const Tensor& x) { return (*few)(x); }),
          {{name, there_and_back(standard)}}};
}
void fewbit_rows() {
  for (const int64_t bits : {1, 2, 3, 4})
    row("FewBitGELU " + std::to_string(bits) + " bits, forward and backward", 0, [=] {
      return few_against<FewBitGELU>("GELU", {.bits = bits},
                                     [](const Tensor& x) { return gelu(x); });
    });
  row("FewBitSiLU 3 bits, forward and backward", 0,
      [] { return few_against<FewBitSiLU>("SiLU", {}, silu); });
  row("FewBitTanh 3 bits, forward and backward", 0,
      [] { return few_against<FewBitTanh>("Tanh", {}, tanh); });
  row("FewBitReLU, forward and backward", 0,
      [] { return few_against<FewBitReLU>("ReLU", {}, relu); });
}

// --- bytes

int64_t allocated() { return memory_stats().allocated; }
double tape_of_mlp(
    int bits) {  // 12 blocks of Linear and activation, [512, 1024]: bytes alive for backward
  std::vector<Box<Linear>> layers;
  for (int i = 0; i < 12; ++i)
    layers.emplace_back(new Linear({.in_features = 1024, .out_features = 1024}));
  FewBitGELU few({.bits = bits ? bits : 3});
  const Tensor x = normal({512, 1024});
  const int64_t before = allocated();
  Tensor h = x;
  for (auto& l : layers) h = bits ? few((*l)(h)) : gelu((*l)(h));
  return static_cast<double>(allocated() - before);
}
void bytes() {
  std::printf("bytes kept, measured\n");
  const double standard = tape_of_mlp(0);
  std::printf("  tape of 12 x (Linear 1024, GELU), 512 rows: GELU %.1f MB", standard / 1e6);
  for (int bits : {4, 3, 2, 1}) std::printf(", %d bits %.1f MB", bits, tape_of_mlp(bits) / 1e6);
  std::printf("\n");
  const int64_t n = 10'000'000;
  Tensor p = normal({n}).clone().requires_grad_();
  p.set_grad(normal({n}, 2));
  {
    const int64_t before = allocated();
    AdamW8bit eight({p});
    eight.step();
    std::printf("  AdamW8bit, 10M parameters: %.3f MB by the allocator, %.3f MB by state_bytes()",
                static_cast<double>(allocated() - before) / 1e6,
                static_cast<double>(eight.state_bytes()) / 1e6);
  }
  {
    const int64_t before = allocated();
    AdamW standard_optimizer({p}, {});
    standard_optimizer.step();
    std::printf("; AdamW %.3f MB\n", static_cast<double>(allocated() - before) / 1e6);
  }
  for (const char* variant : {"b1", "b1.58"}) {
    const int64_t before = allocated();
    BitLinear l({.in_features = 4096, .out_features = 4096, .bias = false, .variant = variant});
    l.eval();
    l.pack(true);
    std::printf("  BitLinear %s, 4096 x 4096, packed: %.3f MB (float32: 67.109 MB)\n", variant,
                static_cast<double>(allocated() - before) / 1e6);
  }
  for (const char* format : {"MXFP8_E4M3", "MXFP6_E2M3", "MXFP4_E2M1"}) {
    const int64_t before = allocated();
    MXLinear l({.in_features = 4096, .out_features = 4096, .bias = false, .weight_format = format});
    l.eval();
    l.freeze();
    std::printf("  MXLinear %s, 4096 x 4096, frozen: %.3f MB\n", format,
                static_cast<double>(allocated() - before) / 1e6);
  }
}

/// What bench/peers/lowbit.py compares with the peers' results before any time counts.
void dump(const std::string& folder) {
  auto save = [&](const std::string& name, const Tensor& t) {
    save_npy(folder + "/" + name + ".npy", t.detach());
  };
  const Tensor x = normal({64, 4096});
  save("mx_x", x);
  for (const char* format : {"MXFP8_E4M3", "MXFP4_E2M1"}) {
    const auto [codes, scales] = quantize_mx(x, {.format = format});
    save(std::string(format) + "_codes", codes);
    save(std::string(format) + "_scales", scales);
  }
  const Tensor p = normal({1 << 16}, 5), g = normal({1 << 16}, 6);
  save("p", p);
  save("g", g);
  auto three = [&](const std::string& name, auto make) {
    const Tensor q = p.clone().requires_grad_();
    q.set_grad(g.clone());
    auto optimizer = make(Tensors{q});
    for (int i = 0; i < 3; ++i) optimizer.step();
    save(name, q);
  };
  three("AdamW", [](const Tensors& t) { return AdamW(t, {.lr = 1e-3}); });
  three("AdamW8bit", [](const Tensors& t) { return AdamW8bit(t, {.lr = 1e-3}); });
  three("SGD8bit", [](const Tensors& t) { return SGD8bit(t, {.lr = 1e-3}); });
  manual_seed(1);
  BitLinear bit({.in_features = 256, .out_features = 64, .variant = "b1.58"});
  const Tensor h = normal({32, 256}, 7);
  save("bit_x", h);
  save("bit_weight", bit.weight());
  save("bit_bias", bit.bias());
  bit.eval();
  bit.pack(true);
  no_grad guard;
  save("bit_y", bit(h));
}

}  // namespace

int main(int argc, char** argv) {
  bool json = false;  // nothing else on the output then
  for (int i = 1; i < argc; ++i) json = json || std::string(argv[i]) == "--benchmark_format=json";
  if (argc == 3 && std::string(argv[1]) == "--dump") return dump(argv[2]), 0;
  mx_rows();
  optimizer_rows();
  bitlinear_rows();
  fewbit_rows();
  alone_rows();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  if (!json) bytes();
}
