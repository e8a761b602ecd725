// Whole layers of attention that know places, mix heads, summarise or estimate, each beside the
// MultiheadAttention of its size ("dense ..."). "flops" is the arithmetic of the pattern, peak_MB
// what the tensors took at most. bench/peers/mixers.py gives the same inputs and weights to torch.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>

#include "bench/dump.h"
#include "dropin/core/parallel.h"
#include "dropin/registry/registry.h"
#include "dropin/sequence/contract.h"

namespace {

using namespace dropin;

struct Row {
  std::string name, component, options;
  Shape x;
  double pairs;  // of a query, a key and a head
  int64_t head_width;
};

Box<Module> made(const Row& r, bool train) {
  manual_seed(1);
  Box<Module> m = make(r.component, Json::parse(r.options));
  m->train(train);
  return m;
}

void timed(const Row& r, bool backward) {
  const std::string name = r.name + (backward ? "/forward+backward" : "/forward");
  benchmark::RegisterBenchmark(
      name.c_str(),
      [=](benchmark::State& state) {
        const Box<Module> m = made(r, backward);
        Tensor x = randn(r.x);
        const Tensor g = randn(r.x);
        if (backward) x.requires_grad_();
        auto call = [&] { return m->call({{"x", x}}).find("y"); };
        if (dump_file()) {
          NamedTensors all{{"x", x}};
          for (const auto& [key, p] : m->named_parameters()) all.set(key, p);
          for (const auto& [key, t] : m->state_dict())
            if (!all.find(key).defined()) all.set(key, t);
          dump_and_exit(with_gradients(all, call(), backward ? g : Tensor()));
        }
        auto once = [&] {
          if (!backward) {
            no_grad guard;
            benchmark::DoNotOptimize(call().data_ptr());
            return;
          }
          m->zero_grad();
          x.set_grad({});
          call().backward(g);
        };
        once();
        reset_peak_memory();
        for (auto _ : state) once();
        state.counters["flops"] = benchmark::Counter(
            (backward ? 14.0 : 4.0) * static_cast<double>(r.head_width) * r.pairs,
            benchmark::Counter::kIsIterationInvariantRate);
        state.counters["peak_MB"] = static_cast<double>(memory_stats().peak) / 1e6;
      })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

std::string sized(int64_t width, int64_t heads, const std::string& more) {
  return "{\"embed_dim\": " + std::to_string(width) + ", \"num_heads\": " + std::to_string(heads) +
         (more.empty() ? "" : ", " + more) + "}";
}

/// One token after `at` others.
void step(const Row& r, int64_t at) {
  benchmark::RegisterBenchmark(
      ("step/" + r.name + "/t:" + std::to_string(at)).c_str(),
      [=](benchmark::State& state) {
        no_grad guard;
        const Box<Module> m = made(r, false);
        auto& mixer = dynamic_cast<SequenceMixer&>(*m);
        const Box<SequenceState> s = mixer.init_state(1, at + 1024, {.keep = 1});
        for (int64_t t = 0; t < at; t += 64)
          mixer.step(randn({1, std::min<int64_t>(64, at - t), r.x[2]}), *s);
        const Tensor x = randn({1, 1, r.x[2]});
        for (auto _ : state) benchmark::DoNotOptimize(mixer.step(x, *s).data_ptr());
      })
      ->UseRealTime()
      ->Iterations(200)
      ->Unit(benchmark::kMicrosecond);
}

void steps() {
  const std::pair<const char*, const char*> rows[] = {
      {"MultiheadAttention", ""},
      {"RelativePositionAttention", ""},
      {"DCMHAttention", ""},
      {"CombinerAttention", "\"span\": 128"},
      {"CombinerAttention", "\"variant\": \"logsparse\""},
      {"CombinerAttention", "\"variant\": \"axial_mixture\", \"span\": 128"},
      {"ScatterbrainAttention", "\"sparse\": \"local\""}};
  for (const auto& [name, more] : rows)
    for (const int64_t t : {64, 16384})
      step({std::string(name) + " " + more,
            name,
            sized(256, 4, std::string("\"causal\": true") + (*more ? ", " : "") + more),
            {1, 1, 256},
            0,
            64},
           t);
}

void lookhere() {
  const double all = 12.0 * 4096 * 4096;
  auto row = [&](const std::string& groups, double share) {
    return Row{
        "LookHere " + groups + " 64x64",
        "LookHereAttention",
        sized(768, 12,
              "\"grid\": [64, 64], \"prefix_tokens\": 0, \"head_directions\": \"" + groups + "\""),
        {1, 4096, 768},
        all * share,
        64};
  };
  timed(row("eighths1-eighths2-none", 0.419), true);
  timed(row("eighths1", 0.129), true);
  timed({"dense of LookHere", "MultiheadAttention", sized(768, 12, ""), {1, 4096, 768}, all, 64},
        true);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(get_num_threads()));
  lookhere();
  steps();
  const double relative = 8.0 * 1024 * 1024;
  for (const char* method : {"m4", "shaw"})
    timed({std::string("relative ") + method + " L:1024",
           "RelativePositionAttention",
           sized(64, 1, std::string("\"max_position\": 1024, \"method\": \"") + method + "\""),
           {8, 1024, 64},
           relative,
           64},
          true);
  timed({"dense of relative", "MultiheadAttention", sized(64, 1, ""), {8, 1024, 64}, relative, 64},
        true);
  for (const bool backward : {false, true})
    timed({"all to first F:14 N:1024",
           "AllToFirstAttention",
           sized(320, 5, ""),
           {1, 14, 1024, 320},
           5.0 * 14 * 1024 * 1024,
           64},
          backward);
  const double causal = 16.0 * 2048 * 2049 / 2;
  timed({"DCMHA H:16 L:2048", "DCMHAttention", sized(1024, 16, ""), {1, 2048, 1024}, causal, 64},
        true);
  timed({"dense of DCMHA",
         "MultiheadAttention",
         sized(1024, 16, "\"causal\": true, \"bias\": false"),
         {1, 2048, 1024},
         causal,
         64},
        true);
  const double dense = 8.0 * 4096 * 4096;
  timed({"Combiner fixed L:4096",
         "CombinerAttention",
         sized(64, 1, "\"causal\": true"),
         {8, 4096, 64},
         8.0 * 4096 * 64,
         64},
        true);
  for (const char* sparse : {"local", "lsh"})
    timed({std::string("Scatterbrain ") + sparse + " L:4096",
           "ScatterbrainAttention",
           sized(64, 1, std::string("\"seed\": 1, \"sparse\": \"") + sparse + "\""),
           {8, 4096, 64},
           8.0 * 4096 * 64,
           64},
          true);
  timed({"dense of Combiner",
         "MultiheadAttention",
         sized(64, 1, "\"causal\": true"),
         {8, 4096, 64},
         dense / 2,
         64},
        true);
  benchmark::RunSpecifiedBenchmarks();
}
