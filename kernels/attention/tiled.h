// Tiled attention on tensor cores, forward and backward, for one element type. A block takes 64
// rows (queries; keys where their gradients are made), a warp 16 of them, and walks tiles of the
// other side: only those that the window lets it see. What differs between patterns is data: a
// strand (every step-th position of a segment) is a sequence of its own with position(w) = base + w
// step; dense attention is one strand. Scores, probabilities and sums are f32. Backward recomputes
// the probabilities from lse and rest; gradients of queries and of keys are made by two kernels, so
// that no sum depends on who comes first. Tiles of the other side are copied beside the work:
// 16-bit ones into two buffers in turn, one tile ahead.
#pragma once
#include "kernels/attention/kernel.h"
#include "kernels/cuda/mma.h"

namespace dropin::kernels::cuda::attention {

constexpr int kRows = 64, kWarps = 4, kThreads = 32 * kWarps;
constexpr int kFar = 1 << 30;  // beyond any position

struct Array {
  void* data;
  int64_t b, h, l;  // strides; the last dimension is contiguous
};
struct Mask {
  const void* data;
  int64_t b, h, i, j;
};
struct Job {
  Array q, k, v, o, go, gq, gk, gv;
  float *lse, *rest, *delta;   // [B, H, Lq]
  const float *glse, *slopes;  // [B, H, Lq]; [H]
  const bool* key_mask;        // [B, Lk]
  Mask forbidden, added;
  const int64_t *step, *first;  // [H] on the device; null: one strand
  int64_t B, H, Hk, Lq, Lk, D, Dv, segment, offset, alibi_offset;
  int left, right;
  float scale, bias;
  bool sigmoid, accumulate, own_mean;
};

/// The strand and tile of a block: rows [w0, w0 + 64) of `count` on the row side.
struct Place {
  int64_t b, h, base, step, count, w0;  // count: positions of this strand
  bool any;
};
__device__ inline Place place_of(const Job& p, int64_t rows, int64_t heads) {
  Place r{};
  r.b = blockIdx.y / heads, r.h = blockIdx.y % heads;
  int64_t u = blockIdx.x;
  if (!p.step) {
    r.base = 0, r.step = 1, r.count = rows, r.w0 = u * kRows;
    r.any = r.w0 < rows;
    return r;
  }
  r.step = p.step[r.h];
  const int64_t first = p.first ? p.first[r.h] : -1,
                length = p.segment > 0 && p.segment < rows ? p.segment : rows;
  const int64_t each = ceil_div(ceil_div(length, r.step), kRows),
                kinds = first >= 0 ? 1 : r.step;  // tiles of a strand, strands of a segment
  const int64_t tile = u % each, kind = u / each % kinds, segment = u / (each * kinds);
  const int64_t start = segment * length, left = rows - start < length ? rows - start : length,
                lead = first >= 0 ? first : kind;
  r.base = start + lead;
  r.count = start < rows && lead < left && lead < r.step ? ceil_div(left - lead, r.step) : 0;
  r.w0 = tile * kRows;
  r.any = r.w0 < r.count;
  return r;
}

template <class T>
__device__ __forceinline__ bool is_finite(T v) {
  if constexpr (std::is_same_v<T, bf16>)
    return (v.bits & 0x7f80) != 0x7f80;
  else if constexpr (std::is_same_v<T, f16>)
    return (v.bits & 0x7c00) != 0x7c00;
  else
    return fabsf(v) <= 3.402823466e38f;
}

/// Rows w0.. of a strand into shared memory, `width` columns of kD, the rest 0, as asynchronous
/// copies of a group. Rows beyond the strand are 0; so are keys that `hidden` names.
template <class T, int kD>
__device__ void load_tile(T* to, int rows, const Array& a, int64_t b, int64_t h, const Place& s,
                          int64_t w0, int64_t width, const bool* hidden, bool vectors) {
  constexpr int kLd = kD + 16 / static_cast<int>(sizeof(T)), kV = 16 / static_cast<int>(sizeof(T));
  const T* from = static_cast<const T*>(a.data) + b * a.b + h * a.h;
  for (int e = threadIdx.x; e < rows * (kD / kV); e += kThreads) {
    const int r = e / (kD / kV), c = e % (kD / kV) * kV;
    const int64_t w = w0 + r, at = s.base + w * s.step;
    const bool there = w >= 0 && w < s.count && !(hidden && hidden[at]);
    T* mine = to + r * kLd + c;
    if (vectors && (c + kV <= width || c >= width)) {
      const bool some = there && c < width;
      copy_16(mine, some ? from + at * a.l + c : from, some);
    } else {
      Pack<T, kV> v{};
      for (int i = 0; i < kV; ++i)
        if (there && c + i < width) v.v[i] = from[at * a.l + c + i];
      *reinterpret_cast<Pack<T, kV>*>(mine) = v;
    }
  }
}
/// Takes out of a tile what is not finite; each thread looks at what it loaded itself, and sets
/// *bad where there was something.
template <class T, int kD>
__device__ void clean_tile(T* tile, int rows, int* bad) {
  constexpr int kLd = kD + 16 / static_cast<int>(sizeof(T)), kV = 16 / static_cast<int>(sizeof(T));
  for (int e = threadIdx.x; e < rows * (kD / kV); e += kThreads)
    for (int i = 0; i < kV; ++i)
      if (T& v = tile[e / (kD / kV) * kLd + e % (kD / kV) * kV + i]; !is_finite(v)) {
        *bad = 1;
        v = narrow<T>(0.0f);
      }
}
template <class T>
__device__ __forceinline__ bool vectors_ok(const Array& a) {
  constexpr int64_t kV = 16 / static_cast<int64_t>(sizeof(T));
  return reinterpret_cast<std::uintptr_t>(a.data) % 16 == 0 && a.b % kV == 0 && a.h % kV == 0 &&
         a.l % kV == 0;
}

/// The score of query i and key j (positions), which stand `apart` in their strand; false when the
/// query does not see the key.
__device__ __forceinline__ bool score(const Job& p, int64_t b, int64_t h, int64_t i, int64_t j,
                                      int apart, float dot, float& s) {
  if (apart < p.left || apart > p.right) return false;
  if (p.key_mask && p.key_mask[b * p.Lk + j]) return false;
  if (p.forbidden.data &&
      static_cast<const bool*>(p.forbidden.data)[b * p.forbidden.b + h * p.forbidden.h +
                                                 i * p.forbidden.i + j * p.forbidden.j])
    return false;
  s = dot * p.scale + p.bias;
  if (p.slopes) {
    const int64_t far = i + p.alibi_offset - j;
    s -= p.slopes[h] * static_cast<float>(far < 0 ? -far : far);
  }
  if (p.added.data) {
    const float extra = static_cast<const float*>(
        p.added.data)[b * p.added.b + h * p.added.h + i * p.added.i + j * p.added.j];
    if (extra == -kInf<float>) return false;
    s += extra;
  }
  return true;
}
/// float32 deserves the exact exponential; beside 16-bit inputs the quick one is as good.
template <class T>
__device__ __forceinline__ float exp_of(float x) {
  if constexpr (std::is_same_v<T, float>)
    return expf(x);
  else
    return fast_exp(x);
}
template <class T>
__device__ __forceinline__ float sigmoid_of(float x) {
  return 1.0f / (1.0f + exp_of<T>(-x));
}

/// Every query of a tile sees every key, and nothing but scale and bias is done to a score.
__device__ __forceinline__ bool plain_tile(const Job& p, int apart0, int rows, int columns) {
  return apart0 - (rows - 1) >= p.left && apart0 + columns - 1 <= p.right && !p.key_mask &&
         !p.forbidden.data && !p.added.data && !p.slopes;
}

/// Keys that some query of rows [w0, w0 + n) may see: [from, to) of a strand of `count`.
__device__ __forceinline__ void key_range(const Job& p, int64_t w0, int64_t n, int64_t count,
                                          int64_t& from, int64_t& to) {
  from = p.left <= -kFar ? 0 : w0 + p.offset + p.left;
  to = p.right >= kFar ? count : w0 + n - 1 + p.offset + p.right + 1;
  from = from < 0 ? 0 : from;
  to = to > count ? count : to;
}

__device__ __forceinline__ int64_t tiles_between(int64_t from, int64_t to, int each) {
  return from < to ? ceil_div(to - from, each) : 0;
}

template <class T, int kD>
constexpr int tile_values(int rows) {
  return rows * (kD + 16 / static_cast<int>(sizeof(T)));
}
template <class T>
constexpr int kForwardKeys = sizeof(T) == 4 ? 32 : 64;
template <class T>
constexpr int kStages = sizeof(T) == 4 ? 1 : 2;  // buffers for tiles of the other side
template <class T, int kD>
constexpr std::size_t
forward_bytes() {  // probabilities of the careful pass: in the second buffer, or after the only one
  constexpr std::size_t probabilities = sizeof(float) * kRows * kForwardKeys<T>;
  static_assert(kStages<T> == 1 ||
                sizeof(T) * tile_values<T, kD>(2 * kForwardKeys<T>) >= probabilities);
  return sizeof(T) * static_cast<std::size_t>(
                         tile_values<T, kD>(kRows + 2 * kForwardKeys<T> * kStages<T>)) +
         (kStages<T> == 1 ? probabilities : 0) + 16;
}
constexpr int kBackwardOther = 32;
template <class T, int kD>
constexpr std::size_t backward_bytes() {
  return sizeof(T) * static_cast<std::size_t>(
                         tile_values<T, kD>(2 * kRows + 2 * kBackwardOther * kStages<T>)) +
         3 * kBackwardOther * kStages<T> * sizeof(float);
}

/// c[kN / 8] = rows row0.. of a times the rows of b, transposed.
template <class T, int kD, int kN>
__device__ __forceinline__ void product_rows(float (&c)[kN / 8][4], const T* a, int row0,
                                             const T* b) {
  using M = Mma<T>;
  constexpr int kLd = kD + 16 / static_cast<int>(sizeof(T));
  DROPIN_UNROLL
  for (int n = 0; n < kN / 8; ++n)
    for (int i = 0; i < 4; ++i) c[n][i] = 0;
  DROPIN_UNROLL
  for (int k = 0; k < kD; k += M::kDepth) {
    const auto fa = M::load_a(a, kLd, row0, k);
    DROPIN_UNROLL
    for (int n = 0; n < kN / 8; n += 2) {
      const auto fb = M::load_b_rows(b, kLd, n * 8, k);
      M::run(c[n], fa, fb.b[0]);
      M::run(c[n + 1], fa, fb.b[1]);
    }
  }
}
/// acc[kD / 8] += p[16, kN] times m[kN, kD].
template <class T, int kD, int kN>
__device__ __forceinline__ void product_columns(float (&acc)[kD / 8][4],
                                                const float (&p)[kN / 8][4], const T* m) {
  using M = Mma<T>;
  constexpr int kLd = kD + 16 / static_cast<int>(sizeof(T));
  DROPIN_UNROLL
  for (int k = 0; k < kN / M::kDepth; ++k) {
    const auto fa = M::from_c(p + k * M::kTilesPerA);
    DROPIN_UNROLL
    for (int n = 0; n < kD / 8; n += 2) {
      const auto fb = M::load_b_columns(m, kLd, k * M::kDepth, n * 8);
      M::run(acc[n], fa, fb.b[0]);
      M::run(acc[n + 1], fa, fb.b[1]);
    }
  }
}

/// fetch(u, buffer) starts the copies of tile u, use(u, buffer) works on it once it is there for
/// the whole block, for u < count: with `ahead` one tile is copied beside the work on the one
/// before it, into two buffers in turn; else into the first alone.
template <class Fetch, class Use>
__device__ __forceinline__ void walk_tiles(int64_t count, bool ahead, const Fetch& fetch,
                                           const Use& use) {
  if (count > 0) fetch(0, 0);
  copies_commit();
  int buffer = 0;
  for (int64_t u = 0; u < count; ++u) {
    if (ahead) {
      if (u + 1 < count) fetch(u + 1, buffer ^ 1);
      copies_commit();
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    __syncthreads();
    use(u, buffer);
    __syncthreads();  // before the buffer is filled again
    if (ahead) {
      buffer ^= 1;
    } else {
      if (u + 1 < count) fetch(u + 1, 0);
      copies_commit();
    }
  }
  copies_wait<0>();  // what was copied before the first tile, where there is none
}

/// a + b and what rounding takes from it.
__device__ __forceinline__ float two_sum(float a, float b, float& rest) {
  const float sum = a + b, of_b = sum - a;
  rest = fabsf(sum) <= 3.402823466e38f ? (a - (sum - of_b)) + (b - of_b) : 0.0f;
  return sum;
}

/// Where a thread's values of a product of 16 x 8 tiles lie: rows row0 + g and row0 + g + 8 of the
/// block, columns 2 t and 2 t + 1 of each tile.
struct Lane {
  int g, t, row0;
  __device__ __forceinline__ Lane()
      : g(threadIdx.x % 32 / 4), t(threadIdx.x % 32 % 4), row0(threadIdx.x / 32 * 16) {}
};

/// The greater, or what of them is not a number.
__device__ __forceinline__ float larger(float a, float b) {
  return a != a ? a : b != b ? b : a > b ? a : b;
}

/// Products c of the rows of s with keys k0 ... become scores, -inf where a key is not seen; best:
/// each row's greatest.
template <int kN>
__device__ __forceinline__ void finish_scores(const Job& p, const Lane& lane, const Place& s,
                                              const Place& keys, int64_t k0, float (&c)[kN / 8][4],
                                              float (&best)[2]) {
  const float minus = -kInf<float>;
  const int apart0 = static_cast<int>(k0 - s.w0 - p.offset),
            columns = static_cast<int>(keys.count - k0 < kN ? keys.count - k0 : kN);
  const bool whole = columns == kN && plain_tile(p, apart0, kRows, kN);
  DROPIN_UNROLL
  for (int n = 0; n < kN / 8; ++n) DROPIN_UNROLL
  for (int e = 0; e < 4; ++e) {
    const int row = lane.row0 + lane.g + (e >= 2 ? 8 : 0), column = n * 8 + 2 * lane.t + e % 2;
    float v = c[n][e] * p.scale + p.bias;
    if (!whole &&
        !(column < columns && s.w0 + row < s.count &&
          score(p, s.b, s.h, s.base + (s.w0 + row) * s.step, keys.base + (k0 + column) * keys.step,
                apart0 + column - row, c[n][e], v)))
      v = minus;
    c[n][e] = v;
    best[e / 2] = v > best[e / 2] || v != v ? v : best[e / 2];
  }
}

/// The online softmax: rows' tops take in the greatest scores of a tile, and what was summed so far
/// is rescaled. shift: what is subtracted from the tile's scores.
template <class T, int kD>
__device__ __forceinline__ void raise_tops(float (&best)[2], float (&top)[2], float (&sum)[2],
                                           float (&acc)[kD / 8][4], float (&shift)[2]) {
  const float minus = -kInf<float>;
  DROPIN_UNROLL
  for (int r = 0; r < 2; ++r) {
    best[r] = larger(best[r], __shfl_xor_sync(kFull, best[r], 1));
    best[r] = larger(best[r], __shfl_xor_sync(kFull, best[r], 2));
    const float fresh = larger(top[r], best[r]);
    const float factor = fresh == minus ? 1.0f : exp_of<T>(top[r] - fresh);
    top[r] = fresh;
    shift[r] = fresh == minus ? 0.0f : fresh;
    sum[r] *= factor;
    DROPIN_UNROLL
    for (int n = 0; n < kD / 8; ++n) acc[n][2 * r] *= factor, acc[n][2 * r + 1] *= factor;
  }
}

/// Adds the values that clean_tile took out, by the probabilities c: only where these are not 0.
template <class T, int kD, int kN>
__device__ __forceinline__ void add_not_finite(const Job& p, const Lane& lane, const Place& keys,
                                               int64_t hk, int64_t k0, const bool* hidden,
                                               const float (&c)[kN / 8][4], float* probabilities,
                                               float (&acc)[kD / 8][4]) {
  float* mine = probabilities + lane.row0 * kN;
  for (int n = 0; n < kN / 8; ++n)
    for (int e = 0; e < 4; ++e)
      mine[(lane.g + (e >= 2 ? 8 : 0)) * kN + n * 8 + 2 * lane.t + e % 2] = c[n][e];
  __syncwarp();
  for (int64_t j = 0; j < kN && k0 + j < keys.count; ++j) {
    const int64_t at = keys.base + (k0 + j) * keys.step;
    if (hidden && hidden[at]) continue;
    const T* v = static_cast<const T*>(p.v.data) + keys.b * p.v.b + hk * p.v.h + at * p.v.l;
    DROPIN_UNROLL
    for (int n = 0; n < kD / 8; ++n) DROPIN_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int d = n * 8 + 2 * lane.t + e;
      if (d >= p.Dv || is_finite(v[d])) continue;
      DROPIN_UNROLL
      for (int r = 0; r < 2; ++r)
        if (const float w = mine[(lane.g + 8 * r) * kN + j]; w > 0 || w != w)
          acc[n][2 * r + e] += w * wide<T>(v[d]);
    }
  }
  __syncwarp();
}

/// Is a sum of the block not finite? The same answer for all its threads.
template <int kD>
__device__ __forceinline__ bool any_not_finite(const float (&acc)[kD / 8][4], int* bad) {
  bool fine = true;
  DROPIN_UNROLL
  for (int n = 0; n < kD / 8; ++n) DROPIN_UNROLL
  for (int e = 0; e < 4; ++e) fine = fine && fabsf(acc[n][e]) <= 3.402823466e38f;
  if (threadIdx.x == 0) *bad = 0;
  __syncthreads();
  if (!fine) *bad = 1;
  __syncthreads();
  return *bad;
}

/// Writes o, lse and rest of a block's rows, or merges them into what is there.
template <class T, int kD>
__device__ __forceinline__ void write_rows(const Job& p, const Lane& lane, const Place& s,
                                           const float (&top)[2], float (&sum)[2],
                                           const float (&acc)[kD / 8][4]) {
  const float minus = -kInf<float>;
  // read by all lanes of a row before one of them writes: the shuffles stand between
  float before[2] = {minus, minus}, before_rest[2] = {0, 0};
  for (int r = 0; r < 2; ++r)
    if (const int64_t w = s.w0 + lane.row0 + lane.g + 8 * r;
        p.accumulate && !p.sigmoid && w < s.count) {
      const int64_t at = (s.b * p.H + s.h) * p.Lq + s.base + w * s.step;
      before[r] = p.lse[at], before_rest[r] = p.rest[at];
    }
  DROPIN_UNROLL
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(kFull, sum[r], 1);
    sum[r] += __shfl_xor_sync(kFull, sum[r], 2);
    const int64_t w = s.w0 + lane.row0 + lane.g + 8 * r;
    if (w >= s.count) continue;
    const int64_t i = s.base + w * s.step;
    float mine = p.sigmoid                        ? 1.0f
                 : sum[r] > 0 || sum[r] != sum[r] ? 1.0f / sum[r]
                                                  : 0.0f,
          old = p.sigmoid ? 1.0f : 0.0f;
    if (!p.sigmoid) {
      const int64_t at = (s.b * p.H + s.h) * p.Lq + i;
      float rest = 0, own = minus;
      if (sum[r] > 0 || sum[r] != sum[r]) own = two_sum(top[r], logf(sum[r]), rest);
      if (p.accumulate) {
        const float hi = own > before[r] || own != own ? own : before[r];
        // the shares by their own sum, which makes them add up to 1
        const float a = before[r] == minus ? 0.0f : exp_of<T>(before[r] - hi + before_rest[r]),
                    b = own == minus ? 0.0f : exp_of<T>(own - hi + rest);
        old = hi == minus ? 0.0f : a / (a + b);
        mine *= hi == minus ? 0.0f : b / (a + b);
        own = hi == minus ? minus : two_sum(hi, logf(a + b), rest);
      }
      if (lane.t == 0) p.lse[at] = own, p.rest[at] = rest;
    }
    T* out = static_cast<T*>(p.o.data) + s.b * p.o.b + s.h * p.o.h + i * p.o.l;
    DROPIN_UNROLL
    for (int n = 0; n < kD / 8; ++n) DROPIN_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int d = n * 8 + 2 * lane.t + e;
      if (d < p.Dv)
        out[d] =
            narrow<T>(acc[n][2 * r + e] * mine + (p.accumulate ? wide<T>(out[d]) * old : 0.0f));
    }
  }
}

/// Scores become probabilities, and join the sums of their rows.
template <class T, int kN>
__device__ __forceinline__ void weigh(const Job& p, const float (&shift)[2], float (&c)[kN / 8][4],
                                      float (&sum)[2]) {
  DROPIN_UNROLL
  for (int n = 0; n < kN / 8; ++n) DROPIN_UNROLL
  for (int e = 0; e < 4; ++e) {
    const float v = c[n][e] == -kInf<float> ? 0.0f
                    : p.sigmoid             ? sigmoid_of<T>(c[n][e])
                                            : exp_of<T>(c[n][e] - shift[e / 2]);
    c[n][e] = v;
    sum[e / 2] += v;
  }
}

template <class T, int kD>
__global__ void __launch_bounds__(kThreads) forward_kernel(Job p) {
  constexpr int kN = kForwardKeys<T>, kLd = kD + 16 / static_cast<int>(sizeof(T)),
                kStage = 2 * kN * kLd;
  DROPIN_DYNAMIC_SHARED(T, smem);
  T *qs = smem, *tiles = qs + kRows * kLd;  // keys and values, a buffer after the other
  float* probabilities = reinterpret_cast<float*>(tiles + kStage);
  int* bad = reinterpret_cast<int*>(
      kStages<T> == 1 ? reinterpret_cast<T*>(probabilities + kRows * kN) : tiles + 2 * kStage);
  const float minus = -kInf<float>;
  const Place s = place_of(p, p.Lq, p.H);
  if (!s.any) return;
  Place keys = s;
  if (!p.step) keys.count = p.Lk;
  const int64_t hk = s.h / (p.H / p.Hk);
  const Lane lane;
  const bool* hidden = p.key_mask ? p.key_mask + s.b * p.Lk : nullptr;
  load_tile<T, kD>(qs, kRows, p.q, s.b, s.h, s, s.w0, p.D, nullptr, vectors_ok<T>(p.q));
  int64_t from, to;
  key_range(p, s.w0, kRows, keys.count, from, to);
  from = from / kN * kN;
  auto fetch = [&](int64_t u, int buffer) {
    const int64_t k0 = from + u * kN;
    T* tile = tiles + buffer * kStage;
    load_tile<T, kD>(tile, kN, p.k, s.b, hk, keys, k0, p.D, hidden, vectors_ok<T>(p.k));
    load_tile<T, kD>(tile + kN * kLd, kN, p.v, s.b, hk, keys, k0, p.Dv, hidden, vectors_ok<T>(p.v));
  };
  float acc[kD / 8][4], top[2], sum[2];
  // What is not finite in V leaks through probabilities of 0. Where a sum is not finite the block
  // begins again with care: it takes such values out and adds them where they are seen.
  for (bool careful = false;; careful = true) {
    DROPIN_UNROLL
    for (int n = 0; n < kD / 8; ++n)
      for (int e = 0; e < 4; ++e) acc[n][e] = 0;
    top[0] = top[1] = minus, sum[0] = sum[1] = 0;
    walk_tiles(tiles_between(from, to, kN), kStages<T> == 2 && !careful, fetch,
               [&](int64_t u, int buffer) {
                 const int64_t k0 = from + u * kN;
                 T *ks = tiles + buffer * kStage, *vs = ks + kN * kLd;
                 if (careful) {
                   if (threadIdx.x == 0) *bad = 0;
                   __syncthreads();
                   clean_tile<T, kD>(vs, kN, bad);
                   __syncthreads();
                 }
                 float c[kN / 8][4];
                 product_rows<T, kD, kN>(c, qs, lane.row0, ks);
                 float best[2] = {minus, minus}, shift[2] = {0, 0};
                 finish_scores<kN>(p, lane, s, keys, k0, c, best);
                 if (!p.sigmoid) raise_tops<T, kD>(best, top, sum, acc, shift);
                 weigh<T, kN>(p, shift, c, sum);
                 product_columns<T, kD, kN>(acc, c, vs);
                 if (careful && *bad)
                   add_not_finite<T, kD, kN>(p, lane, keys, hk, k0, hidden, c, probabilities, acc);
               });
    if (careful || !any_not_finite<kD>(acc, bad)) break;
    __syncthreads();
  }
  write_rows<T, kD>(p, lane, s, top, sum, acc);
}

/// delta [B, H, Lq]: sum of go o, less glse. A warp per row.
template <class T>
__global__ void delta_kernel(Job p) {
  const int lane = threadIdx.x % 32;
  for (int64_t u = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       u < p.B * p.H * p.Lq; u += static_cast<int64_t>(gridDim.x) * (blockDim.x / 32)) {
    const int64_t i = u % p.Lq, h = u / p.Lq % p.H, b = u / (p.Lq * p.H);
    const T *o = static_cast<const T*>(p.o.data) + b * p.o.b + h * p.o.h + i * p.o.l,
            *go = static_cast<const T*>(p.go.data) + b * p.go.b + h * p.go.h + i * p.go.l;
    float sum = 0;
    for (int64_t d = lane; d < p.Dv; d += 32) sum += wide<T>(o[d]) * wide<T>(go[d]);
    sum = warp_sum(sum);
    if (lane == 0) p.delta[u] = sum - (p.glse ? p.glse[u] : 0.0f);
  }
}

/// The probability and what multiplies the gradient of a score: p and ds, from the score's product
/// and the gradient of p.
template <class T>
__device__ __forceinline__ void slope(const Job& p, bool seen, float s, float dp, float lse,
                                      float rest, float delta, float& prob, float& ds) {
  prob = ds = 0;
  if (!seen) return;
  if (p.sigmoid) {
    prob = sigmoid_of<T>(s);
    ds = prob * (1.0f - prob) * dp;
  } else if (lse != -kInf<float>) {
    prob = exp_of<T>(s - lse - rest);
    ds = prob == 0.0f ? 0.0f : prob * (dp - delta);
  }
}

/// delta becomes the mean of dp: a row's sum of slopes over its sum of probabilities.
__device__ __forceinline__ void write_means(const Job& p, const Place& s, int row0,
                                            float (&weight)[2], float (&total)[2]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int r = 0; r < 2; ++r) {
    for (int k = 1; k <= 2; k *= 2)
      weight[r] += __shfl_xor_sync(kFull, weight[r], k),
          total[r] += __shfl_xor_sync(kFull, total[r], k);
    const int64_t w = s.w0 + row0 + g + 8 * r;
    if (w < s.count && t == 0)
      p.delta[(s.b * p.H + s.h) * p.Lq + s.base + w * s.step] =
          weight[r] > 0 ? total[r] / weight[r] : 0.0f;
  }
}

template <class T, int kD>
__device__ __forceinline__ void write_query_grads(const Job& p, const Place& s, int row0,
                                                  const float (&acc)[kD / 8][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  DROPIN_UNROLL
  for (int r = 0; r < 2;
       ++r) {  // unrolled: an index that is not known would put the sums into memory
    const int64_t w = s.w0 + row0 + g + 8 * r;
    if (w >= s.count) continue;
    T* out =
        static_cast<T*>(p.gq.data) + s.b * p.gq.b + s.h * p.gq.h + (s.base + w * s.step) * p.gq.l;
    DROPIN_UNROLL
    for (int n = 0; n < kD / 8; ++n) DROPIN_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int d = n * 8 + 2 * t + e;
      if (d < p.D)
        out[d] = narrow<T>(acc[n][2 * r + e] * p.scale + (p.accumulate ? wide<T>(out[d]) : 0.0f));
    }
  }
}

/// lse, rest and delta of the two rows of a lane; 0 where there is none.
__device__ __forceinline__ void load_row_numbers(const Job& p, const Place& s, int row0, bool mean,
                                                 float (&lse)[2], float (&rest)[2],
                                                 float (&delta)[2]) {
  const int g = threadIdx.x % 32 / 4;
  for (int r = 0; r < 2; ++r) {
    const int64_t w = s.w0 + row0 + g + 8 * r;
    if (w >= s.count || p.sigmoid) continue;
    const int64_t at = (s.b * p.H + s.h) * p.Lq + s.base + w * s.step;
    lse[r] = p.lse[at], rest[r] = p.rest[at];
    delta[r] = mean ? 0.0f : p.delta[at];
  }
}

/// Gradients of queries; with `mean`: instead of them delta becomes the mean of dp under the
/// strand's own probabilities.
template <class T, int kD>
__global__ void __launch_bounds__(kThreads) query_grad_kernel(Job p, bool mean) {
  constexpr int kN = kBackwardOther, kLd = kD + 16 / static_cast<int>(sizeof(T)),
                kStage = 2 * kN * kLd;
  DROPIN_DYNAMIC_SHARED(T, smem);
  T *qs = smem, *gs = qs + kRows * kLd,
    *tiles = gs + kRows * kLd;  // keys and values, a buffer after the other
  const Place s = place_of(p, p.Lq, p.H);
  if (!s.any) return;
  Place keys = s;
  if (!p.step) keys.count = p.Lk;
  const int64_t hk = s.h / (p.H / p.Hk);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4,
            row0 = warp * 16;
  const bool* hidden = p.key_mask ? p.key_mask + s.b * p.Lk : nullptr;
  load_tile<T, kD>(qs, kRows, p.q, s.b, s.h, s, s.w0, p.D, nullptr, vectors_ok<T>(p.q));
  load_tile<T, kD>(gs, kRows, p.go, s.b, s.h, s, s.w0, p.Dv, nullptr, vectors_ok<T>(p.go));
  float acc[kD / 8][4] = {}, lse[2] = {0, 0}, rest[2] = {0, 0}, delta[2] = {0, 0},
                 weight[2] = {0, 0}, total[2] = {0, 0};
  load_row_numbers(p, s, row0, mean, lse, rest, delta);
  int64_t from, to;
  key_range(p, s.w0, kRows, keys.count, from, to);
  from = from / kN * kN;
  auto fetch = [&](int64_t u, int buffer) {
    const int64_t k0 = from + u * kN;
    T* tile = tiles + buffer * kStage;
    load_tile<T, kD>(tile, kN, p.k, s.b, hk, keys, k0, p.D, hidden, vectors_ok<T>(p.k));
    load_tile<T, kD>(tile + kN * kLd, kN, p.v, s.b, hk, keys, k0, p.Dv, hidden, vectors_ok<T>(p.v));
  };
  walk_tiles(tiles_between(from, to, kN), kStages<T> == 2, fetch, [&](int64_t u, int buffer) {
    const int64_t k0 = from + u * kN;
    const T *ks = tiles + buffer * kStage, *vs = ks + kN * kLd;
    float c[kN / 8][4], dp[kN / 8][4];
    product_rows<T, kD, kN>(c, qs, row0, ks);
    product_rows<T, kD, kN>(dp, gs, row0, vs);
    const int apart0 = static_cast<int>(k0 - s.w0 - p.offset),
              columns = static_cast<int>(keys.count - k0 < kN ? keys.count - k0 : kN);
    const bool whole = columns == kN && s.w0 + kRows <= s.count && plain_tile(p, apart0, kRows, kN);
    DROPIN_UNROLL
    for (int n = 0; n < kN / 8; ++n) DROPIN_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int row = row0 + g + (e >= 2 ? 8 : 0), column = n * 8 + 2 * t + e % 2;
      float v = c[n][e] * p.scale + p.bias, prob, ds;
      const bool seen = whole || (column < columns && s.w0 + row < s.count &&
                                  score(p, s.b, s.h, s.base + (s.w0 + row) * s.step,
                                        keys.base + (k0 + column) * keys.step,
                                        apart0 + column - row, c[n][e], v));
      slope<T>(p, seen, v, dp[n][e], lse[e / 2], rest[e / 2], delta[e / 2], prob, ds);
      weight[e / 2] += prob;
      total[e / 2] += ds;
      c[n][e] = ds;
    }
    if (!mean) product_columns<T, kD, kN>(acc, c, ks);
  });
  if (mean) return write_means(p, s, row0, weight, total);
  write_query_grads<T, kD>(p, s, row0, acc);
}

/// lse, rest and delta of kN queries from q0 on, each after the other.
template <int kN>
__device__ __forceinline__ void load_numbers(const Job& p, const Place& queries, int64_t h,
                                             int64_t q0, float* numbers) {
  if (threadIdx.x >= kN) return;
  const int64_t w = q0 + threadIdx.x,
                at = (queries.b * p.H + h) * p.Lq + queries.base + w * queries.step;
  float* number = numbers + threadIdx.x;
  const bool there = w < queries.count && !p.sigmoid;
  number[0] = there ? p.lse[at] : 0.0f;
  number[kN] = there ? p.rest[at] : 0.0f;
  number[2 * kN] = there ? p.delta[at] : 0.0f;
}

template <class T, int kD>
__device__ __forceinline__ void write_key_grads(const Job& p, const Place& s, int row0,
                                                const float (&gk)[kD / 8][4],
                                                const float (&gv)[kD / 8][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  DROPIN_UNROLL
  for (int r = 0; r < 2;
       ++r) {  // unrolled: an index that is not known would put the sums into memory
    const int64_t w = s.w0 + row0 + g + 8 * r;
    if (w >= s.count) continue;
    const int64_t at = s.base + w * s.step;
    T *to_k = static_cast<T*>(p.gk.data) + s.b * p.gk.b + s.h * p.gk.h + at * p.gk.l,
      *to_v = static_cast<T*>(p.gv.data) + s.b * p.gv.b + s.h * p.gv.h + at * p.gv.l;
    DROPIN_UNROLL
    for (int n = 0; n < kD / 8; ++n) DROPIN_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int d = n * 8 + 2 * t + e;
      if (d < p.D)
        to_k[d] = narrow<T>(gk[n][2 * r + e] * p.scale + (p.accumulate ? wide<T>(to_k[d]) : 0.0f));
      if (d < p.Dv)
        to_v[d] = narrow<T>(gv[n][2 * r + e] + (p.accumulate ? wide<T>(to_v[d]) : 0.0f));
    }
  }
}

/// Queries that see some key of [w0, w0 + 64): i + offset + left <= j <= i + offset + right, whole
/// tiles of n.
__device__ __forceinline__ void query_range(const Job& p, int64_t w0, int n, int64_t count,
                                            int64_t& from, int64_t& to) {
  from = p.right >= kFar ? 0 : w0 - p.offset - p.right;
  to = p.left <= -kFar ? count : w0 + kRows - 1 - p.offset - p.left + 1;
  from = from < 0 ? 0 : from / n * n;
  to = to > count ? count : to;
}

/// Gradients of keys and values: rows are keys, the loop is over queries, of every head that shares
/// the key's.
template <class T, int kD>
__global__ void __launch_bounds__(kThreads) key_grad_kernel(Job p) {
  constexpr int kN = kBackwardOther, kLd = kD + 16 / static_cast<int>(sizeof(T)),
                kStage = 2 * kN * kLd;
  DROPIN_DYNAMIC_SHARED(T, smem);
  T *ks = smem, *vs = ks + kRows * kLd,
    *tiles =
        vs + kRows * kLd;  // queries and the gradients of their outputs, a buffer after the other
  float* numbers = reinterpret_cast<float*>(
      tiles + kStages<T> * kStage);  // lse, rest, delta of a buffer's queries
  Place s = place_of(p, p.Lk, p.Hk);
  if (!s.any) return;
  Place queries = s;
  if (!p.step) queries.count = p.Lq;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4,
            row0 = warp * 16;
  const bool* hidden = p.key_mask ? p.key_mask + s.b * p.Lk : nullptr;
  load_tile<T, kD>(ks, kRows, p.k, s.b, s.h, s, s.w0, p.D, hidden, vectors_ok<T>(p.k));
  load_tile<T, kD>(vs, kRows, p.v, s.b, s.h, s, s.w0, p.Dv, hidden, vectors_ok<T>(p.v));
  float gk[kD / 8][4] = {}, gv[kD / 8][4] = {};
  int64_t from, to;
  query_range(p, s.w0, kN, queries.count, from, to);
  const int64_t group = p.H / p.Hk,
                each = tiles_between(from, to,
                                     kN);  // tiles of a head; all that share these keys are walked
  auto fetch = [&](int64_t u, int buffer) {
    const int64_t h = s.h * group + u / each, q0 = from + u % each * kN;
    T* tile = tiles + buffer * kStage;
    load_tile<T, kD>(tile, kN, p.q, s.b, h, queries, q0, p.D, nullptr, vectors_ok<T>(p.q));
    load_tile<T, kD>(tile + kN * kLd, kN, p.go, s.b, h, queries, q0, p.Dv, nullptr,
                     vectors_ok<T>(p.go));
    load_numbers<kN>(p, queries, h, q0, numbers + buffer * 3 * kN);
  };
  walk_tiles(group * each, kStages<T> == 2, fetch, [&](int64_t u, int buffer) {
    const int64_t h = s.h * group + u / each, q0 = from + u % each * kN;
    const T *qs = tiles + buffer * kStage, *gs = qs + kN * kLd;
    const float *lse = numbers + buffer * 3 * kN, *rest = lse + kN, *delta = rest + kN;
    float c[kN / 8][4], dp[kN / 8][4];
    product_rows<T, kD, kN>(c, ks, row0, qs);
    product_rows<T, kD, kN>(dp, vs, row0, gs);
    const int apart0 = static_cast<int>(s.w0 - q0 - p.offset),
              columns = static_cast<int>(queries.count - q0 < kN ? queries.count - q0 : kN);
    const bool whole = columns == kN && s.w0 + kRows <= s.count && plain_tile(p, apart0, kN, kRows);
    DROPIN_UNROLL
    for (int n = 0; n < kN / 8; ++n) DROPIN_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int row = row0 + g + (e >= 2 ? 8 : 0), column = n * 8 + 2 * t + e % 2;
      float v = c[n][e] * p.scale + p.bias, prob, ds;
      const bool seen =
          whole || (column < columns && s.w0 + row < s.count &&
                    score(p, s.b, h, queries.base + (q0 + column) * queries.step,
                          s.base + (s.w0 + row) * s.step, apart0 + row - column, c[n][e], v));
      slope<T>(p, seen, v, dp[n][e], lse[column], rest[column], delta[column], prob, ds);
      c[n][e] = prob;
      dp[n][e] = ds;
    }
    product_columns<T, kD, kN>(gv, c, gs);
    product_columns<T, kD, kN>(gk, dp, qs);
  });
  write_key_grads<T, kD>(p, s, row0, gk, gv);
}

template <class T, int kD>
Status run_forward(const KernelContext& c, const Job& p, unsigned tiles) {
  return launch(c, &forward_kernel<T, kD>, dim3(tiles, static_cast<unsigned>(p.B * p.H)),
                dim3(kThreads), forward_bytes<T, kD>(), p);
}
template <class T, int kD>
Status run_backward(const KernelContext& c, const Job& p, unsigned query_tiles,
                    unsigned key_tiles) {
  if (!p.sigmoid) {
    if (p.own_mean)
      DROPIN_TRY(launch(c, &query_grad_kernel<T, kD>,
                        dim3(query_tiles, static_cast<unsigned>(p.B * p.H)), dim3(kThreads),
                        backward_bytes<T, kD>(), p, true));
    else
      DROPIN_TRY(
          launch(c, &delta_kernel<T>, dim3(blocks_for(c, p.B * p.H * p.Lq, 4)), dim3(128), 0, p));
  }
  DROPIN_TRY(launch(c, &query_grad_kernel<T, kD>,
                    dim3(query_tiles, static_cast<unsigned>(p.B * p.H)), dim3(kThreads),
                    backward_bytes<T, kD>(), p, false));
  return launch(c, &key_grad_kernel<T, kD>, dim3(key_tiles, static_cast<unsigned>(p.B * p.Hk)),
                dim3(kThreads), backward_bytes<T, kD>(), p);
}

#define DROPIN_ATTENTION_TYPE(T, NAME)                                                   \
  Status forward_##NAME(const KernelContext& c, const Job& p, unsigned tiles) {          \
    return p.D <= 64 && p.Dv <= 64 ? run_forward<T, 64>(c, p, tiles)                     \
                                   : run_forward<T, 128>(c, p, tiles);                   \
  }                                                                                      \
  Status backward_##NAME(const KernelContext& c, const Job& p, unsigned query_tiles,     \
                         unsigned key_tiles) {                                           \
    return p.D <= 64 && p.Dv <= 64 ? run_backward<T, 64>(c, p, query_tiles, key_tiles)   \
                                   : run_backward<T, 128>(c, p, query_tiles, key_tiles); \
  }

}  // namespace dropin::kernels::cuda::attention
