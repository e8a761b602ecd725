#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "dropin/data/tasks.h"
#include "dropin/model/transformer.h"
#include "dropin/registry/registry.h"
#include "dropin/sequence/hyena.h"
#include "evidence/claims.h"

namespace dropin::evidence {
namespace {

void speed(Findings& f, const ClaimData&) {
  const Threads one(1);
  auto input = [](int64_t l) {
    Generator g(1);
    return randn({1, l, 64}, kFloat32, &g);
  };
  auto hyena = [&](int64_t l) -> Call {
    manual_seed(1);
    const auto m = std::make_shared<HyenaOperator>(
        HyenaOperatorOptions{.d_model = 64, .l_max = l, .emb_dim = 33, .w = 14});
    m->eval();
    return [m, x = input(l)] {
      no_grad guard;
      m->forward(x);
    };
  };
  auto dense = [&](int64_t l) -> Call {
    manual_seed(1);
    const auto m = std::make_shared<MultiheadAttention>(
        MultiheadAttentionOptions{.embed_dim = 64, .num_heads = 1, .causal = true});
    m->eval();
    return [m, x = input(l)] {
      no_grad guard;
      m->forward(x);
    };
  };
  auto once = [](const Call& c) {
    const double t = now();
    c();
    return now() - t;
  };
  f.below("D = 64, one thread: t(16K) / t(4K) (n log n: 4.6)",
          contest(hyena(4096), hyena(16384), {.rounds = 5, .min_time = 0.02}), 5.5);
  f.above("causal attention: t(8K) / t(2K)",
          contest(dense(2048), dense(8192), {.rounds = 3, .min_time = 0.01}), 12);
  const Call h8 = hyena(8192);
  const Contest at8 = contest(h8, dense(8192), {.rounds = 3, .min_time = 0.01});
  f.above("time of our tiled attention over Hyena's at 8K (the paper: 2)", at8, 2);
  f.below("Hyena at 8K, ms (the official code in PyTorch: 317)", 1e3 * at8.ours.best, 317.0 / 3);
  const Call h64 = hyena(65536), d64 = dense(65536);
  h64();
  const double t = std::min(once(h64), once(h64));
  const double ratio = once(d64) / t;
  f.report(
      fmt::format("time of our tiled attention over Hyena's at 64K = {:.0f} (the paper, against "
                  "standard attention: 100)",
                  ratio));
  f.holds("the gain grows with the length", ratio > at8.ratio.middle);
}

// Accuracy of the answer after some steps of a model on associative recall, vocabulary 10, L = 65.
double recall(const char* mixer, const Json& options, int64_t steps) {
  const int64_t length = 65, vocab = 10;
  manual_seed(0);
  Transformer model({.vocab_size = vocab,
                     .embed_dim = 64,
                     .num_layers = 2,
                     .max_len = length,
                     .tie_weights = false});
  swap(model, "MultiheadAttention", mixer, options);
  const double lr = 5e-3;
  AdamW optimizer(model.parameters(), {.lr = lr});
  for (int64_t i = 0; i < steps; ++i) {
    Generator g(1000 + static_cast<std::uint64_t>(i));
    const Batch b = recall_batch(32, length, vocab, g);
    optimizer.set_lr(warmup_cosine(i, steps / 10, steps, lr, 0.1 * lr));
    optimizer.zero_grad();
    cross_entropy(model(b.x).reshape({-1, vocab}), b.y.reshape({-1})).backward();
    clip_grad_norm_(model.parameters(), 1);
    optimizer.step();
  }
  model.eval();
  no_grad guard;
  Generator g(7);
  const Batch b = recall_batch(512, length, vocab, g);
  return mean(eq(argmax(model(b.x), -1).select(1, -1), b.y.select(1, -1)).to(kFloat32)).item();
}

void learns(Findings& f, const ClaimData&) {
  const int64_t steps = 1500;
  Json h = Json::object(), c = Json::object();
  c.set("kernel_size", 3);
  f.above(fmt::format("answers right after {} steps: HyenaOperator", steps),
          recall("HyenaOperator", h, steps), 0.9);
  f.below("  causal convolution of width 3 (what it cannot see it must guess)",
          recall("CausalConv1d", c, steps), 0.6);
}

}  // namespace

void hyena_claims(Claims& all) {
  all.push_back({{"HyenaOperator", "HyenaFilter", "fft_conv"},
                 "",
                 "faster than attention, ever more so with the length",
                 "2x at 8K and 100x at 64K, against standard attention on an A100",
                 speed,
                 ""});
  all.push_back({{"HyenaOperator"},
                 "",
                 "recalls over long sequences, where short filters fail",
                 "over 50 points better than other implicit methods",
                 learns,
                 ""});
}

}  // namespace dropin::evidence
