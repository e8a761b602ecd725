// Scans and long filters: ssd_scan alone, then whole layers, each beside the attention or the GRU
// of its size ("dense ...", "GRU ..."). "flops" is the arithmetic of the scan in chunks of 64 (or
// of the pattern), to set beside the machine's peak, which bench_gemm prints. bench/peers/scans.py
// gives the same inputs and weights to torch.
#include <benchmark/benchmark.h>

#include <memory>
#include <string>

#include "bench/dump.h"
#include "dropin/core/parallel.h"
#include "dropin/ops/ssd_scan.h"
#include "dropin/registry/registry.h"

namespace {

using namespace dropin;

void register_row(const std::string& name, double flops, bool backward, auto make) {
  benchmark::RegisterBenchmark(
      (name + (backward ? "/forward+backward" : "/forward")).c_str(),
      [=](benchmark::State& state) {
        manual_seed(1);
        auto [inputs, call] = make();
        const Tensor g = randn(call(inputs).sizes());
        for (const auto& [key, t] : inputs) Tensor(t).requires_grad_(backward);
        if (dump_file())
          dump_and_exit(with_gradients(inputs, call(inputs), backward ? g : Tensor()));
        auto once = [&] {
          if (!backward) {
            no_grad guard;
            benchmark::DoNotOptimize(call(inputs).data_ptr());
            return;
          }
          for (const auto& [key, t] : inputs) Tensor(t).set_grad({});
          call(inputs).backward(g);
        };
        once();
        for (auto _ : state) once();
        state.counters["flops"] = benchmark::Counter((backward ? 3.5 : 1.0) * flops,
                                                     benchmark::Counter::kIsIterationInvariantRate);
      })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

// Of H heads with P channels and N numbers of state, in chunks of Q = 64: the lower triangle twice,
// and two products with the state.
double scan_flops(double tokens, double heads, double p, double n) {
  return tokens * heads * (64 * (n + p) + 4 * n * p);
}

void scan(int64_t length, bool backward) {
  constexpr int64_t kHeads = 8, kP = 64, kN = 64;
  register_row(
      "ssd_scan L:" + std::to_string(length), scan_flops(double(length), kHeads, kP, kN), backward,
      [=] {
        NamedTensors in{{"x", randn({1, length, kHeads, kP})},
                        {"dt", softplus(randn({1, length, kHeads}) - 3.0)},
                        {"A", -exp(rand({kHeads}))},
                        {"B", randn({1, length, 1, kN})},
                        {"C", randn({1, length, 1, kN})},
                        {"D", ones({kHeads})}};
        auto call = [](const NamedTensors& t) {
          SsdScanArgs args;
          args.D = t.find("D");
          return ssd_scan(t.find("x"), t.find("dt"), t.find("A"), t.find("B"), t.find("C"), args).y;
        };
        return std::pair(in, call);
      });
}

void layer(const std::string& name, const std::string& component, const std::string& options,
           const Shape& x, double flops, bool backward) {
  register_row(name, flops, backward, [=] {
    auto m = std::make_shared<Box<Module>>(make(component, Json::parse(options)));
    NamedTensors in{{"x", randn(x)}};
    for (const auto& [key, p] : (*m)->named_parameters()) in.set(key, p);
    auto call = [m](const NamedTensors& t) { return (*m)->call({{"x", t.find("x")}}).find("y"); };
    return std::pair(in, call);
  });
}

void layers() {
  for (const int64_t length : {1024, 4096, 16384}) {
    const std::string at = " L:" + std::to_string(length);
    const Shape x{1, length, 256};
    const double l = double(length);
    const double scans = scan_flops(l, 8, 64, 64);
    layer("Mamba2" + at, "Mamba2Mixer", R"({"d_model": 256, "d_state": 64})", x, scans, true);
    layer("Hydra" + at, "HydraMixer", R"({"d_model": 256})", x, 2 * scans, true);
    layer("dense" + at, "MultiheadAttention", R"({"embed_dim": 256, "num_heads": 4})", x,
          4 * l * l * 256, true);
  }
  for (const int64_t length : {1024, 8192})
    for (const char* variant : {"she", "he", "we", "me"})
      layer(std::string(variant) + " L:" + std::to_string(length), "Extractor",
            "{\"embed_dim\": 256, \"variant\": \"" + std::string(variant) +
                "\", \"max_len\": " + std::to_string(length) + "}",
            {1, length, 256}, 0, true);
  layer("dense L:8192", "MultiheadAttention",
        R"({"embed_dim": 256, "num_heads": 4, "causal": true})", {1, 8192, 256},
        2 * 8192.0 * 8192 * 256, true);
  layer("FFM T:1024", "FastForgetfulMemory",
        R"({"input_size": 128, "memory_size": 32, "context_size": 4, "output_size": 128})",
        {8, 1024, 128}, 0, true);
  layer("GRU T:1024", "GRU", R"({"input_size": 128, "hidden_size": 256})", {8, 1024, 128}, 0, true);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(get_num_threads()));
  for (const bool backward : {false, true}) scan(4096, backward);
  layers();
  benchmark::RunSpecifiedBenchmarks();
}
