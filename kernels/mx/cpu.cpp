// MX quantization in one pass. A block's scale comes from the largest bit pattern of its
// magnitudes; an element's code is its exponent above the smallest, shifted behind its mantissa,
// plus |x| 2^(M - e) rounded: for subnormal and normal elements alike, and with the carry into the
// next binade. Integer work on float bits, so only blocks near the ends of the range (where a
// product could be subnormal) go by the definition in scalar.h.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mx/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/bits.h"
#include "kernels/mx/kernel.h"
#include "kernels/mx/scalar.h"
#include "kernels/row-inl.h"
#include "kernels/strided.h"
#include "src/cpu/scratch.h"

#ifndef DROPIN_MX_ARGS_
#define DROPIN_MX_ARGS_
namespace dropin::kernels {
struct MxArrays {
  const float *x = nullptr, *u = nullptr;
  std::uint8_t *codes = nullptr, *scales = nullptr;  ///< or y
  float* y = nullptr;
};
/// n codes of `width` bits as bytes.
inline void mx_pack(const std::uint8_t* codes, int64_t n, int width, std::uint8_t* out) {
  const int64_t whole = n / 8 * 8;
  width == 4 ? pack_codes<4>(codes, whole, out) : pack_codes<6>(codes, whole, out);
  if (whole == n) return;
  std::uint64_t w = 0;
  for (int64_t i = whole; i < n; ++i) w |= std::uint64_t{codes[i]} << (i - whole) * width;
  std::memcpy(out + whole / 8 * width, &w,
              static_cast<std::size_t>(ceil_div((n - whole) * width, 8)));
}
inline void mx_unpack(const std::uint8_t* in, int64_t n, int width, std::uint8_t* codes) {
  const int64_t whole = n / 8 * 8;
  width == 4 ? unpack_codes<4>(in, whole, codes) : unpack_codes<6>(in, whole, codes);
  std::uint64_t w = 0;
  if (whole < n)
    std::memcpy(&w, in + whole / 8 * width,
                static_cast<std::size_t>(ceil_div((n - whole) * width, 8)));
  for (int64_t i = whole; i < n; ++i)
    codes[i] = static_cast<std::uint8_t>(w >> (i - whole) * width & ((1u << width) - 1));
}
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

using F = Tag<float>;
using I = hn::Rebind<std::int32_t, F>;
using U8 = hn::Rebind<std::uint8_t, F>;
using VF = VecOf<F>;
using VI = VecOf<I>;
constexpr std::int32_t kExponent = 0x7f800000, kMagnitude = 0x7fffffff,
                       kLeast =
                           30;  // blocks whose exponents reach below kLeast go by the definition

HWY_INLINE VI abs_bits(VF v) { return hn::And(hn::BitCast(I(), v), hn::Set(I(), kMagnitude)); }
HWY_INLINE void store_codes(VI c, std::uint8_t* p) { hn::StoreU(hn::DemoteTo(U8(), c), U8(), p); }

/// Rounds w >= 0.
template <MxRounding kRounding>
HWY_INLINE VI rounded(VF w, VF u) {
  if constexpr (kRounding == MxRounding::Even) return hn::NearestInt(w);
  const VI k = hn::ConvertTo(I(), w);
  if constexpr (kRounding == MxRounding::Zero) return k;
  const VF rest = hn::Sub(w, hn::ConvertTo(F(), k));
  const auto up = kRounding == MxRounding::Away ? hn::Ge(rest, hn::Set(F(), 0.5f))
                                                : hn::Ge(hn::Add(rest, u), hn::Set(F(), 1.0f));
  return hn::Sub(k, hn::VecFromMask(I(), hn::RebindMask(I(), up)));
}

/// How elements are coded under a scale. `low`: bits of the smallest normal element times the scale
/// (floats), or of 64 over the scale (Int8); a vector, one per lane.
template <bool kInt8, MxRounding kRounding>
struct Coder {
  const F f;
  const I i;
  int mantissa, width;
  VI top_code, power;  // power - e: the bits of 2^(M - e)
  VF largest;          // in units of the smallest normal element
  explicit Coder(const MxTraits& t)
      : mantissa(t.mantissa),
        width(t.width),
        top_code(hn::Set(i, t.max_code)),
        power(hn::Set(i, (254 + t.mantissa) << 23)),
        largest(hn::Set(f, static_cast<float>(std::ldexp(t.largest, -t.emin())))) {}
  /// `low` from the scale byte.
  static std::int32_t low_of(int byte, const MxTraits& t) {
    return kInt8 ? (127 + 6 + 127 - byte) << 23 : (t.emin() + byte) << 23;
  }
  HWY_INLINE VI code(VF x, VI low, VF u) const {
    const VI bits = hn::BitCast(i, x), a = hn::And(bits, hn::Set(i, kMagnitude));
    if constexpr (kInt8) {
      const VI k = hn::Min(rounded<kRounding>(hn::Mul(hn::BitCast(f, a), hn::BitCast(f, low)), u),
                           top_code),
               minus = hn::BroadcastSignBit(bits);
      return hn::And(hn::Sub(hn::Xor(k, minus), minus), hn::Set(i, 255));
    } else {
      const VI e = hn::Max(hn::And(a, hn::Set(i, kExponent)), low);
      const VI k =
          rounded<kRounding>(hn::Mul(hn::BitCast(f, a), hn::BitCast(f, hn::Sub(power, e))), u);
      const VI c =
          hn::Min(hn::Add(hn::ShiftRightSame(hn::Sub(e, low), 23 - mantissa), k), top_code);
      const hn::RebindToUnsigned<I> du;
      return hn::Or(
          c, hn::BitCast(i, hn::ShiftLeftSame(hn::ShiftRight<31>(hn::BitCast(du, x)), width - 1)));
    }
  }
  HWY_INLINE VF fake(VF x, VI low, VF u) const {
    const VI bits = hn::BitCast(i, x), a = hn::And(bits, hn::Set(i, kMagnitude));
    if constexpr (kInt8) {
      const VI k = hn::Min(rounded<kRounding>(hn::Mul(hn::BitCast(f, a), hn::BitCast(f, low)), u),
                           top_code),
               minus = hn::BroadcastSignBit(bits);
      return hn::Mul(hn::ConvertTo(f, hn::Sub(hn::Xor(k, minus), minus)),
                     hn::BitCast(f, hn::Sub(hn::Set(i, 254 << 23), low)));
    } else {
      const VI e = hn::Max(hn::And(a, hn::Set(i, kExponent)), low);
      const VI k =
          rounded<kRounding>(hn::Mul(hn::BitCast(f, a), hn::BitCast(f, hn::Sub(power, e))), u);
      const VF q = hn::Min(
          hn::Mul(hn::ConvertTo(f, k), hn::BitCast(f, hn::Sub(e, hn::Set(i, mantissa << 23)))),
          hn::Mul(hn::BitCast(f, low), largest));
      return hn::CopySign(q, x);
    }
  }
};

/// The scale byte of a largest magnitude given by its bits; 255 for NaN and Inf. *fast: vector code
/// may be used, with `*coded` in the byte's place.
HWY_INLINE int scale_byte(std::int32_t top, const MxArgs& a, const MxTraits& t, bool* fast,
                          int* coded) {
  *fast = top == 0;
  *coded = 127;  // a block of zeros: any scale
  if (top == 0) return 0;
  if (top >= kExponent) return 255;
  if (top < 0x00800000) return 0;  // decided by the definition
  const int byte =
      (top >> 23) - t.emax +
      (a.ceil_scale && (static_cast<std::uint32_t>(top) & 0x7fffffu) > t.largest_mantissa ? 1 : 0);
  *fast = byte + t.emin() >= kLeast && byte <= 254;
  return *coded = byte;
}

/// A block along the last axis: b of row `row`. Its codes, one a byte, go to `codes`.
template <bool kInt8, MxRounding kRounding, bool kFake>
HWY_INLINE void code_block(const Coder<kInt8, kRounding>& coder, const MxArgs& a, const MxTraits& t,
                           const MxArrays& p, int64_t row, int64_t b, std::uint8_t* codes) {
  const F f;
  const I i;
  const int64_t from = row * a.n + b * a.block, size = std::min(a.block, a.n - b * a.block);
  const float *x = p.x + from, *u = p.u ? p.u + from : nullptr;
  float* y = kFake ? p.y + from : nullptr;
  std::uint8_t* scale = kFake ? nullptr : p.scales + row * ceil_div(a.n, a.block) + b;
  VI most = hn::Zero(i);
  each<float>(0, size, [&](auto at) HWY_ATTR { most = hn::Max(most, abs_bits(at.load(f, x))); });
  bool fast;
  int coded;
  const int byte = scale_byte(hn::GetLane(hn::MaxOfLanes(i, most)), a, t, &fast, &coded);
  if (HWY_UNLIKELY(!fast))
    return mx_block<float>(a, x, u, size, 1, kFake ? nullptr : codes, scale, y);
  if constexpr (!kFake) *scale = static_cast<std::uint8_t>(byte);
  const VI low = hn::Set(i, coder.low_of(coded, t));
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  auto random = [&](auto at) HWY_ATTR {
    return kRounding == MxRounding::Stochastic ? at.load(f, u) : hn::Zero(f);
  };
  int64_t k = 0;
  for (; k + lanes <= size; k += lanes) {
    const Whole<float> at{k};
    if constexpr (kFake)
      at.store(f, coder.fake(at.load(f, x), low, random(at)), y);
    else
      store_codes(coder.code(at.load(f, x), low, random(at)), codes + k);
  }
  if (k < size) {
    const Part<float> at{k, size - k};
    if constexpr (kFake) {
      at.store(f, coder.fake(at.load(f, x), low, random(at)), y);
    } else {
      HWY_ALIGN std::int32_t c[hn::MaxLanes(I())];
      hn::Store(coder.code(at.load(f, x), low, random(at)), i, c);
      for (int64_t j = 0; j < size - k; ++j) codes[k + j] = static_cast<std::uint8_t>(c[j]);
    }
  }
}

template <bool kInt8, MxRounding kRounding, bool kFake>
void last_axis(const MxArgs& a, const MxArrays& p) {
  const MxTraits& t = mx_traits(a.format);
  const int64_t per_row = ceil_div(a.n, a.block),
                row_bytes = a.packed ? ceil_div(a.n * t.width, 8) : a.n;
  const bool by_row = a.packed && t.width < 8 && a.block * t.width % 8 != 0,
             pack = a.packed && t.width < 8;
  if (kFake || !by_row) {
    parallel_for(a.outer * per_row, std::max<int64_t>(1, kGrain / a.block),
                 [&](int64_t begin, int64_t end) HWY_ATTR {
                   const Coder<kInt8, kRounding> coder(t);
                   cpu::Scratch<std::uint8_t> codes(pack ? std::min(a.block, a.n) + 8 : 1);
                   int64_t row = begin / per_row, b = begin % per_row;
                   for (int64_t k = begin; k < end; ++k) {
                     if (kFake || !pack) {
                       code_block<kInt8, kRounding, kFake>(
                           coder, a, t, p, row, b,
                           kFake ? nullptr : p.codes + row * a.n + b * a.block);
                     } else {
                       code_block<kInt8, kRounding, kFake>(coder, a, t, p, row, b, codes.data());
                       mx_pack(codes.data(), std::min(a.block, a.n - b * a.block), t.width,
                               p.codes + row * row_bytes + b * a.block * t.width / 8);
                     }
                     if (++b == per_row) b = 0, ++row;
                   }
                 });
    return;
  }
  parallel_for(a.outer, std::max<int64_t>(1, kGrain / std::max<int64_t>(a.n, 1)),
               [&](int64_t begin, int64_t end) HWY_ATTR {
                 const Coder<kInt8, kRounding> coder(t);
                 cpu::Scratch<std::uint8_t> codes(a.n + 8);
                 for (int64_t row = begin; row < end; ++row) {
                   for (int64_t b = 0; b < per_row; ++b)
                     code_block<kInt8, kRounding, kFake>(coder, a, t, p, row, b,
                                                         codes.data() + b * a.block);
                   mx_pack(codes.data(), a.n, t.width, p.codes + row * row_bytes);
                 }
               });
}

constexpr int64_t kWidth = 512;  // columns of a strip

/// Block b of the columns of one strip, in slice o of the outer dimension.
template <bool kInt8, MxRounding kRounding, bool kFake>
HWY_INLINE void code_strip(const Coder<kInt8, kRounding>& coder, const MxArgs& a, const MxTraits& t,
                           const MxArrays& p, int64_t o, int64_t b, int64_t strip) {
  const F f;
  const I i;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f)), per_row = ceil_div(a.n, a.block);
  HWY_ALIGN std::int32_t low[kWidth + 16];
  std::uint8_t bytes[kWidth];
  const int64_t rows = std::min(a.block, a.n - b * a.block),
                columns = std::min(kWidth, a.inner - strip * kWidth);
  const int64_t first = (o * a.n + b * a.block) * a.inner + strip * kWidth,
                scales = (o * per_row + b) * a.inner + strip * kWidth;
  std::memset(low, 0, sizeof low);
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = p.x + first + r * a.inner;
    each<float>(0, columns, [&](auto at) HWY_ATTR {
      hn::StoreU(hn::Max(hn::LoadU(i, low + at.i), abs_bits(at.load(f, x))), i, low + at.i);
    });
  }
  bool fast = true;
  for (int64_t c = 0; c < columns; ++c) {
    bool ok;
    int coded;
    bytes[c] = static_cast<std::uint8_t>(scale_byte(low[c], a, t, &ok, &coded));
    low[c] = coder.low_of(coded, t);
    fast = fast && ok;
  }
  if (HWY_UNLIKELY(!fast)) {  // some column goes by the definition; then all of these do
    for (int64_t c = 0; c < columns; ++c)
      mx_block<float>(a, p.x + first + c, p.u ? p.u + first + c : nullptr, rows, a.inner,
                      kFake ? nullptr : p.codes + first + c,
                      kFake ? nullptr : p.scales + scales + c, kFake ? p.y + first + c : nullptr);
    return;
  }
  if constexpr (!kFake) std::memcpy(p.scales + scales, bytes, static_cast<std::size_t>(columns));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t from = first + r * a.inner;
    each<float>(0, columns, [&](auto at) HWY_ATTR {
      const VI lows = hn::LoadU(i, low + at.i);
      const VF x = at.load(f, p.x + from),
               u = kRounding == MxRounding::Stochastic ? at.load(f, p.u + from) : hn::Zero(f);
      if constexpr (kFake) {
        at.store(f, coder.fake(x, lows, u), p.y + from);
      } else if (at.i + lanes <= columns) {
        store_codes(coder.code(x, lows, u), p.codes + from + at.i);
      } else {
        HWY_ALIGN std::int32_t c[hn::MaxLanes(I())];
        hn::Store(coder.code(x, lows, u), i, c);
        for (int64_t j = 0; j < columns - at.i; ++j)
          p.codes[from + at.i + j] = static_cast<std::uint8_t>(c[j]);
      }
    });
  }
}

/// Blocks down the columns of [n, inner]: a strip of columns at a time, row after row, so that
/// memory is walked in order and the second pass finds the rows in L2.
template <bool kInt8, MxRounding kRounding, bool kFake>
void inner_axis(const MxArgs& a, const MxArrays& p) {
  const MxTraits& t = mx_traits(a.format);
  const int64_t per_row = ceil_div(a.n, a.block), strips = ceil_div(a.inner, kWidth);
  parallel_for(a.outer * per_row * strips,
               std::max<int64_t>(1, kGrain / (std::min(kWidth, a.inner) *
                                              std::min(a.block, std::max<int64_t>(a.n, 1)))),
               [&](int64_t begin, int64_t end) HWY_ATTR {
                 const Coder<kInt8, kRounding> coder(t);
                 for (int64_t task = begin; task < end; ++task)
                   code_strip<kInt8, kRounding, kFake>(coder, a, t, p, task / strips / per_row,
                                                       task / strips % per_row, task % strips);
               });
}

template <bool kInt8, MxRounding kRounding>
void encode_rounding(const MxArgs& a, const MxArrays& p) {
  if (p.y)
    a.inner == 1 ? last_axis<kInt8, kRounding, true>(a, p)
                 : inner_axis<kInt8, kRounding, true>(a, p);
  else
    a.inner == 1 ? last_axis<kInt8, kRounding, false>(a, p)
                 : inner_axis<kInt8, kRounding, false>(a, p);
}
template <bool kInt8>
void encode_kind(const MxArgs& a, const MxArrays& p) {
  switch (a.rounding) {
    case MxRounding::Even:
      return encode_rounding<kInt8, MxRounding::Even>(a, p);
    case MxRounding::Away:
      return encode_rounding<kInt8, MxRounding::Away>(a, p);
    case MxRounding::Zero:
      return encode_rounding<kInt8, MxRounding::Zero>(a, p);
    case MxRounding::Stochastic:
      return encode_rounding<kInt8, MxRounding::Stochastic>(a, p);
  }
}
void encode(const MxArgs& a, const MxArrays& p) {
  a.format == MxFormat::Int8 ? encode_kind<true>(a, p) : encode_kind<false>(a, p);
}

/// values * 2^(byte - 127), n of them, bytes[i * step].
HWY_INLINE void decode_row(const float* table, const std::uint8_t* codes, const std::uint8_t* bytes,
                           int64_t step, int64_t n, float* y) {
  const F f;
  const I i;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(f));
  auto slowly = [&](int64_t from, int64_t to) {
    for (int64_t k = from; k < to; ++k) {
      const int byte = bytes[k * step];
      y[k] = byte == 255
                 ? std::numeric_limits<float>::quiet_NaN()
                 : mx_rounded<float>(std::ldexp(static_cast<double>(table[codes[k]]), byte - 127));
    }
  };
  int64_t k = 0;
  for (; k + lanes <= n; k += lanes) {
    const VI byte = step ? hn::PromoteTo(i, hn::LoadU(U8(), bytes + k)) : hn::Set(i, bytes[0]);
    if (HWY_UNLIKELY(!hn::AllTrue(
            i, hn::And(hn::Gt(byte, hn::Set(i, 40)), hn::Lt(byte, hn::Set(i, 255)))))) {
      slowly(k, k + lanes);
      continue;
    }
    const VF scale = hn::BitCast(f, hn::ShiftLeft<23>(byte));
    hn::StoreU(
        hn::Mul(hn::GatherIndex(f, table, hn::PromoteTo(i, hn::LoadU(U8(), codes + k))), scale), f,
        y + k);
  }
  slowly(k, n);
}
void decode(const MxArgs& a, const std::uint8_t* codes, const std::uint8_t* scales, float* y) {
  const MxTraits& t = mx_traits(a.format);
  float table[256];
  for (int c = 0; c < 256; ++c)
    table[c] = static_cast<float>(mx_decode(static_cast<std::uint8_t>(c), a.format));
  const int64_t blocks = ceil_div(a.n, a.block), row_bytes = ceil_div(a.n * t.width, 8);
  if (a.inner == 1) {
    parallel_for(a.outer, std::max<int64_t>(1, kGrain / std::max<int64_t>(a.n, 1)),
                 [&](int64_t begin, int64_t end) HWY_ATTR {
                   const bool packed = a.packed && t.width < 8;
                   cpu::Scratch<std::uint8_t> row_codes(packed ? a.n + 8 : 1);
                   for (int64_t r = begin; r < end; ++r) {
                     const std::uint8_t* c = codes + r * a.n;
                     if (packed) {
                       mx_unpack(codes + r * row_bytes, a.n, t.width, row_codes.data());
                       c = row_codes.data();
                     }
                     for (int64_t b = 0; b < blocks; ++b)
                       decode_row(table, c + b * a.block, scales + r * blocks + b, 0,
                                  std::min(a.block, a.n - b * a.block), y + r * a.n + b * a.block);
                   }
                 });
    return;
  }
  parallel_for(a.outer * a.n, std::max<int64_t>(1, kGrain / a.inner),
               [&](int64_t begin, int64_t end) HWY_ATTR {
                 for (int64_t r = begin; r < end; ++r)
                   decode_row(table, codes + r * a.inner,
                              scales + (r / a.n * blocks + r % a.n / a.block) * a.inner, 1, a.inner,
                              y + r * a.inner);
               });
}

void nvfp4(const float* x, int64_t rows, int64_t n, std::uint8_t* codes, std::uint8_t* scales,
           float* tensor_scale) {
  const int64_t per_row = ceil_div(n, 16);
  std::vector<float> tops(
      static_cast<std::size_t>(rows * per_row));  // of each block; NaN when it holds NaN or Inf
  parallel_for(rows * per_row, kGrain / 16, [&](int64_t begin, int64_t end) HWY_ATTR {
    const F f;
    const I i;
    for (int64_t k = begin; k < end; ++k) {
      const float* p = x + k / per_row * n + k % per_row * 16;
      VI most = hn::Zero(i);
      each<float>(0, std::min<int64_t>(16, n - k % per_row * 16),
                  [&](auto at) HWY_ATTR { most = hn::Max(most, abs_bits(at.load(f, p))); });
      const std::int32_t bits = hn::GetLane(hn::MaxOfLanes(i, most));
      std::memcpy(&tops[k], &bits, 4);
      if (bits >= kExponent) tops[k] = std::numeric_limits<float>::quiet_NaN();
    }
  });
  float most = 0;
  for (float v : tops) most = v > most ? v : most;
  const float scale = nvfp4_tensor_scale(most);
  *tensor_scale = scale;
  parallel_for(rows * per_row, kGrain / 16, [&](int64_t begin, int64_t end) HWY_ATTR {
    const F f;
    const I i;
    const Coder<false, MxRounding::Even> coder(mx_traits(MxFormat::E2M1));
    const VI low = hn::Set(i, coder.low_of(127, mx_traits(MxFormat::E2M1)));
    for (int64_t k = begin; k < end; ++k) {
      const int64_t from = k / per_row * n + k % per_row * 16,
                    size = std::min<int64_t>(16, n - k % per_row * 16);
      const float top = tops[k], ratio = top > 0 ? top / 6.0f / scale : 0.0f;
      const std::uint8_t code = std::isnan(top) ? 0x7f : mx_encode(ratio, MxFormat::E4M3);
      scales[k] = code;
      const float s =
          std::isnan(top) ? 0.0f : static_cast<float>(mx_decode(code, MxFormat::E4M3)) * scale;
      if (s == 0) {
        std::memset(codes + from, 0, static_cast<std::size_t>(size));
        continue;
      }
      const VF divisor = hn::Set(f, s);
      each<float>(0, size, [&](auto at) HWY_ATTR {
        // beyond 8 everything saturates; the vector code wants no exponents near the ends
        const VF v = hn::Div(at.load(f, x + from), divisor);
        HWY_ALIGN std::int32_t c[hn::MaxLanes(I())];
        hn::Store(
            coder.code(hn::Min(hn::Max(v, hn::Set(f, -8.0f)), hn::Set(f, 8.0f)), low, hn::Zero(f)),
            i, c);
        for (int64_t j = at.i; j < std::min(size, at.i + static_cast<int64_t>(hn::Lanes(f))); ++j)
          codes[from + j] = static_cast<std::uint8_t>(c[j - at.i]);
      });
    }
  });
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(encode);
HWY_EXPORT(decode);
HWY_EXPORT(nvfp4);
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

bool is(const TensorIn& t, DType dtype, int64_t n) {
  return t.dtype == dtype && t.numel() == n && t.contiguous() && (t.data || n == 0);
}
int64_t code_bytes(const MxArgs& a) {
  return a.packed ? a.outer * ceil_div(a.n * mx_traits(a.format).width, 8)
                  : a.outer * a.n * a.inner;
}
bool sane(const MxArgs& a) {
  return a.block >= 1 && a.outer >= 0 && a.n >= 0 && a.inner >= 0 && (!a.packed || a.inner == 1);
}

// float64: the definition
void encode_double(const MxArgs& a, const double* x, const float* u, std::uint8_t* codes,
                   std::uint8_t* scales, double* y) {
  const int64_t blocks = ceil_div(a.n, a.block);
  const int width = mx_traits(a.format).width;
  parallel_for(a.outer, 1, [&](int64_t begin, int64_t end) {
    std::vector<std::uint8_t> row(a.packed ? static_cast<std::size_t>(a.n) : 0);
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t b = 0; b < blocks; ++b)
        for (int64_t c = 0; c < a.inner; ++c) {
          const int64_t at = (o * a.n + b * a.block) * a.inner + c;
          mx_block<double>(
              a, x + at, u ? u + at : nullptr, std::min(a.block, a.n - b * a.block), a.inner,
              !codes     ? nullptr
              : a.packed ? row.data() + b * a.block
                         : codes + at,
              scales ? scales + (o * blocks + b) * a.inner + c : nullptr, y ? y + at : nullptr);
        }
      if (!codes || !a.packed) continue;
      std::uint8_t* out = codes + o * ceil_div(a.n * width, 8);
      if (width == 8)
        std::copy(row.begin(), row.end(), out);
      else
        mx_pack(row.data(), a.n, width, out);
    }
  });
}

Status quantize_cpu(const KernelContext&, const MxArgs& a, const TensorIn& x, const TensorIn& u,
                    const TensorOut& codes, const TensorOut& scales) {
  const int64_t n = a.outer * a.n * a.inner;
  if (x.dtype != DType::Float32 && x.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (!sane(a) || !is(x, x.dtype, n) || !is(codes, DType::UInt8, code_bytes(a)) ||
      !is(scales, DType::UInt8, a.outer * ceil_div(a.n, a.block) * a.inner))
    return abi::failed("x, codes and scales must be contiguous and of fitting sizes");
  if (a.rounding == MxRounding::Stochastic && !is(u, DType::Float32, n))
    return abi::failed("stochastic rounding needs a random number per element");
  if (n == 0) return abi::ok();
  if (x.dtype == DType::Float64)
    encode_double(a, x.as<double>(), u.as<float>(), codes.as<std::uint8_t>(),
                  scales.as<std::uint8_t>(), nullptr);
  else
    HWY_DYNAMIC_DISPATCH(encode)
  (a, {x.as<float>(), u.as<float>(), codes.as<std::uint8_t>(), scales.as<std::uint8_t>(), nullptr});
  return abi::ok();
}

Status fake_cpu(const KernelContext&, const MxArgs& a, const TensorIn& x, const TensorIn& u,
                const TensorOut& y) {
  const int64_t n = a.outer * a.n * a.inner;
  if (x.dtype != DType::Float32 && x.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (!sane(a) || a.packed || !is(x, x.dtype, n) || !is(y, x.dtype, n))
    return abi::failed("x and y must be contiguous and of one size and dtype");
  if (a.rounding == MxRounding::Stochastic && !is(u, DType::Float32, n))
    return abi::failed("stochastic rounding needs a random number per element");
  if (n == 0) return abi::ok();
  if (x.dtype == DType::Float64)
    encode_double(a, x.as<double>(), u.as<float>(), nullptr, nullptr, y.as<double>());
  else
    HWY_DYNAMIC_DISPATCH(encode)
  (a, {x.as<float>(), u.as<float>(), nullptr, nullptr, y.as<float>()});
  return abi::ok();
}

Status dequantize_cpu(const KernelContext&, const MxArgs& a, const TensorIn& codes,
                      const TensorIn& scales, const TensorOut& y) {
  const int64_t n = a.outer * a.n * a.inner;
  const int width = mx_traits(a.format).width;
  if (!sane(a) || !is(codes, DType::UInt8, code_bytes(a)) ||
      !is(scales, DType::UInt8, a.outer * ceil_div(a.n, a.block) * a.inner) ||
      !is(y, DType::Float32, n))
    return abi::failed("codes, scales and y must be contiguous and of fitting sizes");
  if (n == 0) return abi::ok();
  if (width < 8 && !a.packed) {
    std::uint8_t all = 0;
    const std::uint8_t* c = codes.as<std::uint8_t>();
    for (int64_t i = 0; i < n; ++i) all |= c[i];
    if (all >> width) return abi::failed("a code has bits above the format's width");
  }
  HWY_DYNAMIC_DISPATCH(decode)
  (a, codes.as<std::uint8_t>(), scales.as<std::uint8_t>(), y.as<float>());
  return abi::ok();
}

Status nvfp4_quantize_cpu(const KernelContext&, const TensorIn& x, const TensorOut& codes,
                          const TensorOut& scales, const TensorOut& tensor_scale) {
  const int64_t n = x.ndim ? x.sizes[x.ndim - 1] : 1, rows = n ? x.numel() / n : 0;
  if (!is(x, DType::Float32, rows * n) || !is(codes, DType::UInt8, rows * n) ||
      !is(scales, DType::UInt8, rows * ceil_div(n, 16)) || !is(tensor_scale, DType::Float32, 1))
    return abi::failed(
        "x must be contiguous float32, codes and scales uint8 of fitting sizes, tensor_scale "
        "float32 [1]");
  HWY_DYNAMIC_DISPATCH(nvfp4)
  (x.as<float>(), rows, n, codes.as<std::uint8_t>(), scales.as<std::uint8_t>(),
   tensor_scale.as<float>());
  return abi::ok();
}

Status nvfp4_dequantize_cpu(const KernelContext&, const TensorIn& codes, const TensorIn& scales,
                            const TensorIn& tensor_scale, const TensorOut& y) {
  const int64_t n = codes.ndim ? codes.sizes[codes.ndim - 1] : 1, rows = n ? codes.numel() / n : 0,
                per_row = ceil_div(n, 16);
  if (!is(codes, DType::UInt8, rows * n) || !is(scales, DType::UInt8, rows * per_row) ||
      !is(tensor_scale, DType::Float32, 1) || !is(y, DType::Float32, rows * n))
    return abi::failed(
        "codes and scales must be contiguous uint8 of fitting sizes, tensor_scale float32 [1], y "
        "float32");
  const std::uint8_t *c = codes.as<std::uint8_t>(), *s = scales.as<std::uint8_t>();
  std::uint8_t all = 0;
  for (int64_t i = 0; i < rows * n; ++i) all |= c[i];
  if (all >> 4) return abi::failed("a code has bits above the format's width");
  float elements[16], block_scales[256];
  for (int i = 0; i < 16; ++i)
    elements[i] = static_cast<float>(mx_decode(static_cast<std::uint8_t>(i), MxFormat::E2M1));
  for (int i = 0; i < 256; ++i)
    block_scales[i] = static_cast<float>(mx_decode(static_cast<std::uint8_t>(i), MxFormat::E4M3)) *
                      tensor_scale.as<float>()[0];
  float* out = y.as<float>();
  parallel_for(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(n, 1)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t r = begin; r < end; ++r)
                   for (int64_t i = 0; i < n; ++i)
                     out[r * n + i] =
                         elements[c[r * n + i]] * block_scales[s[r * per_row + i / 16]];
               });
  return abi::ok();
}

}  // namespace

void provide_mx_cpu(abi::KernelTable& t) {
  t.provide<mx_quantize>(&quantize_cpu);
  t.provide<mx_dequantize>(&dequantize_cpu);
  t.provide<mx_fake_quantize>(&fake_cpu);
  t.provide<nvfp4_quantize>(&nvfp4_quantize_cpu);
  t.provide<nvfp4_dequantize>(&nvfp4_dequantize_cpu);
}

}  // namespace dropin::kernels
#endif
