// Search among stored vectors, cosine, k = 10; bench/peers/search.py times faiss and usearch in
// turn with it. Counters: what the stored vectors' bytes and the multiply-adds come to per second;
// one query is bound by the first, 64 by the second (bench_gemm prints the machine's peak).
// Arguments: storage/backend, N, E, Q.
#include <benchmark/benchmark.h>

#include <map>
#include <memory>
#include <string>

#include "dropin/retrieval/vector_index.h"

namespace {

using namespace dropin;

VectorSearchIndex& index_of(const std::string& storage, const std::string& backend, int64_t n,
                            int64_t width) {
  static std::map<std::string, std::unique_ptr<VectorSearchIndex>> kept;
  const std::string key = storage + backend + std::to_string(n) + "x" + std::to_string(width);
  auto& index = kept[key];
  if (!index) {
    kept.clear();  // one at a time
    auto& fresh = kept[key];
    fresh.reset(new VectorSearchIndex({.dim = width, .backend = backend, .storage = storage}));
    manual_seed(1);
    fresh->add(randn({n, width}));
    fresh->search(randn({1, width}));  // prepares the rows
    return *fresh;
  }
  return *index;
}

void search(benchmark::State& state, const std::string& storage, const std::string& backend) {
  const int64_t n = state.range(0), width = state.range(1), queries = state.range(2);
  VectorSearchIndex& index = index_of(storage, backend, n, width);
  manual_seed(2);
  const Tensor q = randn({queries, width});
  for (auto _ : state) benchmark::DoNotOptimize(index.search(q).ids.data_ptr());
  const double calls = static_cast<double>(state.iterations()),
               values = static_cast<double>(n) * static_cast<double>(width);
  const double bytes = storage == "f32" ? 4 : storage == "i8" ? 1 : 2;
  if (backend != "exact") return;
  state.counters["GB/s"] =
      benchmark::Counter(calls * values * bytes * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(
      calls * values * 2e-9 * static_cast<double>(queries), benchmark::Counter::kIsRate);
}

void sizes(benchmark::internal::Benchmark* b) {
  b->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int64_t queries : {1, 64}) b->Args({250'000, 256, queries});
}
BENCHMARK_CAPTURE(search, f32, std::string("f32"), std::string("exact"))->Apply(sizes);
BENCHMARK_CAPTURE(search, bf16, std::string("bf16"), std::string("exact"))->Apply(sizes);
BENCHMARK_CAPTURE(search, i8, std::string("i8"), std::string("exact"))->Apply(sizes);
BENCHMARK_CAPTURE(search, hnsw, std::string("f32"), std::string("hnsw"))
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond)
    ->Args({100'000, 256, 1});

}  // namespace

BENCHMARK_MAIN();
