// The backward pass of attention with mixed heads: a strip of 24 queries is made again, raw scores
// and probabilities, and walked twice, back through the second mixing and then through the first.
// What keys get is summed by parts of the queries, so results do not depend on the thread count.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mixed_heads/cpu_backward.cpp"
#include "hwy/foreach_target.h"
//
#include "dropin/core/parallel.h"
#include "kernels/mixed_heads/mixed-inl.h"
#include "kernels/mixed_heads/unmix-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

// What a part of the queries gives the keys: [H, blocks 64, D and Dv rounded up], [blocks, 2
// factors(), 64], [2, H, H].
struct KeyGradients {
  float *k, *v, *factors, *fixed;
  MixingGradients of(const MixedProblem& p, int stage, int64_t block, float* of_queries) const {
    return {of_queries + stage * p.factors(),
            factors + (2 * block + stage) * p.factors() * kMixedKeys,
            fixed + stage * p.heads * p.heads};
  }
};
// Those of all parts, cleared by clear().
struct PartGradients {
  int64_t sizes[4], parts;  // of a part's k, v, factors, fixed
  cpu::Scratch<float> memory[3];
  PartGradients(const MixedProblem& p, int64_t parts_in) : parts(parts_in) {
    const int64_t rows = p.blocks() * kMixedKeys;
    sizes[0] = p.heads * rows * whole_vectors(p.width);
    sizes[1] = p.heads * rows * whole_vectors(p.value_width);
    sizes[2] = rows * 2 * p.factors();
    sizes[3] = 2 * p.heads * p.heads;
    for (int i = 0; i < 3; ++i) memory[i] = cpu::Scratch<float>(parts * length(i));
  }
  int64_t length(int i) const { return i == 2 ? sizes[2] + sizes[3] : sizes[i]; }
  KeyGradients of(int64_t part) const {
    float* rest = memory[2].data() + part * length(2);
    return {memory[0].data() + part * sizes[0], memory[1].data() + part * sizes[1], rest,
            rest + sizes[2]};
  }
  KeyGradients cleared(int64_t part) const {
    for (int i = 0; i < 3; ++i) std::fill_n(memory[i].data() + part * length(i), length(i), 0.0f);
    return of(part);
  }
};

// Working memory of a thread: strips of raw scores, probabilities and their gradients, two tiles
// more, and rows of queries.
struct StripWork {
  int64_t dp, dvp;
  cpu::Scratch<float> all;
  float *raw, *p, *dp_strip, *one, *two, *q, *go, *gq, *factors, *delta;
  explicit StripWork(const MixedProblem& x)
      : dp(whole_vectors(x.width)), dvp(whole_vectors(x.value_width)) {
    const int64_t rows = x.heads * kMixedQueries, strip = x.blocks() * x.tile();
    all = cpu::Scratch<float>(3 * strip + 2 * x.tile() + rows * (2 * dp + dvp + 1) +
                              kMixedQueries * 2 * x.factors());
    float* next = all.data();
    auto take = [&](int64_t n) {
      float* at = next;
      next += n;
      return at;
    };
    raw = take(strip), p = take(strip), dp_strip = take(strip);
    one = take(x.tile()), two = take(x.tile());
    q = take(rows * dp), go = take(rows * dvp), gq = take(rows * dp);
    factors = take(kMixedQueries * 2 * x.factors()), delta = take(rows);
  }
};

// Back through values and the second mixing: the gradient of the probabilities, and each row's mean
// of it under them.
void back_to_probabilities(const MixedProblem& p, const MixedKeys& keys, const Strip& s,
                           const StripWork& w, bool finite, const KeyGradients& g) {
  std::fill_n(w.delta, p.heads * kMixedQueries, 0.0f);
  for (int64_t block = s.first; block < s.last; ++block) {
    const float* probability = s.p + (block - s.first) * p.tile();
    float* dprob = w.dp_strip + (block - s.first) * p.tile();
    const Mixing x =
        mixing_of(p, 1, s.of_queries, keys.factors + block * 2 * p.factors() * kMixedKeys);
    mix(x, s.m, probability, w.two);
    for (int64_t h = 0; h < p.heads; ++h)
      product(s.m, kMixedKeys, p.value_width, w.go + h * kMixedQueries * w.dvp, w.dvp, 1,
              keys.value_columns + (h * p.blocks() + block) * kMixedKeys * p.value_width,
              kMixedKeys, w.one + h * kHeadStep, kMixedKeys, false);
    const bool partial = p.partial(s.b, s.i0, s.m, block);
    if (partial)
      for (float* tile : {w.one, w.two}) hide(p, s.b, s.i0, s.m, block, 0, tile);
    for (int64_t h = 0; h < p.heads; ++h)
      masked_product(partial && !(finite && keys.finite[at(h * p.blocks() + block)]), kMixedKeys,
                     w.dvp, s.m, w.two + h * kHeadStep, 1, kMixedKeys,
                     w.go + h * kMixedQueries * w.dvp, w.dvp,
                     g.v + (h * p.blocks() + block) * kMixedKeys * w.dvp, w.dvp, true);
    unmix(x, s.m, probability, w.one, dprob, g.of(p, 1, block, w.factors));
    if (partial) hide(p, s.b, s.i0, s.m, block, 0, dprob);
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t t = 0; t < s.m; ++t) {
        const int64_t row = h * kHeadStep + t * kMixedKeys;
        float sum = 0;
        for (int64_t j = 0; j < kMixedKeys; ++j) sum += probability[row + j] * dprob[row + j];
        w.delta[h * kMixedQueries + t] += sum;
      }
  }
}

// Back through softmax, the first mixing and the scores.
void back_to_scores(const MixedProblem& p, const MixedKeys& keys, const Strip& s,
                    const StripWork& w, bool finite, const KeyGradients& g) {
  std::fill_n(w.gq, p.heads * kMixedQueries * w.dp, 0.0f);
  for (int64_t block = s.first; block < s.last; ++block) {
    const int64_t tile = (block - s.first) * p.tile();
    const float* probability = s.p + tile;
    float* ds = w.dp_strip + tile;
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t t = 0; t < s.m; ++t) {
        const int64_t row = h * kHeadStep + t * kMixedKeys;
        const float mean = w.delta[h * kMixedQueries + t];
        for (int64_t j = row; j < row + kMixedKeys; ++j) ds[j] = probability[j] * (ds[j] - mean);
      }
    const bool partial = p.partial(s.b, s.i0, s.m, block);
    if (partial) hide(p, s.b, s.i0, s.m, block, 0, ds);
    unmix(mixing_of(p, 0, s.of_queries, keys.factors + block * 2 * p.factors() * kMixedKeys), s.m,
          s.raw + tile, ds, w.one, g.of(p, 0, block, w.factors));
    if (partial) hide(p, s.b, s.i0, s.m, block, 0, w.one);
    for (int64_t h = 0; h < p.heads; ++h) {
      const int64_t first = (h * p.blocks() + block) * kMixedKeys;
      const bool careful = partial && !(finite && keys.finite[at(h * p.blocks() + block)]);
      masked_product(careful, s.m, w.dp, kMixedKeys, w.one + h * kHeadStep, kMixedKeys, 1,
                     keys.key_rows + first * w.dp, w.dp, w.gq + h * kMixedQueries * w.dp, w.dp,
                     true);
      masked_product(careful, kMixedKeys, w.dp, s.m, w.one + h * kHeadStep, 1, kMixedKeys,
                     w.q + h * kMixedQueries * w.dp, w.dp, g.k + first * w.dp, w.dp, true);
    }
  }
}

void back_tile(const MixedProblem& p, const MixedKeys& keys, int64_t b, int64_t i0,
               const cpu::Scratch<float>& none, const StripWork& w, const KeyGradients& g) {
  const int64_t m = std::min(kMixedQueries, p.queries - i0), rows = p.heads * kMixedQueries;
  int64_t from, to;
  p.key_range(i0, i0 + m, from, to);
  const Strip s{
      b,     i0,  m,    from / kMixedKeys, ceil_div(to, kMixedKeys), query_factors(p, b, i0, none),
      w.raw, w.p, w.one};
  pack_heads(p.q, p.heads, b, i0, m, p.width, static_cast<float>(p.spec.scale), w.q, w.dp);
  pack_heads(p.go, p.heads, b, i0, m, p.value_width, 1, w.go, w.dvp);
  const bool finite = all_finite(w.q, rows, w.dp, w.dp) && all_finite(w.go, rows, w.dvp, w.dvp);
  std::fill_n(w.factors, kMixedQueries * 2 * p.factors(), 0.0f);
  probabilities(p, keys, s, w.q);
  back_to_probabilities(p, keys, s, w, finite, g);
  back_to_scores(p, keys, s, w, finite, g);
  for (int64_t h = 0; h < p.heads; ++h)
    for (int64_t t = 0; t < m; ++t) {
      float* out = p.row(p.grad.q, b, h, i0 + t);
      const float* gq = w.gq + (h * kMixedQueries + t) * w.dp;
      for (int64_t c = 0; c < p.width; ++c) out[c] = gq[c] * static_cast<float>(p.spec.scale);
    }
  if (p.grad.of_queries.data)
    std::copy_n(w.factors, m * 2 * p.factors(),
                p.grad.of_queries.as<float>() + (b * p.queries + i0) * 2 * p.factors());
}

// The parts' gradients of entry b's keys, in order.
void store_keys(const MixedProblem& p, int64_t b, const std::vector<KeyGradients>& parts) {
  const int64_t dp = whole_vectors(p.width), dvp = whole_vectors(p.value_width),
                rows = p.blocks() * kMixedKeys, wide = 2 * p.factors();
  parallel_for(p.keys, 64, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      auto add = [&](const abi::TensorOut& out, float* KeyGradients::*of, int64_t ld,
                     int64_t width) {
        for (int64_t h = 0; h < p.heads; ++h) {
          float* to = p.row(out, b, h, j);
          std::fill_n(to, width, 0.0f);
          for (const KeyGradients& g : parts)
            for (int64_t c = 0; c < width; ++c) to[c] += (g.*of)[(h * rows + j) * ld + c];
        }
      };
      add(p.grad.k, &KeyGradients::k, dp, p.width);
      add(p.grad.v, &KeyGradients::v, dvp, p.value_width);
      if (!p.grad.of_keys.data) continue;
      float* to = p.grad.of_keys.as<float>() + (b * p.keys + j) * wide;
      std::fill_n(to, wide, 0.0f);
      for (const KeyGradients& g : parts)
        for (int64_t c = 0; c < wide; ++c)
          to[c] += g.factors[(j / kMixedKeys * wide + c) * kMixedKeys + j % kMixedKeys];
    }
  });
  if (!p.grad.fixed.data) return;
  float* to = p.grad.fixed.as<float>();
  for (const KeyGradients& g : parts)
    for (int64_t c = 0; c < 2 * p.heads * p.heads; ++c) to[c] += g.fixed[c];
}

void MixedBackward(const MixedProblem& p) {
  constexpr int64_t kParts = 4;  // each has gradients of its own for all keys
  const int64_t tiles = ceil_div(p.queries, kMixedQueries), parts = std::min(kParts, tiles);
  cpu::Scratch<float> none(kMixedQueries * 2 * p.factors());
  std::fill_n(none.data(), kMixedQueries * 2 * p.factors(), 0.0f);
  if (p.grad.fixed.data) std::fill_n(p.grad.fixed.as<float>(), 2 * p.heads * p.heads, 0.0f);
  const PartGradients all(p, parts);
  MixedKeys keys;
  for (int64_t b = 0; b < p.batch; ++b) {
    pack_keys(p, b, true, keys);
    std::vector<KeyGradients> sums;
    for (int64_t t = 0; t < parts; ++t) sums.push_back(all.of(t));
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      const StripWork w(p);
      for (int64_t t = begin; t < end; ++t) {
        all.cleared(t);
        for (int64_t u = t; u < tiles; u += parts)
          back_tile(p, keys, b, u * kMixedQueries, none, w, sums[at(t)]);
      }
    });
    store_keys(p, b, sums);
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
namespace {
HWY_EXPORT(MixedBackward);
}  // namespace

void mixed_heads_gradients(const MixedProblem& p) { HWY_DYNAMIC_DISPATCH(MixedBackward)(p); }

}  // namespace dropin::kernels
#endif  // HWY_ONCE
