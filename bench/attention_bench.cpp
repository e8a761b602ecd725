// Attention: every member's core on heads, forward and forward with backward, with the rate of
// matrix products measured in the same run as the limit. Names end in the length; "flops" is the
// arithmetic of the pattern (4 Dh per pair forward, 14 Dh with backward), peak_MB what the tensors
// took at most.
#include <benchmark/benchmark.h>

#include <cmath>
#include <string>

#include "bench/dump.h"
#include "dropin/core/parallel.h"
#include "dropin/ops/latent.h"
#include "dropin/sequence/dilated_attention.h"
#include "dropin/sequence/latent_attention.h"
#include "dropin/sequence/longformer_attention.h"
#include "dropin/sequence/multihead_attention.h"
#include "dropin/sequence/sigmoid_attention.h"

namespace {

using namespace dropin;
constexpr int64_t kHeads = 8, kWidth = 64;

Tensor heads(int64_t length, int64_t h = kHeads, int64_t d = kWidth, bool grad = false) {
  Tensor t = split_heads(randn({1, length, h * d}), h);
  return grad ? t.detach().requires_grad_() : t;
}

/// f(q, k, v) -> output, timed forward, and forward with backward.
template <class F>
void row(const std::string& name, int64_t length, double pairs, F f) {
  for (const bool backward : {false, true})
    benchmark::RegisterBenchmark(
        (name + (backward ? "/forward+backward/L:" : "/forward/L:") + std::to_string(length))
            .c_str(),
        [=](benchmark::State& state) {
          manual_seed(1);
          const Tensor q = heads(length, kHeads, kWidth, backward),
                       k = heads(length, kHeads, kWidth, backward),
                       v = heads(length, kHeads, kWidth, backward);
          const Tensor g = heads(length);
          if (dump_file())
            dump_and_exit(with_gradients({{"q", q}, {"k", k}, {"v", v}}, f(q, k, v),
                                         backward ? g : Tensor()));
          auto once = [&] {
            const Tensor y = f(q, k, v);
            if (!backward) return;
            for (const Tensor* t : {&q, &k, &v}) t->set_grad({});
            y.backward(g);
          };
          once();
          reset_peak_memory();
          for (auto _ : state) once();
          state.counters["flops"] =
              benchmark::Counter((backward ? 14.0 : 4.0) * kWidth * kHeads * pairs,
                                 benchmark::Counter::kIsIterationInvariantRate);
          state.counters["peak_MB"] = static_cast<double>(memory_stats().peak) / 1e6;
        })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

void matrix_product(
    benchmark::State& state) {  // the rate that attention's two products are held against
  no_grad guard;
  const Tensor a = randn({1024, 1024}), b = randn({1024, 1024});
  for (auto _ : state) benchmark::DoNotOptimize(matmul(a, b).data_ptr());
  state.counters["flops"] =
      benchmark::Counter(2.0 * 1024 * 1024 * 1024, benchmark::Counter::kIsIterationInvariantRate);
}

void decode(const std::string& name, int64_t at, const Json& options) {
  benchmark::RegisterBenchmark(
      ("step/" + name + "/t:" + std::to_string(at)).c_str(),
      [=](benchmark::State& state) {
        no_grad guard;
        manual_seed(1);
        Box<SequenceMixer> m(
            name == "LatentAttention"
                ? static_cast<SequenceMixer*>(
                      new LatentAttention(options_from_json<LatentAttentionOptions>(options, name)))
                : new MultiheadAttention(
                      options_from_json<MultiheadAttentionOptions>(options, name)));
        m->eval();
        Box<SequenceState> s = m->init_state(1, at + (int64_t{1} << 20) / 16);
        for (int64_t t = 0; t < at; t += 64)
          m->step(randn({1, std::min<int64_t>(64, at - t), 256}), *s);
        const Tensor x = randn({1, 1, 256});
        for (auto _ : state) benchmark::DoNotOptimize(m->step(x, *s).data_ptr());
      })
      ->UseRealTime()
      ->Iterations(200)
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(get_num_threads()));
  benchmark::RegisterBenchmark("matmul 1024^3", matrix_product)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
  for (const int64_t l : {64, 1024, 4096, 8192, 16384}) {
    const double n = static_cast<double>(l);
    row("dense", l, n * n, [](auto& q, auto& k, auto& v) { return attention(q, k, v); });
    row("causal", l, n * (n + 1) / 2,
        [](auto& q, auto& k, auto& v) { return attention(q, k, v, {.causal = true}); });
    row("sigmoid", l, n * n, [n](auto& q, auto& k, auto& v) {
      return attention(q, k, v, {.sigmoid_bias = -std::log(n)});
    });
  }
  for (const int64_t l : {1024, 4096, 16384, 65536}) {
    const double n = static_cast<double>(l);
    for (const int64_t w : {64, 128, 256, 512}) {
      if (w != 256 && l != 4096) continue;
      row("window w:" + std::to_string(w), l, n * static_cast<double>(2 * w + 1),
          [w](auto& q, auto& k, auto& v) {
            return attention(q, k, v, {.window_left = w, .window_right = w});
          });
    }
    std::vector<AttentionParams> patterns;
    double pairs = 0;
    for (const auto& [w, r] :
         {std::pair<int64_t, int64_t>{256, 1}, {512, 2}, {1024, 4}, {2048, 8}}) {
      AttentionParams p{.segment = w};
      for (int64_t j = 0; j < kHeads; ++j)
        p.step.push_back(r), p.first.push_back(j / ((kHeads + r - 1) / r));
      patterns.push_back(p);
      pairs += n * static_cast<double>(std::min(w, l)) / static_cast<double>(r * r);
    }
    row("dilated", l, pairs, [patterns](auto& q, auto& k, auto& v) {
      return attention_mixture(q, k, v, patterns, false).o;
    });
    row("latent", l, n * kWidth * 2 / 2,
        [](auto& q, auto& k, auto& v) { return latent_attention(softmax(q, -1), k, v, false); });
    row("latent causal", l, n * kWidth * 2,
        [](auto& q, auto& k, auto& v) { return latent_attention(softmax(q, -1), k, v, true); });
  }
  for (const int64_t t : {64, 16384}) {
    decode("MultiheadAttention", t,
           Json::parse(R"({"embed_dim": 256, "num_heads": 4, "causal": true})"));
    decode("LatentAttention", t,
           Json::parse(R"({"embed_dim": 256, "num_heads": 4, "causal": true})"));
  }
  benchmark::RunSpecifiedBenchmarks();
}
