// Long convolutions: fft_conv forward and backward at D = 256, one core unless DROPIN_NUM_THREADS
// says more, against the same convolution from plain FFTs. bench/peers/hyena.py times torch.fft at
// the same sizes.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>

#include "bench/dump.h"
#include "dropin/core/parallel.h"
#include "dropin/ops/fft.h"
#include "dropin/sequence/hyena.h"
#include "dropin/sequence/multihead_attention.h"

namespace {

using namespace dropin;

constexpr int64_t kChannels = 256;

// 5 n log2 n operations per complex transform of length n, one per channel each way, and the
// product.
double flops(int64_t length, double transforms) {
  return static_cast<double>(kChannels * length) *
         (transforms * 5 * std::log2(static_cast<double>(length)) + 6);
}

void add(const std::string& name, int64_t length, double transforms, std::function<void()> f,
         std::function<NamedTensors()> results = {}) {
  benchmark::RegisterBenchmark((name + "/" + std::to_string(length)).c_str(),
                               [=](benchmark::State& state) {
                                 if (dump_file() && results) dump_and_exit(results());
                                 f();  // memory is there, plans are made
                                 for (auto _ : state) f();
                                 state.counters["GFLOP/s"] = benchmark::Counter(
                                     flops(length, transforms) * 1e-9,
                                     benchmark::Counter::kIsIterationInvariantRate);
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(0.2);
}

void convolution_rows(int64_t l) {
  const Tensor u = randn({1, kChannels, l}), k = randn({kChannels, l}), d = randn({kChannels}),
               g = randn({1, kChannels, l});
  const Tensor ul = u.transpose(1, 2).contiguous().transpose(1, 2),
               kl = k.transpose(0, 1).contiguous().transpose(0, 1),
               gl = g.transpose(1, 2).contiguous().transpose(1, 2);
  const Tensor spectrum = fft_conv_spectrum(k, l);
  auto results = [=](bool backward, const FftConvArgs& args = {}) {
    NamedTensors in;
    for (const auto& [name, t] : NamedTensors{{"u", u}, {"k", k}, {"d", d}})
      in.set(name, backward ? t.detach().requires_grad_() : t);
    return with_gradients(in, fft_conv(in.find("u"), in.find("k"), in.find("d"), args),
                          backward ? g : Tensor());
  };
  add(
      "forward, filter kept", l, 2,
      [=] {
        no_grad n;
        fft_conv(u, k, d, {.spectrum = spectrum});
      },
      [=] { return results(false, {.spectrum = spectrum}); });
  add("forward, filter kept, channels last", l, 2, [=] {
    no_grad n;
    fft_conv(ul, kl, d, {.spectrum = spectrum});
  });
  add(
      "forward", l, 3,
      [=] {
        no_grad n;
        fft_conv(u, k, d);
      },
      [=] { return results(false); });
  auto both = [](const Tensor& u, const Tensor& k, const Tensor& d, const Tensor& g, bool keep) {
    Tensor a = u.detach().requires_grad_(), b = k.detach().requires_grad_(),
           c = d.detach().requires_grad_();
    fft_conv(a, b, c, {.keep_spectra = keep}).backward(g);
  };
  add(
      "forward + backward", l, 8, [=] { both(u, k, d, g, false); }, [=] { return results(true); });
  add("forward + backward, spectra kept", l, 6, [=] { both(u, k, d, g, true); });
  add("forward + backward, channels last", l, 8, [=] { both(ul, kl, d, gl, false); });
}

/// A layer's forward pass, or with backward, on x [1, l, d].
void layer_row(const std::string& name, std::shared_ptr<SequenceMixer> module, const Tensor& x,
               bool train) {
  const int64_t l = x.size(1), d = x.size(2);
  benchmark::RegisterBenchmark((name + (train ? " training step, D = " : " forward, D = ") +
                                std::to_string(d) + "/" + std::to_string(l))
                                   .c_str(),
                               [=](benchmark::State& state) {
                                 auto run = [&] {
                                   if (!train) {
                                     no_grad n;
                                     module->forward(x);
                                     return;
                                   }
                                   Tensor in = x.detach().requires_grad_();
                                   sum(module->forward(in)).backward();
                                 };
                                 if (l <= 16384 || name == "HyenaOperator") run();
                                 reset_peak_memory();
                                 const int64_t before = memory_stats().allocated;
                                 for (auto _ : state) run();
                                 state.counters["peak MB"] =
                                     static_cast<double>(memory_stats().peak - before) / 1e6;
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond)
      ->MinTime(0.1);
}

/// D = 64 and 256, one head of 64 per 64 channels, causal, B = 1. Attention is quadratic: its
/// longest sizes take seconds.
void layer_rows(int64_t d, int64_t l) {
  const Tensor x = randn({1, l, d});
  const auto hyena = std::make_shared<HyenaOperator>(
      HyenaOperatorOptions{.d_model = d, .l_max = l, .emb_dim = 33, .w = 14});
  const auto attention = std::make_shared<MultiheadAttention>(
      MultiheadAttentionOptions{.embed_dim = d, .num_heads = d / 64, .causal = true});
  layer_row("HyenaOperator", hyena, x, false);
  layer_row("MultiheadAttention", attention, x, false);
  if (d == 64) {
    layer_row("HyenaOperator", hyena, x, true);
    if (l <= 32768) layer_row("MultiheadAttention", attention, x, true);
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (!std::getenv("DROPIN_NUM_THREADS")) set_num_threads(1);
  for (const int64_t l : {1024, 8192, 65536}) convolution_rows(l);
  for (const int64_t d : {64, 256})
    for (const int64_t l : {64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536})
      layer_rows(d, l);
  benchmark::RunSpecifiedBenchmarks();
}
