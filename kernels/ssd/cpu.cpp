// The scan on the CPU. A thread takes samples and heads; a head goes through its chunks of kChunk
// tokens with its state [N, P] in cache. Within a chunk everything is a product of small matrices:
// the pairs of tokens (lower triangle, block rows of kBlock), what the state gives, what it gets.
// Tokens are copied into the chunk in the order of the scan, so both directions are one code.
// Decays are exponentials of differences of sums in float64, never quotients.
// Glossary: s: sum of a = dt A from the chunk's first token; run: number of the token's sequence in
// the chunk (0: the one the state comes from); u = dt x; w: decayed scores; enter, leave, cross:
// decays from the state before, to the state after, from one to the other; g...: gradient of ....
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ssd/cpu.cpp"
#include "hwy/foreach_target.h"  // compiles what follows once per instruction set
//
#include <algorithm>
#include <cmath>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/simd-inl.h"
#include "kernels/ssd/kernel.h"
#include "kernels/tile-inl.h"
#include "src/cpu/scratch.h"

#ifndef DROPIN_KERNELS_SSD_CPU_H_
#define DROPIN_KERNELS_SSD_CPU_H_
namespace dropin::kernels::ssd {

constexpr int64_t kChunk = 64, kBlock = 12;

struct Sizes {
  int64_t batch, length, heads, groups, p, n;
  explicit Sizes(const SsdInputs& in)
      : batch(in.x.sizes[0]),
        length(in.x.sizes[1]),
        heads(in.x.sizes[2]),
        groups(in.B.sizes[2]),
        p(in.x.sizes[3]),
        n(in.B.sizes[3]) {}
  int64_t chunks() const { return ceil_div(length, kChunk); }
};

}  // namespace dropin::kernels::ssd
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {
using ssd::kBlock;
using ssd::kChunk;
using ssd::Sizes;
using Floats = cpu::Scratch<float>;

/// What the pairs of a chunk and its border need, of one head.
class Chunk {
 public:
  Chunk(const SsdInputs& in, const Sizes& z, int64_t b, int64_t h)
      : u(kChunk * z.p),
        keys(kChunk * z.n),
        queries(kChunk * z.n),
        keys_t(kChunk * z.n),
        w(kChunk * kChunk),
        decay(kChunk * kChunk),
        in_(in),
        z_(z),
        b_(b),
        h_(h),
        group_(h / (z.heads / z.groups)),
        a_(in.A.as<float>()[h]) {}

  /// Token i of the chunk, in the order of the scan.
  int64_t token(int64_t i) const { return in_.reverse ? z_.length - 1 - (first_ + i) : first_ + i; }
  /// Rows of an array [B, L, heads or groups, width].
  const float* row(const abi::TensorIn& t, int64_t of, int64_t i) const {
    return t.as<float>() + ((b_ * z_.length + token(i)) * t.sizes[2] + of) * t.sizes[3];
  }
  float dt(int64_t i) const {
    return in_.dt.as<float>()[(b_ * z_.length + token(i)) * z_.heads + h_];
  }

  /// Copies chunk c and computes its sums, decays and scores.
  void load(int64_t c) {
    first_ = c * kChunk;
    q = std::min(kChunk, z_.length - first_);
    double sum = 0;
    int64_t sequence = 0;
    for (int64_t i = 0; i < q; ++i) {
      const float step = dt(i);
      sum += static_cast<double>(step * a_);
      s[i] = sum;
      if (in_.seq_idx.data && first_ + i > 0 && sequence_of(i) != sequence_of(i - 1)) ++sequence;
      run[i] = sequence;
      const float* x = row(in_.x, h_, i);
      for (int64_t p = 0; p < z_.p; ++p) u[i * z_.p + p] = step * x[p];
      std::copy_n(row(in_.B, group_, i), z_.n, keys.data() + i * z_.n);
      std::copy_n(row(in_.C, group_, i), z_.n, queries.data() + i * z_.n);
    }
    careful = !all_finite(u.data(), q, z_.p, z_.p) || !all_finite(keys.data(), q, z_.n, z_.n) ||
              !all_finite(queries.data(), q, z_.n, z_.n);
    for (int64_t i = 0; i < q; ++i) {
      enter[i] = run[i] == 0 ? weight(s[i]) : 0;
      leave[i] = run[i] == run[q - 1] ? weight(s[q - 1] - s[i]) : 0;
    }
    cross = run[q - 1] == 0 ? weight(s[q - 1]) : 0;
    score();
  }
  bool enters(int64_t i) const { return run[i] == 0; }
  bool leaves(int64_t i) const { return run[i] == run[q - 1]; }
  bool crosses() const { return run[q - 1] == 0; }

  int64_t q = 0;        // tokens
  bool careful = true;  // something is not finite
  double s[kChunk];
  int64_t run[kChunk];
  float enter[kChunk], leave[kChunk], cross = 0;
  Floats u, keys, queries, keys_t;  // [q, P], [q, N], [q, N], [N, kChunk]
  Floats w, decay;                  // [q, kChunk], 0 above the diagonal and between sequences

 private:
  static float weight(double exponent) { return std::exp(static_cast<float>(exponent)); }
  int64_t sequence_of(int64_t i) const {
    return in_.seq_idx.as<int64_t>()[b_ * z_.length + token(i)];
  }
  // decay[i, j] = exp(s_i - s_j), w = decay (C_i . B_j)
  void score() {
    pack_transposed(keys.data(), q, z_.n, z_.n, keys_t.data(), kChunk);
    for (int64_t i = 0; i < q; i += kBlock) {
      const int64_t rows = std::min(kBlock, q - i);
      product(rows, i + rows, z_.n, queries.data() + i * z_.n, z_.n, 1, keys_t.data(), kChunk,
              w.data() + i * kChunk, kChunk, false);
    }
    const Tag<float> d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t i = 0; i < q; ++i) {
      float* e = decay.data() + i * kChunk;
      float* to = w.data() + i * kChunk;
      for (int64_t j = 0; j <= i; ++j) e[j] = static_cast<float>(s[i] - s[j]);
      std::fill(e + i + 1, e + kChunk, -kInf<float>);
      for (int64_t j = 0; j <= i; ++j)
        if (run[j] != run[i]) e[j] = -kInf<float>;
      int64_t j = 0;
      for (; j < i + 1; j += lanes) {
        const auto exponent = hn::LoadU(d, e + j);
        const auto seen = hn::Ne(exponent, hn::Set(d, -kInf<float>));  // NaN is seen
        const auto v = hn::IfThenElseZero(seen, exp(d, exponent));
        hn::StoreU(v, d, e + j);
        hn::StoreU(hn::IfThenElseZero(seen, hn::Mul(v, hn::LoadU(d, to + j))), d, to + j);
      }
      std::fill(e + j, e + kChunk, 0.0f);
      std::fill(to + j, to + kChunk, 0.0f);
    }
  }

  const SsdInputs& in_;
  const Sizes& z_;
  int64_t b_, h_, group_, first_ = 0;
  float a_;
};

/// state [N, P] of a head from and to [P, N].
void turned(const float* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

/// out (+)= a triangular [q, kChunk] matrix times values [q, width]; or times its transpose.
void lower_product(const Chunk& k, const float* m, const float* values, int64_t width, float* out) {
  for (int64_t i = 0; i < k.q; i += kBlock) {
    const int64_t rows = std::min(kBlock, k.q - i);
    masked_product(k.careful, rows, width, i + rows, m + i * kChunk, kChunk, 1, values, width,
                   out + i * width, width, false);
  }
}
void upper_product(const Chunk& k, const float* m, const float* values, int64_t width, float* out) {
  for (int64_t j = 0; j < k.q; j += kBlock) {
    const int64_t rows = std::min(kBlock, k.q - j);
    masked_product(k.careful, rows, width, k.q - j, m + j * kChunk + j, 1, kChunk,
                   values + j * width, width, out + j * width, width, false);
  }
}

/// The state after a chunk: cross h + sum_j leave_j B_j u_j^T. `room` [q, N].
void carry(const Chunk& k, const Sizes& z, float* state, float* room) {
  for (int64_t i = 0; i < k.q; ++i)
    for (int64_t n = 0; n < z.n; ++n)
      room[i * z.n + n] = k.leaves(i) ? k.leave[i] * k.keys[i * z.n + n] : 0.0f;
  for (int64_t i = 0; i < z.n * z.p; ++i) state[i] = k.crosses() ? k.cross * state[i] : 0.0f;
  masked_product(k.careful, z.n, z.p, k.q, room, 1, z.n, k.u.data(), z.p, state, z.p, true);
}

void forward_head(const SsdInputs& in, int64_t b, int64_t h, float* y, float* final_state) {
  const Sizes z(in);
  Chunk k(in, z, b, h);
  Floats state(z.n * z.p), near(kChunk * z.p), far(kChunk * z.p), room(kChunk * z.n);
  turned(in.state.as<float>() + (b * z.heads + h) * z.p * z.n, z.p, z.n, state.data());
  const float skip = in.D.data ? in.D.as<float>()[h] : 0;
  for (int64_t c = 0; c < z.chunks(); ++c) {
    k.load(c);
    lower_product(k, k.w.data(), k.u.data(), z.p, near.data());
    product(k.q, z.p, z.n, k.queries.data(), z.n, 1, state.data(), z.p, far.data(), z.p, false);
    for (int64_t i = 0; i < k.q; ++i) {
      float* to = y + ((b * z.length + k.token(i)) * z.heads + h) * z.p;
      const float *from = near.data() + i * z.p, *more = far.data() + i * z.p;
      const float *x = k.row(in.x, h, i), enter = k.enter[i];
      if (k.enters(i)) {
        for (int64_t p = 0; p < z.p; ++p) to[p] = from[p] + enter * more[p];
      } else {
        std::copy_n(from, z.p, to);
      }
      if (in.D.data)
        for (int64_t p = 0; p < z.p; ++p) to[p] += skip * x[p];
    }
    carry(k, z, state.data(), room.data());
  }
  turned(state.data(), z.n, z.p, final_state + (b * z.heads + h) * z.p * z.n);
}

float dot(const float* a, const float* b, int64_t n) {
  const Tag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  float r = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < n; ++i) r += a[i] * b[i];
  return r;
}

/// One head backward. States before each chunk are computed again, then chunks are met from the
/// last to the first with the gradient of the state behind them.
class BackwardHead {
 public:
  BackwardHead(const abi::TensorIn& gy, const abi::TensorIn& gfinal, const SsdInputs& in,
               const SsdGradients& out, int64_t b, int64_t h)
      : gy_(gy),
        in_(in),
        out_(out),
        z_(in),
        b_(b),
        h_(h),
        k_(in, z_, b, h),
        states_((z_.chunks() + 1) * z_.n * z_.p),
        gstate_(z_.n * z_.p),
        turned_(z_.n * z_.p),
        g_(kChunk * z_.p),
        gu_(kChunk * z_.p),
        more_(kChunk * std::max(z_.n, z_.p)),
        gkeys_(kChunk * z_.n),
        gqueries_(kChunk * z_.n),
        room_(kChunk * std::max(z_.n, z_.p)),
        u_t_(kChunk * z_.p),
        m_(kChunk * kChunk),
        gscores_(kChunk * kChunk) {
    const int64_t at = (b * z_.heads + h) * z_.p * z_.n;
    turned(in.state.as<float>() + at, z_.p, z_.n, states_.data());
    if (gfinal.data) {
      turned(gfinal.as<float>() + at, z_.p, z_.n, gstate_.data());
    } else {
      std::fill_n(gstate_.data(), z_.n * z_.p, 0.0f);
    }
  }

  void operator()() {
    const int64_t size = z_.n * z_.p;
    for (int64_t c = 0; c + 1 < z_.chunks(); ++c) {
      k_.load(c);
      std::copy_n(states_.data() + c * size, size, states_.data() + (c + 1) * size);
      carry(k_, z_, states_.data() + (c + 1) * size, room_.data());
    }
    for (int64_t c = z_.chunks(); c-- > 0;) {
      k_.load(c);
      chunk(states_.data() + c * size);
    }
    const int64_t head = b_ * z_.heads + h_;
    turned(gstate_.data(), z_.n, z_.p, out_.state.as<float>() + head * size);
    out_.A.as<float>()[head] = static_cast<float>(ga_);
    if (out_.D.data) out_.D.as<float>()[head] = static_cast<float>(gd_);
  }

 private:
  void chunk(const float* state) {
    for (int64_t i = 0; i < k_.q; ++i) {
      if (gy_.data) {
        std::copy_n(k_.row(gy_, h_, i), z_.p, g_.data() + i * z_.p);
      } else {
        std::fill_n(g_.data() + i * z_.p, z_.p, 0.0f);
      }
      gs_[i] = 0;
    }
    pairs();
    from_state(state);
    to_state(state);
    write();
  }

  // What pairs of tokens give: gu, gkeys, gqueries and gs.
  void pairs() {
    pack_transposed(k_.u.data(), k_.q, z_.p, z_.p, u_t_.data(), kChunk);
    for (int64_t i = 0; i < k_.q; i += kBlock) {
      const int64_t rows = std::min(kBlock, k_.q - i);
      product(rows, i + rows, z_.p, g_.data() + i * z_.p, z_.p, 1, u_t_.data(), kChunk,
              m_.data() + i * kChunk, kChunk, false);
    }
    for (int64_t i = 0; i < k_.q; ++i) {
      const float *m = m_.data() + i * kChunk, *w = k_.w.data() + i * kChunk,
                  *decay = k_.decay.data() + i * kChunk;
      float* to = gscores_.data() + i * kChunk;
      double row = 0;
      for (int64_t j = 0; j <= i; ++j) {
        const bool seen = k_.run[j] == k_.run[i];
        to[j] = seen ? decay[j] * m[j] : 0.0f;
        const double e = seen && j < i ? static_cast<double>(w[j] * m[j]) : 0.0;
        row += e;
        gs_[j] -= e;
      }
      gs_[i] += row;
      std::fill(to + i + 1, to + kChunk, 0.0f);
    }
    upper_product(k_, k_.w.data(), g_.data(), z_.p, gu_.data());
    lower_product(k_, gscores_.data(), k_.keys.data(), z_.n, gqueries_.data());
    upper_product(k_, gscores_.data(), k_.queries.data(), z_.n, gkeys_.data());
  }

  // What tokens read from the state before the chunk.
  void from_state(const float* state) {
    turned(state, z_.n, z_.p, turned_.data());  // [P, N]
    product(k_.q, z_.n, z_.p, g_.data(), z_.p, 1, turned_.data(), z_.n, more_.data(), z_.n, false);
    for (int64_t i = 0; i < k_.q; ++i) {
      if (!k_.enters(i)) continue;
      const float* more = more_.data() + i * z_.n;
      gs_[i] += static_cast<double>(k_.enter[i] * dot(k_.queries.data() + i * z_.n, more, z_.n));
      for (int64_t n = 0; n < z_.n; ++n) gqueries_[i * z_.n + n] += k_.enter[i] * more[n];
    }
  }

  // What tokens gave to the state behind the chunk, and that state's gradient before it.
  void to_state(const float* state) {
    double end = 0;
    product(k_.q, z_.p, z_.n, k_.keys.data(), z_.n, 1, gstate_.data(), z_.p, more_.data(), z_.p,
            false);
    for (int64_t i = 0; i < k_.q; ++i) {
      if (!k_.leaves(i)) continue;
      const float* more = more_.data() + i * z_.p;
      const double f = static_cast<double>(k_.leave[i] * dot(k_.u.data() + i * z_.p, more, z_.p));
      gs_[i] -= f;
      end += f;
      for (int64_t p = 0; p < z_.p; ++p) gu_[i * z_.p + p] += k_.leave[i] * more[p];
    }
    turned(gstate_.data(), z_.n, z_.p, turned_.data());  // [P, N]
    product(k_.q, z_.n, z_.p, k_.u.data(), z_.p, 1, turned_.data(), z_.n, more_.data(), z_.n,
            false);
    for (int64_t i = 0; i < k_.q; ++i)
      for (int64_t n = 0; n < z_.n && k_.leaves(i); ++n)
        gkeys_[i * z_.n + n] += k_.leave[i] * more_[i * z_.n + n];
    if (k_.crosses())
      end += static_cast<double>(k_.cross * dot(state, gstate_.data(), z_.n * z_.p));
    gs_[k_.q - 1] += end;
    for (int64_t i = 0; i < k_.q; ++i)
      for (int64_t n = 0; n < z_.n; ++n)
        room_[i * z_.n + n] = k_.enters(i) ? k_.enter[i] * k_.queries[i * z_.n + n] : 0.0f;
    for (int64_t i = 0; i < z_.n * z_.p; ++i)
      gstate_[i] = k_.crosses() ? k_.cross * gstate_[i] : 0.0f;
    masked_product(k_.careful, z_.n, z_.p, k_.q, room_.data(), 1, z_.n, g_.data(), z_.p,
                   gstate_.data(), z_.p, true);
  }

  void write() {
    const float a = in_.A.as<float>()[h_], skip = in_.D.data ? in_.D.as<float>()[h_] : 0;
    double sum = 0;  // of gs from the last token to this one: the gradient of a
    for (int64_t i = k_.q; i-- > 0;) {
      sum += gs_[i];
      const int64_t token = (b_ * z_.length + k_.token(i)) * z_.heads + h_;
      const float *x = k_.row(in_.x, h_, i), *gu = gu_.data() + i * z_.p, *g = g_.data() + i * z_.p,
                  dt = k_.dt(i);
      ga_ += sum * static_cast<double>(dt);
      gd_ += static_cast<double>(dot(g, x, z_.p));
      out_.dt.as<float>()[token] = static_cast<float>(sum) * a + dot(gu, x, z_.p);
      float* gx = out_.x.as<float>() + token * z_.p;
      for (int64_t p = 0; p < z_.p; ++p) gx[p] = dt * gu[p];
      if (in_.D.data)
        for (int64_t p = 0; p < z_.p; ++p) gx[p] += skip * g[p];
      std::copy_n(gkeys_.data() + i * z_.n, z_.n, out_.B.as<float>() + token * z_.n);
      std::copy_n(gqueries_.data() + i * z_.n, z_.n, out_.C.as<float>() + token * z_.n);
    }
  }

  const abi::TensorIn& gy_;
  const SsdInputs& in_;
  const SsdGradients& out_;
  Sizes z_;
  int64_t b_, h_;
  Chunk k_;
  Floats states_, gstate_, turned_, g_, gu_, more_, gkeys_, gqueries_, room_, u_t_, m_, gscores_;
  double gs_[kChunk], ga_ = 0, gd_ = 0;
};

void backward_head(const abi::TensorIn& gy, const abi::TensorIn& gfinal, const SsdInputs& in,
                   const SsdGradients& out, int64_t b, int64_t h) {
  BackwardHead(gy, gfinal, in, out, b, h)();
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(forward_head);
HWY_EXPORT(backward_head);

namespace {

bool is_array(const abi::TensorIn& t, std::initializer_list<int64_t> sizes) {
  return t.dtype == DType::Float32 && t.contiguous() && t.ndim == static_cast<int>(sizes.size()) &&
         std::equal(sizes.begin(), sizes.end(), t.sizes);
}

abi::Status check(const SsdInputs& in) {
  if (in.x.ndim != 4 || in.B.ndim != 4) return abi::failed("ssd: x and B have four dimensions");
  const ssd::Sizes z(in);
  if (z.groups < 1 || z.heads % z.groups != 0)
    return abi::failed("ssd: heads must be divisible by the groups of B");
  const int64_t b = z.batch, l = z.length, h = z.heads;
  if (!is_array(in.x, {b, l, h, z.p}) || !is_array(in.dt, {b, l, h}) || !is_array(in.A, {h}) ||
      !is_array(in.B, {b, l, z.groups, z.n}) || !is_array(in.C, {b, l, z.groups, z.n}) ||
      (in.D.data && !is_array(in.D, {h})) || !is_array(in.state, {b, h, z.p, z.n}))
    return abi::unsupported("ssd: arrays must be contiguous float32 and fit together");
  if (in.seq_idx.data &&
      (in.seq_idx.dtype != DType::Int64 || !in.seq_idx.contiguous() || in.seq_idx.numel() != b * l))
    return abi::failed("ssd: seq_idx must be contiguous int64 [B, L]");
  return abi::ok();
}

abi::Status forward_cpu(const abi::KernelContext&, const SsdInputs& in, const abi::TensorOut& y,
                        const abi::TensorOut& final_state) {
  if (const abi::Status s = check(in); s.code) return s;
  const ssd::Sizes z(in);
  if (!is_array(y, {z.batch, z.length, z.heads, z.p}) ||
      !is_array(final_state, {z.batch, z.heads, z.p, z.n}))
    return abi::failed("ssd: y and final_state must be as x and state");
  const auto run = &HWY_DYNAMIC_DISPATCH(forward_head);
  parallel_for(z.batch * z.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      run(in, i / z.heads, i % z.heads, y.as<float>(), final_state.as<float>());
  });
  return abi::ok();
}

abi::Status backward_cpu(const abi::KernelContext&, const abi::TensorIn& gy,
                         const abi::TensorIn& gfinal, const SsdInputs& in,
                         const SsdGradients& out) {
  if (const abi::Status s = check(in); s.code) return s;
  const ssd::Sizes z(in);
  const int64_t b = z.batch, l = z.length, h = z.heads;
  if ((gy.data && !is_array(gy, {b, l, h, z.p})) ||
      (gfinal.data && !is_array(gfinal, {b, h, z.p, z.n})) || !is_array(out.x, {b, l, h, z.p}) ||
      !is_array(out.dt, {b, l, h}) || !is_array(out.A, {b, h}) ||
      !is_array(out.B, {b, l, h, z.n}) || !is_array(out.C, {b, l, h, z.n}) ||
      (out.D.data && !is_array(out.D, {b, h})) || !is_array(out.state, {b, h, z.p, z.n}))
    return abi::failed("ssd: gradients must be as what they are of");
  const auto run = &HWY_DYNAMIC_DISPATCH(backward_head);
  parallel_for(b * h, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(gy, gfinal, in, out, i / h, i % h);
  });
  return abi::ok();
}

}  // namespace

void provide_ssd_cpu(abi::KernelTable& t) {
  t.provide<ssd_forward>(&forward_cpu);
  t.provide<ssd_backward>(&backward_cpu);
}

}  // namespace dropin::kernels
#endif
