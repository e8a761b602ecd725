// What every program pays: small operations, the tape, a Linear with its gradients beside the bare
// products, normalisations, a whole training step.
#include <benchmark/benchmark.h>
#include <oneapi/dnnl/dnnl.h>

#include <array>
#include <memory>
#include <string>

#include "bench/dump.h"
#include "dropin/core/parallel.h"
#include "dropin/model/transformer.h"
#include "dropin/ops/ops.h"
#include "dropin/optimizer/optimizer.h"

namespace {

using namespace dropin;

/// f() makes what is timed; it calls dump_and_exit itself when there is a file to write.
template <class F>
void row(const std::string& name, F f, double flops = 0, double bytes = 0) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 manual_seed(1);
                                 auto once = f();
                                 once();
                                 for (auto _ : state) once();
                                 if (flops)
                                   state.counters["flops"] = benchmark::Counter(
                                       flops, benchmark::Counter::kIsIterationInvariantRate);
                                 if (bytes)
                                   state.counters["bytes"] = benchmark::Counter(
                                       bytes, benchmark::Counter::kIsIterationInvariantRate);
                               })
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond);
}

void linear_rows(int64_t m, int64_t n, int64_t k) {
  const std::string name = "linear " + std::to_string(m) + "x" + std::to_string(k) + " to " +
                           std::to_string(n) + "/forward+backward/";
  const double flops = 6.0 * static_cast<double>(m * n * k);
  row(
      name + "ours",
      [=] {
        Tensor x = randn({m, k}).requires_grad_(), w = randn({n, k}).requires_grad_();
        const Tensor g = randn({m, n});
        if (dump_file()) dump_and_exit(with_gradients({{"x", x}, {"w", w}}, linear(x, w), g));
        return [=]() mutable {
          x.set_grad({});
          w.set_grad({});
          linear(x, w).backward(g);
        };
      },
      flops);
  row(
      name + "three oneDNN products",
      [=] {  // y = x w^T, gx = g w, gw = g^T x, into memory that is there
        const Tensor x = randn({m, k}), w = randn({n, k}), g = randn({m, n}), y = empty({m, n}),
                     gx = empty({m, k}), gw = empty({n, k});
        auto at = [](const Tensor& t) { return t.data<float>(); };
        return [=] {
          dnnl_sgemm('N', 'T', m, n, k, 1, at(x), k, at(w), k, 0, at(y), n);
          dnnl_sgemm('N', 'N', m, k, n, 1, at(g), n, at(w), k, 0, at(gx), k);
          dnnl_sgemm('T', 'N', n, k, m, 1, at(g), n, at(x), k, 0, at(gw), k);
        };
      },
      flops);
}

void tiny_rows() {
  row("add 16 elements", [] {
    const Tensor a = randn({16}), b = randn({16});
    if (dump_file()) dump_and_exit({{"a", a}, {"b", b}, {"y", a + b}});
    return [=] { benchmark::DoNotOptimize(a + b); };
  });
  row("add, sum, backward 16 elements", [] {
    Tensor a = randn({16}).requires_grad_();
    const Tensor b = randn({16});
    if (dump_file()) dump_and_exit(with_gradients({{"a", a}, {"b", b}}, sum(a + b), ones({})));
    return [=]() mutable {
      a.set_grad({});
      sum(a + b).backward();
    };
  });
}

void normalisation_rows() {
  for (const int64_t n : {512, 4096}) {  // within the last cache, and beyond it
    const double bytes = 5.0 * 4 * 1024 * static_cast<double>(n);
    const std::string size = "[" + std::to_string(n) + ", 1024]/forward+backward";
    row(
        "layer_norm " + size,
        [n] {
          Tensor x = randn({n, 1024}).requires_grad_(), w = ones({1024}).requires_grad_(),
                 b = zeros({1024}).requires_grad_();
          const Tensor g = randn({n, 1024});
          if (dump_file())
            dump_and_exit(
                with_gradients({{"x", x}, {"w", w}, {"b", b}}, layer_norm(x, {1024}, w, b), g));
          return [=]() mutable {
            for (Tensor* t : {&x, &w, &b}) t->set_grad({});
            layer_norm(x, {1024}, w, b).backward(g);
          };
        },
        0, bytes);
    row(
        "softmax " + size,
        [n] {
          Tensor x = randn({n, 1024}).requires_grad_();
          const Tensor g = randn({n, 1024});
          if (dump_file()) dump_and_exit(with_gradients({{"x", x}}, softmax(x, -1), g));
          return [=]() mutable {
            x.set_grad({});
            softmax(x, -1).backward(g);
          };
        },
        0, bytes);
  }
}

void memory_rows() {
  row(
      "AdamW step 16M parameters",
      [] {
        Tensor p = randn({1 << 24}).requires_grad_();
        p.set_grad(randn({1 << 24}));
        auto o = std::make_shared<AdamW>(Tensors{p}, AdamWOptions{.lr = 1e-6});
        if (dump_file()) {
          const Tensor before = p.detach().clone();
          o->step();
          dump_and_exit({{"p", before}, {"g", p.grad()}, {"y", p}});
        }
        return [=] { o->step(); };
      },
      0, 7.0 * 4 * (1 << 24));
  row(
      "triad 16M elements",
      [] {
        const Tensor a = randn({1 << 24}), b = randn({1 << 24});
        Tensor c = empty({1 << 24});
        return [=]() mutable {
          const float *x = a.data<float>(), *y = b.data<float>();
          float* z = c.data<float>();
          parallel_for(1 << 24, 1 << 16, [&](int64_t i0, int64_t i1) {
            for (int64_t i = i0; i < i1; ++i) z[i] = x[i] + 3.0f * y[i];
          });
        };
      },
      0, 3.0 * 4 * (1 << 24));
}

void transformer_row() {
  row("Transformer step D 256, 4 layers, L 256, B 8", [] {
    auto m = std::make_shared<Transformer>(TransformerOptions{
        .vocab_size = 256, .embed_dim = 256, .num_layers = 4, .num_heads = 4, .max_len = 256});
    auto o = std::make_shared<AdamW>(m->parameters(), AdamWOptions{.lr = 1e-4});
    const Tensor ids = randint(0, 256, {8, 256}, kInt64),
                 target = randint(0, 256, {8 * 256}, kInt64);
    if (dump_file()) {
      NamedTensors all{{"ids", ids}, {"target", target}};
      for (const auto& [name, t] : m->state_dict()) all.set("p." + name, t.clone());
      const Tensor loss = cross_entropy((*m)(ids).reshape({-1, 256}), target);
      loss.backward();
      all.set("y", loss);
      for (const auto& [name, t] : m->named_parameters()) all.set("g." + name, t.grad());
      dump_and_exit(all);
    }
    return [=] {
      o->zero_grad();
      cross_entropy((*m)(ids).reshape({-1, 256}), target).backward();
      o->step();
    };
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("threads", std::to_string(get_num_threads()));
  tiny_rows();
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{2048, 256, 256},
                                {2048, 1024, 256},
                                {2048, 256, 1024},
                                {512, 1024, 1024},
                                {4096, 512, 512}})
    linear_rows(m, n, k);
  normalisation_rows();
  memory_rows();
  transformer_row();
  benchmark::RunSpecifiedBenchmarks();
}
