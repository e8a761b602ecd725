#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "dropin/embedding/embedding.h"
#include "dropin/optimizer/optimizer.h"
#include "dropin/sequence/all_to_first_attention.h"
#include "dropin/sequence/combiner_attention.h"
#include "dropin/sequence/dcmh_attention.h"
#include "dropin/sequence/lookhere_attention.h"
#include "dropin/sequence/multihead_attention.h"
#include "dropin/sequence/relative_position_attention.h"
#include "dropin/sequence/scatterbrain_attention.h"
#include "evidence/claims.h"
#include "evidence/claims/tensors.h"

namespace dropin::evidence {
namespace {

// LookHere: the fields of view

void views(Findings& f, const ClaimData&) {
  auto table = [](const char* groups, int64_t heads, int64_t h, int64_t w) {
    LookHereBiasOptions o;
    o.grid = {h, w};
    o.num_heads = heads;
    o.head_directions = groups;
    o.prefix_tokens = 0;
    return lookhere_bias(o);
  };
  for (const auto& [name, percent] :
       {std::pair{"halves", 51.6}, {"corners", 26.6}, {"triangles", 26.1}, {"eighths1", 13.8}}) {
    const Tensor seen = (table(name, 4, 32, 32) > -1e38).to(kFloat32);
    f.near(fmt::format("{}: visible pairs of a grid of 32 x 32, percent", name),
           100 * mean(seen).item(), percent, 0.05);
  }
  const Tensor seen = (table("eighths1-eighths2-none", 12, 14, 14) > -1e38).to(kFloat32);
  double worst = 0;
  for (int64_t a = 0; a < 8; ++a)
    for (int64_t b = 0; b < a; ++b)
      worst =
          std::max(worst, sum(seen[a] * seen[b]).item() / sum(maximum(seen[a], seen[b])).item());
  f.near("largest overlap of two eighths, intersection over union", worst, 0.139, 1e-3);
  const Tensor large = table("corners", 4, 32, 32).reshape({4, 32, 32, 32, 32});
  f.below("the table of 14 x 14 is a part of that of 32 x 32, difference",
          difference(table("corners", 4, 14, 14).reshape({4, 14, 14, 14, 14}),
                     large.narrow(1, 9, 14).narrow(3, 9, 14).narrow(2, 5, 14).narrow(4, 5, 14)),
          1e-30);
}

// RelativePositionAttention: a copy task, y_i = x_{i-2}

Tensor copied(const Tensor& ids) {  // targets of tokens 2, 3, ...
  return ids.narrow(1, 0, ids.size(1) - 2).contiguous().reshape({-1});
}
std::pair<double, double> copy_accuracy(Box<Module> mixer_) {
  SequenceMixer& mixer = dynamic_cast<SequenceMixer&>(*mixer_);
  Embedding in({.num_embeddings = 16, .embedding_dim = 32});
  Linear out({.in_features = 32, .out_features = 16});
  Tensors all = mixer.parameters();
  for (const Module* m : {static_cast<Module*>(&in), static_cast<Module*>(&out)})
    for (const Tensor& p : m->parameters()) all.push_back(p);
  Adam adam(all, {.lr = 3e-3});
  Generator g(4);
  auto logits = [&](const Tensor& ids) {
    return out(mixer(in(ids))).narrow(1, 2, ids.size(1) - 2).reshape({-1, 16});
  };
  for (int i = 0; i < 400; ++i) {
    const Tensor ids = randint(0, 16, {32, 32}, kInt64, &g);
    adam.zero_grad();
    cross_entropy(logits(ids), copied(ids)).backward();
    adam.step();
  }
  auto accuracy = [&](int64_t length) {
    no_grad guard;
    const Tensor ids = randint(0, 16, {16, length}, kInt64, &g);
    return mean((argmax(logits(ids), -1) == copied(ids)).to(kFloat32)).item();
  };
  const double near = accuracy(32);
  return {near, accuracy(128)};
}
void distances(Findings& f, const ClaimData&) {
  auto relative = [](const char* method) {
    manual_seed(3);
    return Box<Module>(new RelativePositionAttention(
        {.embed_dim = 32, .num_heads = 2, .method = method, .max_position = 16}));
  };
  manual_seed(3);
  const auto none =
      copy_accuracy(Box<Module>(new MultiheadAttention({.embed_dim = 32, .num_heads = 2})));
  f.below("no positions: accuracy at the length of training", none.first, 0.25);
  for (const char* method : {"shaw", "m3", "m4"}) {
    const auto [near, far] = copy_accuracy(relative(method));
    f.above(fmt::format("{}: accuracy at the length of training", method), near, 0.98);
    f.above("  at four times the length", far, 0.98);
  }
  f.above("m2 (a factor): accuracy", copy_accuracy(relative("m2")).first, 0.85);
  const double undirected = copy_accuracy(relative("m1")).first;
  f.near("m1 cannot tell left from right: accuracy", undirected, 0.55, 0.15);
}

// AllToFirstAttention: what stays in the picture stays in the output

void background(Findings& f, const ClaimData&) {
  no_grad guard;
  manual_seed(1);
  AllToFirstAttention m({.embed_dim = 320, .num_heads = 5, .qkv_bias = true});
  MultiheadAttention own({.embed_dim = 320, .num_heads = 5});
  own.load_state_dict(m.state_dict());
  const Tensor first = normal({2, 1, 256, 320}, 2);
  Tensor x = first.expand({2, 14, 256, 320}).clone();
  x.narrow(1, 1, 13).narrow(2, 0, 51).copy_(normal({2, 13, 51, 320}, 3));
  const Tensor y = m(x);
  f.below("frame 0 against attention on frame 0, difference",
          difference(y.select(1, 0), own(x.select(1, 0))), 1e-5);
  auto stays = [](const Tensor& all) { return all.narrow(2, 51, 205); };
  f.below("unchanged tokens against frame 0, difference",
          difference(stays(y), stays(y.narrow(1, 0, 1)).expand({2, 14, 205, 320})), 1e-6);
  const Tensor z = own(x.reshape({28, 256, 320})).reshape({2, 14, 256, 320}),
               z0 = stays(z.narrow(1, 0, 1)).expand({2, 14, 205, 320});
  f.above("with attention of each frame to itself, relative change",
          (norm(stays(z) - z0) / norm(z0)).item(), 1e-2);
}

// DCMHAttention: rank of the score maps, and its price

void composed_rank(Findings& f, const ClaimData&) {
  no_grad guard;
  const int64_t d = 64, h = 8, l = 64;
  Generator g(5);
  auto random = [&](const Shape& s) { return randn(s, kFloat64, &g); };
  const Tensor q = random({h, l, d / h}), k = random({h, l, d / h}),
               s = matmul(q, k.mT()) / std::sqrt(static_cast<double>(d / h));
  auto matrices = [&] {  // of every token: w1^T w2 + diag(g), with branches of size one
    const Tensor w1 = rms_norm(random({l, 2, h}), {}, 1e-6), w2 = random({l, 2, h});
    return matmul(w1.mT(), w2) + tanh(random({l, h})).unsqueeze(-1) * eye(h, h, kFloat64);
  };
  const Tensor composed =
      s + einsum("mts,tmn->nts", {s, matrices()}) + einsum("mts,smn->nts", {s, matrices()});
  auto rank = [&](const Tensor& maps) {
    const Tensor values = svd(maps).S;
    return sum((values > values.narrow(-1, 0, 1) * 1e-3).to(kFloat64)).item() /
           static_cast<double>(h);
  };
  f.near("mean rank of a head's score map, q k^T", rank(s), 8, 1e-9);
  f.above("after composition", rank(composed), 50);
  DCMHAttention m({.embed_dim = 512, .num_heads = 4});  // in proportion to 4096 and 32
  int64_t extra = 0;
  for (const auto& [name, p] : m.named_parameters())
    if (name.rfind("dyn_w_proj", 0) == 0) extra += p.numel();
  f.near("parameters more than the projections', percent (D = 512, H = 4)",
         100 * static_cast<double>(extra) / (4 * 512.0 * 512.0), 4.0, 0.2);
}

// CombinerAttention: reach, and its price

void reach(Findings& f, const ClaimData&) {
  const int64_t l = 64;
  for (const char* variant : {"fixed", "logsparse", "axial_mixture"}) {
    manual_seed(2);
    CombinerAttention m(
        {.embed_dim = 32, .num_heads = 1, .variant = variant, .causal = true, .pool = "mean"});
    const Tensor x = normal({1, l, 32}, 3).requires_grad_();
    double reached = 0;
    for (const int64_t i : {5, 31, 63}) {
      const Tensor g = grad({sum(square(m(x)[0][i]))}, {x})[0];
      reached += sum((amax(abs(g[0].narrow(0, 0, i + 1)), {-1}) > 0.0).to(kFloat32)).item() /
                 static_cast<double>(i + 1) / 3;
    }
    f.near(fmt::format("{}: share of earlier tokens that an output depends on", variant), reached,
           1, 1e-9);
  }
  MultiheadAttention dense({.embed_dim = 32, .num_heads = 1, .causal = true});
  CombinerAttention one({.embed_dim = 32, .num_heads = 1, .span = 64, .causal = true});
  one.load_state_dict(dense.state_dict());
  no_grad guard;
  const Tensor x = normal({2, l, 32}, 4);
  f.below("with one row, difference to dense attention", difference(one(x), dense(x)), 1e-5);
  CombinerAttention sparse({.embed_dim = 32, .num_heads = 1, .causal = true});
  auto call = [&](int64_t n) -> Call {
    return [&sparse, x = normal({1, n, 32}, 5)] { sparse(x); };
  };
  f.below("t(8192) / t(2048); dense: 16",
          contest(call(2048), call(8192), {.rounds = 3, .min_time = 0.05}), 12);
}

// ScatterbrainAttention: errors of the three estimates of one matrix

// A stationary walk, [length, width].
Tensor walk(int64_t length, int64_t width, std::uint64_t seed) {
  const Tensor steps = normal({length, width}, seed);
  Tensor w = empty({length, width});
  const double rho = 0.97, fresh = std::sqrt(1 - rho * rho);
  w[0] = steps[0];
  for (int64_t t = 1; t < length; ++t) w[t] = w[t - 1] * rho + steps[t] * fresh;
  return w.to(kFloat64);
}
void crossover(Findings& f, const ClaimData&) {
  no_grad guard;
  const int64_t l = 512, e = 32;
  const Tensor i = arange(l).unsqueeze(1), j = arange(l).unsqueeze(0);
  auto window = [&](int64_t w) { return logical_and(j >= i - w / 2, j < i + (w + 1) / 2); };
  double worst[3] = {0, 0, 0};
  for (const double tau : {0.02, 0.1, 0.3}) {
    double error[3] = {0, 0, 0};
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      const Tensor w = walk(l, e, seed), q = w + normal({l, e}, seed + 50).to(kFloat64) * 0.3,
                   k = w + normal({l, e}, seed + 90).to(kFloat64) * 0.3;
      const Tensor exact = exp(matmul(q, k.mT()) * tau), want = exact / sum(exact, {1}, true);
      auto guess = [&](int64_t features) {
        ScatterbrainAttention m({.embed_dim = e,
                                 .num_heads = 1,
                                 .sparse = "local",
                                 .nb_features = features,
                                 .seed = static_cast<int64_t>(seed)});
        const Tensor p = m.state_dict().find("projection_matrix").to(kFloat64);
        auto phi = [&](const Tensor& x) {
          const Tensor u = matmul(x * std::sqrt(tau), p.mT());
          return exp(concat({u, -u}, -1) - sum(square(x), {-1}, true) * (tau / 2)) /
                 std::sqrt(static_cast<double>(features));
        };
        return matmul(phi(q), phi(k).mT());
      };
      const Tensor estimates[3] = {where(window(64), exact, 0.0), guess(64),
                                   where(window(32), exact, guess(32))};
      for (int n = 0; n < 3; ++n)
        error[n] +=
            (norm(estimates[n] / sum(estimates[n], {1}, true) - want) / norm(want)).item() / 5;
    }
    f.report(
        fmt::format("tau {}: error of a window of 64 {:.2f}, of 64 features {:.2f}, of 32 + "
                    "32 {:.2f}",
                    tau, error[0], error[1], error[2]));
    if (tau == 0.02) f.holds("small scores: features win", error[1] < error[0]);
    if (tau == 0.1) f.holds("between: both together win", error[2] < std::min(error[0], error[1]));
    if (tau == 0.3) f.holds("large scores: the window wins", error[0] < error[1]);
    for (int n = 0; n < 3; ++n) worst[n] = std::max(worst[n], error[n]);
  }
  f.below("its worst error over the other two's best worst",
          worst[2] / std::min(worst[0], worst[1]), 1);
}

}  // namespace

void mixer_claims(Claims& all) {
  all.push_back({{"LookHereAttention", "lookhere_bias"},
                 "",
                 "directed views without position embeddings extrapolate to larger pictures",
                 "trained at 224 px, tested at 1024: 21.7 % above 2D-RoPE on ImageNet",
                 views,
                 ""});
  all.push_back({{"RelativePositionAttention"},
                 "",
                 "query, key and distance together learn positions that hold for longer inputs",
                 "SQuAD 1.1, F1: absolute 88.5, Shaw 89.5, m4 90.5",
                 distances,
                 ""});
  all.push_back({{"AllToFirstAttention"},
                 "",
                 "attention to the first frame keeps background and appearance",
                 "better video of parts in motion (abstract)",
                 background,
                 ""});
  all.push_back({{"DCMHAttention"},
                 "",
                 "composed heads lift the rank of the score maps at 4 % more parameters",
                 "language models as good as with 1.7 to 2 times the compute",
                 composed_rank,
                 ""});
  all.push_back({{"CombinerAttention"},
                 "",
                 "every token reaches every other, in L sqrt(L)",
                 "2.77 bits per dimension on CIFAR-10",
                 reach,
                 ""});
  all.push_back({{"ScatterbrainAttention"},
                 "",
                 "sparse plus low rank is closer than either",
                 "error 2.1 times lower than baselines in BigGAN and T2T-ViT",
                 crossover,
                 ""});
}

}  // namespace dropin::evidence
