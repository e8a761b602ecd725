// One task is one head: its state (N x D) and the tiles of a chunk stay in cache, and the chunk is
// a handful of small matrix products.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/latent/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/scratch.h"
#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/heads.h"
#include "kernels/latent/kernel.h"
#include "kernels/simd-inl.h"
#include "kernels/tile-inl.h"

#ifndef DROPIN_LATENT_PROBLEM_
#define DROPIN_LATENT_PROBLEM_
namespace dropin::kernels {

struct LatentProblem {
  int64_t batch, heads, tokens, latents, width, chunk;
  bool causal;
  abi::TensorIn p, k, v, go, kept;
  abi::TensorOut o, state, keep, gp, gk, gv;
  int64_t padded() const { return ceil_div(latents, 16) * 16; }
  int64_t chunks() const { return ceil_div(tokens, kLatentChunk); }
};

}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

constexpr int64_t kC = kLatentChunk;

const float* at(const abi::TensorIn& t, int64_t b, int64_t h, int64_t i) {
  return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
}
float* at(const abi::TensorOut& t, int64_t b, int64_t h, int64_t i) {
  return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
}

// Latents are padded to whole vectors (np); what is padded has score -inf, so its weights are 0
// throughout.
struct State {
  float *m, *z, *s;  // [np], [np], [np, D]
};
void load_state(const float* from, int64_t n, int64_t np, int64_t d, const State& s) {
  std::copy_n(from, n, s.m);
  std::copy_n(from + n, n, s.z);
  std::copy_n(from + 2 * n, n * d, s.s);
  std::fill(s.m + n, s.m + np, -kInf<float>);
  std::fill(s.z + n, s.z + np, 0.0f);
  std::fill(s.s + n * d, s.s + np * d, 0.0f);
}
void store_state(const State& s, int64_t n, int64_t d, float* to) {
  std::copy_n(s.m, n, to);
  std::copy_n(s.z, n, to + n);
  std::copy_n(s.s, n * d, to + 2 * n);
}

// The tiles of one chunk of c tokens: e = exp(k - M) and q = p / z [c, np], its keys transposed et
// [np, kC], and a [c, kC].
struct Tiles {
  float *e, *q, *iz, *et, *a;
};

// The scores of c tokens, padded, into e.
void load_scores(const float* k, int64_t stride, int64_t c, int64_t n, int64_t np, float* e) {
  for (int64_t t = 0; t < c; ++t) {
    std::copy_n(k + t * stride, n, e + t * np);
    std::fill(e + t * np + n, e + (t + 1) * np, -kInf<float>);
  }
}

// How many of the c tokens with scores e and values v may share one unit exp(M): a later score must
// not dwarf the sum that an earlier token divides by, and nothing that is not finite may be
// multiplied by an earlier token's 0.
int64_t shared_unit(const State& s, const float* e, int64_t c, int64_t np, const float* v,
                    int64_t ldv, int64_t width) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto most = hn::Set(d, std::numeric_limits<float>::max());
  auto fine = hn::Eq(most, most);
  for (int64_t i = 0; i < c * np; i += lanes)
    fine = hn::And(fine, hn::Le(hn::LoadU(d, e + i), most));  // -inf is a score that nobody sees
  for (int64_t t = 0; t < c; ++t) {
    const float* row = v + t * ldv;
    int64_t j = 0;
    for (; j + lanes <= width; j += lanes)
      fine = hn::And(fine, hn::Le(hn::Abs(hn::LoadU(d, row + j)), most));
    for (; j < width; ++j)
      if (!std::isfinite(row[j])) return 1;
  }
  if (!hn::AllTrue(d, fine)) return 1;
  const auto none = hn::Set(d, -kInf<float>), far = hn::Set(d, 60.0f);
  for (; c > 1; c = (c + 1) / 2) {
    bool fits = true;
    for (int64_t l = 0; l < np && fits; l += lanes) {
      auto top = hn::LoadU(d, s.m + l),
           low = none;  // the running maximum, and the first one that is not -inf
      for (int64_t t = 0; t < c; ++t) {
        top = hn::Max(top, hn::LoadU(d, e + t * np + l));
        low = hn::IfThenElse(hn::Eq(low, none), top, low);
      }
      fits = hn::AllFalse(d, hn::Gt(hn::Sub(top, low), far));
    }
    if (fits) break;
  }
  return c;
}

// Moves the state to the unit of the chunk, and fills e, iz = 1 / z and q. state.z holds z before
// the chunk on entry, after it on exit; s is only rescaled. `decay` [np] receives exp(m before - m
// after).
void enter_chunk(const State& s, const Tiles& x, const float* p, int64_t stride, int64_t c,
                 int64_t n, int64_t np, int64_t d, float* decay) {
  const hn::ScalableTag<float> tag;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(tag));
  const auto none = hn::Set(tag, -kInf<float>), zero = hn::Zero(tag), one = hn::Set(tag, 1.0f);
  for (int64_t l = 0; l < np; l += lanes) {
    const auto old = hn::LoadU(tag, s.m + l);
    auto top = old, bad = hn::Zero(tag);
    for (int64_t t = 0; t < c; ++t) {
      const auto k = hn::LoadU(tag, x.e + t * np + l);
      top = hn::Max(top, k);
      bad = hn::IfThenElse(hn::IsNaN(k), k, bad);
    }
    top = hn::IfThenElse(hn::IsNaN(bad), bad, top);
    const auto shrink =
        hn::IfThenZeroElse(hn::Eq(old, none), exp_nonpositive(tag, hn::Sub(old, top)));
    hn::StoreU(top, tag, s.m + l);
    hn::StoreU(shrink, tag, decay + l);
    auto z = hn::Mul(hn::LoadU(tag, s.z + l), shrink);
    for (int64_t t = 0; t < c; ++t) {
      const auto k = hn::LoadU(tag, x.e + t * np + l);
      const auto e = hn::IfThenZeroElse(hn::Eq(k, none), exp_nonpositive(tag, hn::Sub(k, top)));
      z = hn::Add(z, e);
      const auto inverse =
          hn::IfThenZeroElse(hn::Eq(z, zero), hn::Div(one, z));  // nothing seen yet: no output
      hn::StoreU(e, tag, x.e + t * np + l);
      hn::StoreU(inverse, tag, x.iz + t * np + l);
    }
    hn::StoreU(z, tag, s.z + l);
  }
  for (int64_t l = 0; l < n; ++l)
    if (decay[l] != 1)
      for (int64_t j = 0; j < d; ++j) s.s[l * d + j] *= decay[l];
  for (int64_t t = 0; t < c; ++t) {
    const float *row = p + t * stride, *iz = x.iz + t * np;
    float* q = x.q + t * np;
    for (int64_t l = 0; l < n; ++l) q[l] = row[l] * iz[l];
    std::fill(q + n, q + np, 0.0f);
  }
}

// a [c, kC] = the lower triangle of x y^T.
void lower_product(const float* x, int64_t ldx, const float* yt, int64_t depth, int64_t c,
                   float* a) {
  product(c, ceil_div(c, 16) * 16, depth, x, ldx, 1, yt, kC, a, kC, false);
  for (int64_t t = 0; t < c; ++t) std::fill(a + t * kC + t + 1, a + (t + 1) * kC, 0.0f);
}

// --- every token sees every token: the state after the last one serves all

// q = p / z of c tokens, padded.
void weigh(const float* p, int64_t stride, int64_t c, int64_t n, int64_t np, const float* inverse,
           float* q) {
  for (int64_t t = 0; t < c; ++t) {
    for (int64_t l = 0; l < n; ++l) q[t * np + l] = p[t * stride + l] * inverse[l];
    std::fill(q + t * np + n, q + (t + 1) * np, 0.0f);
  }
}
void invert(const float* z, int64_t np, float* inverse) {
  for (int64_t l = 0; l < np; ++l)
    inverse[l] = z[l] == 0 ? 0 : 1 / z[l];  // nothing seen: no output
}
// e = exp(e - m), and 0 where e is -inf.
void exponentials(float* e, int64_t c, int64_t np, const float* m) {
  const hn::ScalableTag<float> tag;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(tag));
  const auto none = hn::Set(tag, -kInf<float>);
  for (int64_t t = 0; t < c; ++t)
    for (int64_t l = 0; l < np; l += lanes) {
      const auto k = hn::LoadU(tag, e + t * np + l);
      hn::StoreU(hn::IfThenZeroElse(hn::Eq(k, none),
                                    exp_nonpositive(tag, hn::Sub(k, hn::LoadU(tag, m + l)))),
                 tag, e + t * np + l);
    }
}

void forward_all(const LatentProblem& x) {
  const int64_t n = x.latents, np = x.padded(), d = x.width, size = latent_state_size(n, d);
  parallel_for(x.batch * x.heads, 1, [&](int64_t first, int64_t last) {
    cpu::Scratch<float> work(np * (d + 4) + kC * np);
    float* w = work.data();
    const State s{w, w + np, w + 2 * np};
    float *top = w + np * (d + 2), *inverse = top + np, *e = inverse + np;
    const hn::ScalableTag<float> tag;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(tag));
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t b = bh / x.heads, h = bh % x.heads;
      float* state = x.state.as<float>() + bh * size;
      load_state(state, n, np, d, s);
      for (int64_t t = 0; t < x.tokens; t += kC) {
        const int64_t c = std::min(kC, x.tokens - t);
        load_scores(at(x.k, b, h, t), x.k.strides[2], c, n, np, e);
        for (int64_t l = 0; l < np; l += lanes) {  // the unit grows to the largest score so far
          const auto old = hn::LoadU(tag, s.m + l);
          auto m = old, bad = hn::Zero(tag);
          for (int64_t i = 0; i < c; ++i) {
            const auto k = hn::LoadU(tag, e + i * np + l);
            m = hn::Max(m, k);
            bad = hn::IfThenElse(hn::IsNaN(k), k, bad);
          }
          m = hn::IfThenElse(hn::IsNaN(hn::Add(bad, old)), hn::Add(bad, old), m);
          hn::StoreU(hn::IfThenZeroElse(hn::Eq(old, hn::Set(tag, -kInf<float>)),
                                        exp_nonpositive(tag, hn::Sub(old, m))),
                     tag, top + l);
          hn::StoreU(m, tag, s.m + l);
        }
        for (int64_t l = 0; l < n; ++l)
          if (top[l] != 1) {
            s.z[l] *= top[l];
            for (int64_t j = 0; j < d; ++j) s.s[l * d + j] *= top[l];
          }
        exponentials(e, c, np, s.m);
        for (int64_t i = 0; i < c; ++i)
          for (int64_t l = 0; l < np; ++l) s.z[l] += e[i * np + l];
        product(np, d, c, e, 1, np, at(x.v, b, h, t), x.v.strides[2], s.s, d, true);
      }
      invert(s.z, np, inverse);
      for (int64_t t = 0; t < x.tokens; t += kC) {
        const int64_t c = std::min(kC, x.tokens - t);
        weigh(at(x.p, b, h, t), x.p.strides[2], c, n, np, inverse, e);
        product(c, d, np, e, np, 1, s.s, d, at(x.o, b, h, t), x.o.strides[2], false);
      }
      store_state(s, n, d, state);
    }
  });
}

// With r = sum_t q_t go_t^T and rs = sum_t q_t dp_t: dp = go S^T / z, dv = e r, dk = e (v r^T -
// rs).
void backward_all(const LatentProblem& x) {
  const int64_t n = x.latents, np = x.padded(), d = x.width, size = latent_state_size(n, d);
  parallel_for(x.batch * x.heads, 1, [&](int64_t first, int64_t last) {
    cpu::Scratch<float> work(np * (3 * d + 4) + 2 * kC * np);
    float* w = work.data();
    const State s{w, w + np, w + 2 * np};
    float *r = w + np * (d + 2), *turned = r + np * d, *rs = turned + np * d, *inverse = rs + np,
          *e = inverse + np, *dp = e + kC * np;
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t b = bh / x.heads, h = bh % x.heads;
      load_state(x.kept.as<float>() + bh * size, n, np, d, s);
      invert(s.z, np, inverse);
      std::fill_n(r, np * d, 0.0f);
      std::fill_n(rs, np, 0.0f);
      pack_transposed(s.s, np, d, d, turned, np);
      for (int64_t t = 0; t < x.tokens; t += kC) {
        const int64_t c = std::min(kC, x.tokens - t);
        const float* go = at(x.go, b, h, t);
        weigh(at(x.p, b, h, t), x.p.strides[2], c, n, np, inverse, e);
        product(c, np, d, go, x.go.strides[2], 1, turned, np, dp, np, false);
        for (int64_t i = 0; i < c; ++i) {
          float* gp = at(x.gp, b, h, t + i);
          for (int64_t l = 0; l < n; ++l) {
            gp[l] = dp[i * np + l] * inverse[l];
            rs[l] += e[i * np + l] * gp[l];
          }
        }
        product(np, d, c, e, 1, np, go, x.go.strides[2], r, d, true);
      }
      pack_transposed(r, np, d, d, turned, np);
      for (int64_t t = 0; t < x.tokens; t += kC) {
        const int64_t c = std::min(kC, x.tokens - t);
        load_scores(at(x.k, b, h, t), x.k.strides[2], c, n, np, e);
        exponentials(e, c, np, s.m);
        product(c, d, np, e, np, 1, r, d, at(x.gv, b, h, t), x.gv.strides[2], false);
        product(c, np, d, at(x.v, b, h, t), x.v.strides[2], 1, turned, np, dp, np, false);
        for (int64_t i = 0; i < c; ++i) {
          float* gk = at(x.gk, b, h, t + i);
          for (int64_t l = 0; l < n; ++l) gk[l] = e[i * np + l] * (dp[i * np + l] - rs[l]);
        }
      }
    }
  });
}

// --- causal

void Forward(const LatentProblem& x) {
  if (!x.causal) return forward_all(x);
  const int64_t n = x.latents, np = x.padded(), d = x.width, size = latent_state_size(n, d);
  parallel_for(x.batch * x.heads, 1, [&](int64_t first, int64_t last) {
    cpu::Scratch<float> work(np * (d + 3) + kC * np * 4 + kC * kC);
    float* w = work.data();
    const State s{w, w + np, w + 2 * np};
    float* decay = w + np * (d + 2);
    w += np * (d + 3);
    const Tiles tiles{w, w + kC * np, w + 2 * kC * np, w + 3 * kC * np, w + 4 * kC * np};
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t b = bh / x.heads, h = bh % x.heads;
      float* state = x.state.as<float>() + bh * size;
      load_state(state, n, np, d, s);
      for (int64_t t0 = 0; t0 < x.tokens; t0 += kC) {
        if (x.keep.data)
          store_state(s, n, d, x.keep.as<float>() + (bh * x.chunks() + t0 / kC) * size);
        for (int64_t t = t0; t < std::min(x.tokens, t0 + kC);) {
          int64_t c = std::min({x.chunk, t0 + kC - t, x.tokens - t});
          load_scores(at(x.k, b, h, t), x.k.strides[2], c, n, np, tiles.e);
          c = shared_unit(s, tiles.e, c, np, at(x.v, b, h, t), x.v.strides[2], d);
          enter_chunk(s, tiles, at(x.p, b, h, t), x.p.strides[2], c, n, np, d, decay);
          pack_transposed(tiles.e, c, np, np, tiles.et, kC);
          lower_product(tiles.q, np, tiles.et, np, c, tiles.a);
          const float* v = at(x.v, b, h, t);
          float* o = at(x.o, b, h, t);
          product(c, d, np, tiles.q, np, 1, s.s, d, o, x.o.strides[2], false);
          product(c, d, c, tiles.a, kC, 1, v, x.v.strides[2], o, x.o.strides[2], true);
          product(np, d, c, tiles.e, 1, np, v, x.v.strides[2], s.s, d, true);
          t += c;
        }
      }
      store_state(s, n, d, state);
    }
  });
}

// A reverse scan over the chunks, with r = sum over later tokens of q_t g_t^T and rs = sum of q_t
// dp_t, in the unit of the chunk at hand.
struct BackwardWork {
  State s;
  float *r, *unit, *decay;
  Tiles tiles;
  float *g, *dp, *dk, *packed;
  float* starts;  // the states before each part of a chunk
  double* rs;     // what is left of dk's two halves may be a small part of them
};

// Forward again over tokens [t0, t1) of a chunk, from the state in w.s: the chunk's parts are
// [begin[i], begin[i + 1]), the states before them go to w.starts. Returns how many there are.
int64_t find_parts(const LatentProblem& x, int64_t b, int64_t h, int64_t t0, int64_t t1,
                   const BackwardWork& w, int64_t* begin) {
  const int64_t n = x.latents, np = x.padded(), d = x.width, one = np * (d + 2);
  int64_t parts = 0;
  for (int64_t t = t0; t < t1;) {
    int64_t c = std::min(x.chunk, t1 - t);
    load_scores(at(x.k, b, h, t), x.k.strides[2], c, n, np, w.tiles.e);
    c = shared_unit(w.s, w.tiles.e, c, np, at(x.v, b, h, t), x.v.strides[2], d);
    std::copy_n(w.s.m, one, w.starts + parts * one);
    begin[parts++] = t;
    t += c;
    if (t >= t1) break;
    enter_chunk(w.s, w.tiles, at(x.p, b, h, t - c), x.p.strides[2], c, n, np, d, w.decay);
    product(np, d, c, w.tiles.e, 1, np, at(x.v, b, h, t - c), x.v.strides[2], w.s.s, d, true);
  }
  begin[parts] = t1;
  return parts;
}

// r and rs in a part's unit m, which is smaller: 1 / z shrinks.
void to_unit(int64_t n, int64_t d, const float* m, const BackwardWork& w) {
  for (int64_t l = 0; l < n; ++l) {
    const float by = m[l] == w.unit[l] ? 1 : std::exp(m[l] - w.unit[l]);
    w.rs[l] *= by;
    for (int64_t j = 0; j < d; ++j) w.r[l * d + j] *= by;
  }
}

// Gradients of tokens [t, t + c), whose state, scores and weights are in w; r and rs take them in.
void part_gradients(const LatentProblem& x, int64_t b, int64_t h, int64_t t, int64_t c,
                    const BackwardWork& w) {
  const int64_t n = x.latents, np = x.padded(), d = x.width;
  const Tiles& tiles = w.tiles;
  float *g = w.g, *dp = w.dp, *dk = w.dk;
  const float *go = at(x.go, b, h, t), *v = at(x.v, b, h, t);
  const int64_t ldg = x.go.strides[2], ldv = x.v.strides[2];
  // g = tril(go v^T), a = tril(q e^T)
  pack_transposed(v, c, d, ldv, w.packed, kC);
  lower_product(go, ldg, w.packed, d, c, g);
  pack_transposed(tiles.e, c, np, np, tiles.et, kC);
  lower_product(tiles.q, np, tiles.et, np, c, tiles.a);
  // dp = (g e + go S^T) / z
  product(c, np, c, g, kC, 1, tiles.e, np, dp, np, false);
  pack_transposed(w.s.s, np, d, d, w.packed, np);
  product(c, np, d, go, ldg, 1, w.packed, np, dp, np, true);
  for (int64_t i = 0; i < c * np; ++i) dp[i] *= tiles.iz[i];
  // dv = a^T go + e r
  float* gv = at(x.gv, b, h, t);
  product(c, d, np, tiles.e, np, 1, w.r, d, gv, x.gv.strides[2], false);
  product(c, d, c, tiles.a, 1, kC, go, ldg, gv, x.gv.strides[2], true);
  // dk = e (g^T q + v r^T - rs), rs running from the end
  product(c, np, c, g, 1, kC, tiles.q, np, dk, np, false);
  pack_transposed(w.r, np, d, d, w.packed, np);
  product(c, np, d, v, ldv, 1, w.packed, np, dk, np, true);
  for (int64_t i = c - 1; i >= 0; --i) {
    float *gk = at(x.gk, b, h, t + i), *gp = at(x.gp, b, h, t + i);
    for (int64_t l = 0; l < n; ++l) {
      w.rs[l] += static_cast<double>(tiles.q[i * np + l]) * dp[i * np + l];
      gk[l] = tiles.e[i * np + l] * static_cast<float>(dk[i * np + l] - w.rs[l]);
      gp[l] = dp[i * np + l];
    }
  }
  product(np, d, c, tiles.q, 1, np, go, ldg, w.r, d, true);
}

void backward_head(const LatentProblem& x, int64_t bh, const BackwardWork& w) {
  const int64_t n = x.latents, np = x.padded(), d = x.width, size = latent_state_size(n, d),
                one = np * (d + 2), b = bh / x.heads, h = bh % x.heads;
  std::fill_n(w.r, np * d, 0.0f);
  std::fill_n(w.rs, np, 0.0);
  bool later = false;  // r and rs have a unit
  for (int64_t chunk = x.chunks() - 1; chunk >= 0; --chunk) {
    int64_t begin[kC + 1];
    load_state(x.kept.as<float>() + (bh * x.chunks() + chunk) * size, n, np, d, w.s);
    const int64_t parts =
        find_parts(x, b, h, chunk * kC, std::min(x.tokens, (chunk + 1) * kC), w, begin);
    for (int64_t part = parts - 1; part >= 0; --part) {
      const int64_t t = begin[part], c = begin[part + 1] - t;
      std::copy_n(w.starts + part * one, one, w.s.m);
      load_scores(at(x.k, b, h, t), x.k.strides[2], c, n, np, w.tiles.e);
      enter_chunk(w.s, w.tiles, at(x.p, b, h, t), x.p.strides[2], c, n, np, d, w.decay);
      if (later) to_unit(n, d, w.s.m, w);
      std::copy_n(w.s.m, np, w.unit);
      later = true;
      part_gradients(x, b, h, t, c, w);
    }
  }
}

void Backward(const LatentProblem& x) {
  if (!x.causal) return backward_all(x);
  const int64_t np = x.padded(), d = x.width;
  parallel_for(x.batch * x.heads, 1, [&](int64_t first, int64_t last) {
    const int64_t one = np * (d + 2);  // a state in padded form
    cpu::Scratch<float> work(one + 2 * np * d + 2 * np + kC * np * 6 + 2 * kC * kC + kC * d);
    cpu::Scratch<float> starts(kC * one);
    cpu::Scratch<double> rs(np);
    float* next = work.data();
    auto take = [&](int64_t count) {
      float* p = next;
      next += count;
      return p;
    };
    const BackwardWork w{
        {take(np), take(np), take(np * d)},
        take(np * d),
        take(np),
        take(np),
        {take(kC * np), take(kC * np), take(kC * np), take(kC * np), take(kC * kC)},
        take(kC * kC),
        take(kC * np),
        take(kC * np),
        take(np * d + kC * d),
        starts.data(),
        rs.data()};
    for (int64_t bh = first; bh < last; ++bh) backward_head(x, bh, w);
  });
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
namespace {

HWY_EXPORT(Forward);
HWY_EXPORT(Backward);

abi::Status unpack(LatentProblem& x, const LatentInputs& in) {
  const abi::TensorIn &p = in.p, &k = in.k, &v = in.v;
  if (!are_heads({&p, &k, &v}))
    return abi::unsupported("float32 [B, H, T, N] with a contiguous last dimension");
  x.batch = p.sizes[0], x.heads = p.sizes[1], x.tokens = p.sizes[2], x.latents = p.sizes[3],
  x.width = v.sizes[3];
  x.causal = in.causal;
  x.chunk = std::clamp<int64_t>(in.chunk, 1, kLatentChunk);
  x.p = p, x.k = k, x.v = v;
  return abi::ok();
}

abi::Status forward(const abi::KernelContext&, const LatentInputs& in, const abi::TensorOut& o,
                    const abi::TensorOut& state, const abi::TensorOut& kept) {
  LatentProblem x;
  if (abi::Status s = unpack(x, in); s.code) return s;
  x.o = o, x.state = state, x.keep = kept;
  HWY_DYNAMIC_DISPATCH(Forward)(x);
  return abi::ok();
}

abi::Status backward(const abi::KernelContext&, const abi::TensorIn& go, const LatentInputs& in,
                     const abi::TensorIn& kept, const LatentGradients& out) {
  LatentProblem x;
  if (abi::Status s = unpack(x, in); s.code) return s;
  x.go = go, x.kept = kept, x.gp = out.p, x.gk = out.k, x.gv = out.v;
  HWY_DYNAMIC_DISPATCH(Backward)(x);
  return abi::ok();
}

}  // namespace

void provide_latent_cpu(abi::KernelTable& t) {
  t.provide<latent_forward>(&forward);
  t.provide<latent_backward>(&backward);
}

}  // namespace dropin::kernels
#endif  // HWY_ONCE
