// The MX formats. float64 goes by the definition in scalar.h, a thread per block. float32 is
// encoded in float arithmetic that is exact: dividing by a power of two, and rounding to whole
// steps of a power of two. Blocks of 32 along the last dimension: where rows are whole blocks,
// eight lanes a block, four neighbouring values each, so that loads are of 16 bytes and codes leave
// packed; else a lane per value. The largest magnitude goes by shuffles. Other blocks: a thread
// each.
#include "kernels/cuda/device.h"
#include "kernels/mx/kernel.h"
#include "kernels/mx/scalar.h"

namespace dropin::kernels::cuda {
namespace {

bool is(const TensorIn& t, DType dtype, int64_t n) {
  return t.dtype == dtype && t.numel() == n && t.contiguous() && (t.data || n == 0);
}
bool sane(const MxArgs& a) {
  return a.outer >= 0 && a.n >= 0 && a.inner >= 0 && a.block >= 1 && (!a.packed || a.inner == 1);
}
int64_t blocks_along(const MxArgs& a) { return ceil_div(a.n, a.block); }

template <class T>
__global__ void blocks_kernel(MxArgs a, const T* x, const float* u, std::uint8_t* codes,
                              std::uint8_t* scales, T* y) {
  const int64_t blocks = ceil_div(a.n, a.block), total = a.outer * blocks * a.inner;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t c = i % a.inner, b = i / a.inner % blocks, o = i / (a.inner * blocks),
                  at = (o * a.n + b * a.block) * a.inner + c;
    const int64_t n = a.n - b * a.block < a.block ? a.n - b * a.block : a.block;
    mx_block<T>(a, x + at, u ? u + at : nullptr, n, a.inner, codes ? codes + at : nullptr,
                scales ? scales + (o * blocks + b) * a.inner + c : nullptr, y ? y + at : nullptr);
  }
}

// --- float32

__device__ __forceinline__ float power(int e) {  // 2^e, e in -149..127
  return e >= -126 ? bits_float((e + 127) << 23) : bits_float(1 << (e + 149));
}
struct Coder {
  MxFormat format;
  MxRounding rounding;
  int width, mantissa, emin, emax, max_code;
  __device__ explicit Coder(const MxArgs& a) : format(a.format), rounding(a.rounding) {
    const MxTraits t = mx_traits(a.format);
    width = t.width, mantissa = t.mantissa, emin = t.emin(), emax = t.emax, max_code = t.max_code;
  }
  __device__ float rounded(float w, float u) const {
    const float k = floorf(w), rest = w - k;
    switch (rounding) {
      case MxRounding::Even:
        return rintf(w);
      case MxRounding::Away:
        return k + (rest >= 0.5f ? 1.0f : 0.0f);
      case MxRounding::Stochastic:
        return k + (static_cast<double>(rest) + static_cast<double>(u) >= 1.0 ? 1.0f : 0.0f);
      default:
        return k;
    }
  }
  /// The code of v, already divided by the scale, and its value.
  __device__ unsigned code(float v, float u, float& value) const {
    const float a = fabsf(v);
    const unsigned negative = static_cast<unsigned>(float_bits(v)) >> 31;
    if (format == MxFormat::Int8) {
      float k = rounded((a < 4.0f ? a : 4.0f) * 64.0f, u);
      k = k < 127.0f ? k : 127.0f;
      value = (negative ? -k : k) * (1.0f / 64);
      return static_cast<unsigned>(static_cast<int>(negative ? -k : k)) & 255u;
    }
    int e = (float_bits(a) >> 23) - 127;
    e = e < emin ? emin : e;
    int c = max_code;
    if (e <= emax + 1) {
      c = ((e - emin) << mantissa) + static_cast<int>(rounded(a * power(mantissa - e), u));
      c = c < max_code ? c : max_code;
    }
    const int ce = c >> mantissa, m = c & ((1 << mantissa) - 1);
    const float magnitude =
        ce ? static_cast<float>(m + (1 << mantissa)) * power(ce - 1 + emin - mantissa)
           : static_cast<float>(m) * power(emin - mantissa);
    value = negative ? -magnitude : magnitude;
    return static_cast<unsigned>(c) | negative << (width - 1);
  }
};
/// mx_scale_exponent of the float with these bits, which is finite and not 0.
__device__ __forceinline__ int scale_exponent(int bits, const MxArgs& a) {
  if (bits < 0x00800000) return mx_scale_exponent(static_cast<double>(bits_float(bits)), a);
  const MxTraits f = mx_traits(a.format);
  const int s = (bits >> 23) - 127 - f.emax +
                (a.ceil_scale && (bits & 0x7fffff) > static_cast<int>(f.largest_mantissa) ? 1 : 0);
  return s < -127 ? -127 : s > 127 ? 127 : s;
}
/// Rows of whole blocks of 32: a.outer * a.n values in a row, four a thread. `codes`: a byte each,
/// or `width` bits.
__global__ void flat_blocks_kernel(MxArgs a, const float* x, const float* u, std::uint8_t* codes,
                                   std::uint8_t* scales, float* y) {
  const Coder coder(a);
  const int64_t quads = a.outer * a.n / 4, stride = static_cast<int64_t>(gridDim.x) * blockDim.x,
                whole = ceil_div(quads, 32) * 32;  // a warp goes on as one
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < whole;
       i += stride) {
    const bool inside = i < quads;
    Pack<float, 4> v{}, draw{};
    if (inside) v = reinterpret_cast<const Pack<float, 4>*>(x)[i];
    if (inside && u) draw = reinterpret_cast<const Pack<float, 4>*>(u)[i];
    int top = 0;
    DROPIN_UNROLL
    for (int k = 0; k < 4; ++k) {
      const int bits = float_bits(v.v[k]) & 0x7fffffff;
      top = bits > top ? bits : top;
    }
    DROPIN_UNROLL
    for (int apart = 1; apart < 8; apart *= 2) {
      const int other = __shfl_xor_sync(kFull, top, apart);
      top = other > top ? other : top;
    }
    if (!inside) continue;
    const bool finite = top < 0x7f800000;
    const int s = finite && top > 0 ? scale_exponent(top, a) : -127;
    if (scales && threadIdx.x % 8 == 0)
      scales[i / 8] = static_cast<std::uint8_t>(finite ? s + 127 : 255);
    const int width = a.packed ? coder.width : 8;
    unsigned word = 0;
    DROPIN_UNROLL
    for (int k = 0; k < 4; ++k) {
      float value = 0;
      if (finite) word |= coder.code(v.v[k] * power(-s), draw.v[k], value) << (width * k);
      v.v[k] = finite ? value * power(s) : bits_float(0x7fc00000);
    }
    if (codes) {
      std::uint8_t* to = codes + i * width / 2;
      if (width == 8)
        *reinterpret_cast<std::uint32_t*>(to) = word;
      else if (width == 4)
        *reinterpret_cast<std::uint16_t*>(to) = static_cast<std::uint16_t>(word);
      else
        to[0] = static_cast<std::uint8_t>(word), to[1] = static_cast<std::uint8_t>(word >> 8),
        to[2] = static_cast<std::uint8_t>(word >> 16);
    }
    if (y) reinterpret_cast<Pack<float, 4>*>(y)[i] = v;
  }
}
/// Whether the flat kernels may take these arrays.
bool flat(const MxArgs& a, const void* x, const void* u, const void* codes, const void* y) {
  return a.inner == 1 && a.block == 32 && a.n % 32 == 0 && aligned(x, 16) && aligned(u, 16) &&
         aligned(codes, 4) && aligned(y, 16);
}
__global__ void warp_blocks_kernel(MxArgs a, const float* x, const float* u, std::uint8_t* codes,
                                   std::uint8_t* scales, float* y) {
  const Coder coder(a);
  const int64_t blocks = ceil_div(a.n, 32),
                warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / 32);
  const int lane = threadIdx.x % 32;
  for (int64_t b = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
       b < a.outer * blocks; b += warps) {
    const int64_t k = b % blocks * 32 + lane, at = b / blocks * a.n + k;
    const bool inside = k < a.n;
    const float v = inside ? x[at] : 0.0f;
    int top = float_bits(v) & 0x7fffffff;
    top = warp_reduce(top, Larger());
    const bool finite = top < 0x7f800000;
    const int s = finite && top > 0 ? scale_exponent(top, a) : -127;
    float value = 0;
    const unsigned c = finite && inside ? coder.code(v * power(-s), u ? u[at] : 0.0f, value) : 0u;
    if (scales && lane == 0) scales[b] = static_cast<std::uint8_t>(finite ? s + 127 : 255);
    if (!inside) continue;
    if (codes) codes[at] = static_cast<std::uint8_t>(c);
    if (y) y[at] = finite ? value * power(s) : bits_float(0x7fc00000);
  }
}
__global__ void float_blocks_kernel(MxArgs a, const float* x, const float* u, std::uint8_t* codes,
                                    std::uint8_t* scales, float* y) {
  const Coder coder(a);
  const int64_t blocks = ceil_div(a.n, a.block), total = a.outer * blocks * a.inner;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t c = i % a.inner, b = i / a.inner % blocks, o = i / (a.inner * blocks),
                  at = (o * a.n + b * a.block) * a.inner + c;
    const int64_t n = a.n - b * a.block < a.block ? a.n - b * a.block : a.block;
    int top = 0;
    for (int64_t k = 0; k < n; ++k) {
      const int bits = float_bits(x[at + k * a.inner]) & 0x7fffffff;
      top = bits > top ? bits : top;
    }
    const bool finite = top < 0x7f800000;
    const int s = finite && top > 0 ? scale_exponent(top, a) : -127;
    if (scales)
      scales[(o * blocks + b) * a.inner + c] = static_cast<std::uint8_t>(finite ? s + 127 : 255);
    for (int64_t k = 0; k < n; ++k) {
      const int64_t p = at + k * a.inner;
      float value = 0;
      const unsigned code = finite ? coder.code(x[p] * power(-s), u ? u[p] : 0.0f, value) : 0u;
      if (codes) codes[p] = static_cast<std::uint8_t>(code);
      if (y) y[p] = finite ? value * power(s) : bits_float(0x7fc00000);
    }
  }
}

// Codes of a row as a bit stream: a thread per byte.
__global__ void pack_kernel(const std::uint8_t* codes, int64_t outer, int64_t n, int width,
                            std::uint8_t* packed) {
  const int64_t bytes = ceil_div(n * width, 8);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < outer * bytes;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t o = i / bytes, bit = i % bytes * 8;
    unsigned b = 0;
    for (int64_t k = bit / width; k < n && k * width < bit + 8; ++k) {
      const int64_t shift = k * width - bit;
      const unsigned c = codes[o * n + k];
      b |= shift >= 0 ? c << shift : c >> -shift;
    }
    packed[i] = static_cast<std::uint8_t>(b);
  }
}
__device__ inline unsigned code_at(const std::uint8_t* row, int64_t k, int width, int64_t bytes) {
  const int64_t bit = k * width, byte = bit / 8;
  unsigned v = row[byte];
  if (byte + 1 < bytes) v |= static_cast<unsigned>(row[byte + 1]) << 8;
  return v >> (bit % 8) & ((1u << width) - 1);
}
__global__ void decode_kernel(MxArgs a, int width, const std::uint8_t* codes,
                              const std::uint8_t* scales, float* y) {
  __shared__ float table[256];
  for (int i = threadIdx.x; i < 1 << width; i += blockDim.x)
    table[i] = static_cast<float>(mx_decode(static_cast<std::uint8_t>(i), a.format));
  __syncthreads();
  const int64_t blocks = ceil_div(a.n, a.block), bytes = a.packed ? ceil_div(a.n * width, 8) : 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < a.outer * a.n * a.inner; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t c = i % a.inner, k = i / a.inner % a.n, o = i / (a.inner * a.n);
    const unsigned code = a.packed ? code_at(codes + o * bytes, k, width, bytes) : codes[i];
    const int s = scales[(o * blocks + k / a.block) * a.inner + c];
    y[i] = s == 255 ? bits_float(0x7fc00000) : table[code] * power(s - 127);
  }
}
/// Rows of whole blocks of 32, four values a thread.
__global__ void flat_decode_kernel(MxArgs a, int width, const std::uint8_t* codes,
                                   const std::uint8_t* scales, float* y) {
  __shared__ float table[256];
  for (int i = threadIdx.x; i < 1 << width; i += blockDim.x)
    table[i] = static_cast<float>(mx_decode(static_cast<std::uint8_t>(i), a.format));
  __syncthreads();
  const int bits = a.packed ? width : 8;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < a.outer * a.n / 4; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const std::uint8_t* from = codes + i * bits / 2;
    unsigned word;
    if (bits == 8)
      word = *reinterpret_cast<const std::uint32_t*>(from);
    else if (bits == 4)
      word = *reinterpret_cast<const std::uint16_t*>(from);
    else
      word = from[0] | static_cast<unsigned>(from[1]) << 8 | static_cast<unsigned>(from[2]) << 16;
    const int s = scales[i / 8];
    const float scale = s == 255 ? bits_float(0x7fc00000) : power(s - 127);
    Pack<float, 4> v;
    DROPIN_UNROLL
    for (int k = 0; k < 4; ++k) v.v[k] = table[word >> (bits * k) & ((1u << width) - 1)] * scale;
    reinterpret_cast<Pack<float, 4>*>(y)[i] = v;
  }
}
__global__ void check_codes_kernel(const std::uint8_t* codes, int64_t n, int width, int* bad) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    if (codes[i] >> width) *bad = 1;
}
Status check_codes(const KernelContext& c, const std::uint8_t* codes, int64_t n, int width) {
  if (n == 0) return abi::ok();
  DROPIN_SCRATCH(int, bad, c, 1);
  DROPIN_TRY(checked(cudaMemsetAsync(bad.get(), 0, sizeof(int), stream_of(c)), c));
  DROPIN_TRY(launch(c, &check_codes_kernel, dim3(blocks_for(c, n, 256)), dim3(256), 0, codes, n,
                    width, bad.get()));
  int any = 0;
  DROPIN_TRY(fetch(c, &any, bad.get(), sizeof any));
  return any ? abi::failed("a code has bits above the format's width") : abi::ok();
}

template <class T>
Status encode(const KernelContext& c, const MxArgs& a, const T* x, const float* u,
              std::uint8_t* codes, std::uint8_t* scales, T* y) {
  const int64_t blocks = a.outer * blocks_along(a) * a.inner;
  if constexpr (std::is_same_v<T, float>) {
    if (flat(a, x, u, codes, y))
      return launch(c, &flat_blocks_kernel, dim3(blocks_for(c, a.outer * a.n / 4, 256)), dim3(256),
                    0, a, x, u, codes, scales, y);
    if (a.inner == 1 && a.block == 32)
      return launch(c, &warp_blocks_kernel, dim3(blocks_for(c, blocks, 8)), dim3(256), 0, a, x, u,
                    codes, scales, y);
    return launch(c, &float_blocks_kernel, dim3(blocks_for(c, blocks, 128)), dim3(128), 0, a, x, u,
                  codes, scales, y);
  } else {
    return launch(c, &blocks_kernel<T>, dim3(blocks_for(c, blocks, 128)), dim3(128), 0, a, x, u,
                  codes, scales, y);
  }
}

Status quantize(const KernelContext& c, const MxArgs& a, const TensorIn& x, const TensorIn& u,
                const TensorOut& codes, const TensorOut& scales) {
  const int64_t n = a.outer * a.n * a.inner;
  const int width = mx_traits(a.format).width;
  const int64_t code_bytes = a.packed ? a.outer * ceil_div(a.n * width, 8) : n;
  DROPIN_REQUIRE(sane(a) && is(x, x.dtype, n) && is(codes, DType::UInt8, code_bytes) &&
                     is(scales, DType::UInt8, a.outer * blocks_along(a) * a.inner),
                 "x, codes and scales must be contiguous and of fitting sizes");
  DROPIN_REQUIRE(a.rounding != MxRounding::Stochastic || is(u, DType::Float32, n),
                 "stochastic rounding needs a random number per element");
  if (n == 0) return abi::ok();
  const bool through = a.packed && width < 8 &&
                       !(x.dtype == DType::Float32 && flat(a, x.data, u.data, codes.data, nullptr));
  DROPIN_SCRATCH(std::uint8_t, loose, c, through ? n : 0);
  std::uint8_t* to = through ? loose.get() : codes.as<std::uint8_t>();
  MxArgs first = a;
  first.packed = a.packed && !through;
  DROPIN_TRY(visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return encode<T>(c, first, x.as<T>(), u.as<float>(), to, scales.as<std::uint8_t>(), nullptr);
  }));
  return through ? launch(c, &pack_kernel, dim3(blocks_for(c, code_bytes, 128)), dim3(128), 0,
                          loose.get(), a.outer, a.n, width, codes.as<std::uint8_t>())
                 : abi::ok();
}
Status fake(const KernelContext& c, const MxArgs& a, const TensorIn& x, const TensorIn& u,
            const TensorOut& y) {
  const int64_t n = a.outer * a.n * a.inner;
  DROPIN_REQUIRE(sane(a) && !a.packed && is(x, x.dtype, n) && is(y, x.dtype, n),
                 "x and y must be contiguous and of one size and dtype");
  DROPIN_REQUIRE(a.rounding != MxRounding::Stochastic || is(u, DType::Float32, n),
                 "stochastic rounding needs a random number per element");
  return visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return encode<T>(c, a, x.as<T>(), u.as<float>(), nullptr, nullptr, y.as<T>());
  });
}
Status dequantize(const KernelContext& c, const MxArgs& a, const TensorIn& codes,
                  const TensorIn& scales, const TensorOut& y) {
  const int64_t n = a.outer * a.n * a.inner;
  const int width = mx_traits(a.format).width;
  DROPIN_REQUIRE(
      sane(a) && is(codes, DType::UInt8, a.packed ? a.outer * ceil_div(a.n * width, 8) : n) &&
          is(scales, DType::UInt8, a.outer * blocks_along(a) * a.inner) && is(y, DType::Float32, n),
      "codes, scales and y must be contiguous and of fitting sizes");
  if (n == 0) return abi::ok();
  if (width < 8 && !a.packed) DROPIN_TRY(check_codes(c, codes.as<std::uint8_t>(), n, width));
  if (flat(a, nullptr, nullptr, codes.data, y.data))
    return launch(c, &flat_decode_kernel, dim3(blocks_for(c, n / 4, 256)), dim3(256), 0, a, width,
                  codes.as<std::uint8_t>(), scales.as<std::uint8_t>(), y.as<float>());
  return launch(c, &decode_kernel, dim3(blocks_for(c, n, 256)), dim3(256), 0, a, width,
                codes.as<std::uint8_t>(), scales.as<std::uint8_t>(), y.as<float>());
}

// --- NVFP4

__global__ void tops_kernel(const float* x, int64_t rows, int64_t n, float* tops, unsigned* most) {
  const int64_t per_row = ceil_div(n, 16);
  unsigned best = 0;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < rows * per_row;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const float* p = x + k / per_row * n + k % per_row * 16;
    const int64_t size = n - k % per_row * 16 < 16 ? n - k % per_row * 16 : 16;
    int bits = 0;
    for (int64_t i = 0; i < size; ++i) {
      const int b = float_bits(p[i]) & 0x7fffffff;
      bits = b > bits ? b : bits;
    }
    const bool finite = bits < 0x7f800000;
    tops[k] = bits_float(finite ? bits : 0x7fc00000);
    if (finite && static_cast<unsigned>(bits) > best) best = static_cast<unsigned>(bits);
  }
  atomicMax(most, best);  // magnitudes are ordered as their bits are
}
__global__ void tensor_scale_kernel(const unsigned* most, float* scale) {
  const float m = bits_float(static_cast<int>(*most));
  *scale = nvfp4_tensor_scale(m);
}
__global__ void nvfp4_kernel(const float* x, int64_t rows, int64_t n, const float* tops,
                             const float* tensor_scale, std::uint8_t* codes, std::uint8_t* scales) {
  const int64_t per_row = ceil_div(n, 16);
  const float scale = *tensor_scale;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < rows * per_row;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t from = k / per_row * n + k % per_row * 16,
                  size = n - k % per_row * 16 < 16 ? n - k % per_row * 16 : 16;
    const float top = tops[k], ratio = top > 0 ? top / 6.0f / scale : 0.0f;
    const std::uint8_t code =
        top != top ? 0x7f : mx_encode(static_cast<double>(ratio), MxFormat::E4M3);
    scales[k] = code;
    const float s = top != top ? 0.0f : static_cast<float>(mx_decode(code, MxFormat::E4M3)) * scale;
    for (int64_t i = 0; i < size; ++i)
      codes[from + i] = s == 0 ? std::uint8_t(0)
                               : mx_encode(static_cast<double>(x[from + i] / s), MxFormat::E2M1);
  }
}
__global__ void nvfp4_decode_kernel(const std::uint8_t* codes, const std::uint8_t* scales,
                                    const float* tensor_scale, int64_t rows, int64_t n, float* y) {
  const int64_t per_row = ceil_div(n, 16);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const float s =
        static_cast<float>(mx_decode(scales[i / n * per_row + i % n / 16], MxFormat::E4M3)) *
        *tensor_scale;
    y[i] = static_cast<float>(mx_decode(codes[i], MxFormat::E2M1)) * s;
  }
}
Status nvfp4_encode(const KernelContext& c, const TensorIn& x, const TensorOut& codes,
                    const TensorOut& scales, const TensorOut& tensor_scale) {
  const int64_t n = x.ndim ? x.sizes[x.ndim - 1] : 1, rows = n ? x.numel() / n : 0,
                blocks = rows * ceil_div(n, 16);
  DROPIN_REQUIRE(is(x, DType::Float32, rows * n) && is(codes, DType::UInt8, rows * n) &&
                     is(scales, DType::UInt8, blocks) && is(tensor_scale, DType::Float32, 1),
                 "x must be contiguous float32, codes and scales uint8 of fitting sizes, "
                 "tensor_scale float32 [1]");
  DROPIN_SCRATCH(float, tops, c, blocks);
  DROPIN_SCRATCH(unsigned, most, c, 1);
  const dim3 grid(blocks_for(c, blocks, 128)), block(128);
  DROPIN_TRY(checked(cudaMemsetAsync(most.get(), 0, sizeof(unsigned), stream_of(c)), c));
  DROPIN_TRY(
      launch(c, &tops_kernel, grid, block, 0, x.as<float>(), rows, n, tops.get(), most.get()));
  DROPIN_TRY(
      launch(c, &tensor_scale_kernel, dim3(1), dim3(1), 0, most.get(), tensor_scale.as<float>()));
  return launch(c, &nvfp4_kernel, grid, block, 0, x.as<float>(), rows, n, tops.get(),
                tensor_scale.as<float>(), codes.as<std::uint8_t>(), scales.as<std::uint8_t>());
}
Status nvfp4_decode(const KernelContext& c, const TensorIn& codes, const TensorIn& scales,
                    const TensorIn& tensor_scale, const TensorOut& y) {
  const int64_t n = codes.ndim ? codes.sizes[codes.ndim - 1] : 1, rows = n ? codes.numel() / n : 0;
  DROPIN_REQUIRE(is(codes, DType::UInt8, rows * n) &&
                     is(scales, DType::UInt8, rows * ceil_div(n, 16)) &&
                     is(tensor_scale, DType::Float32, 1) && is(y, DType::Float32, rows * n),
                 "codes and scales must be contiguous uint8 of fitting sizes, tensor_scale float32 "
                 "[1], y float32");
  DROPIN_TRY(check_codes(c, codes.as<std::uint8_t>(), rows * n, 4));
  return launch(c, &nvfp4_decode_kernel, dim3(blocks_for(c, rows * n, 256)), dim3(256), 0,
                codes.as<std::uint8_t>(), scales.as<std::uint8_t>(), tensor_scale.as<float>(), rows,
                n, y.as<float>());
}

}  // namespace

void provide_mx(KernelTable& t) {
  provide<mx_quantize, &quantize>(t);
  provide<mx_dequantize, &dequantize>(t);
  provide<mx_fake_quantize, &fake>(t);
  provide<nvfp4_quantize, &nvfp4_encode>(t);
  provide<nvfp4_dequantize, &nvfp4_decode>(t);
}

}  // namespace dropin::kernels::cuda
