// copy and fill: conversions row by row, same-dtype copies as bytes, a transposed pair of
// dimensions in tiles.
#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "dropin/core/parallel.h"
#include "kernels/elementwise/kernel.h"
#include "kernels/strided.h"

namespace dropin::kernels {
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

template <class To, class From>
To convert(From v) {
  if constexpr (std::is_same_v<To, bool>) {
    return v != From(0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    constexpr To least = std::numeric_limits<To>::min(), most = std::numeric_limits<To>::max();
    if (!(v == v)) return 0;
    // The limits as floats are powers of two (most: rounded up or exact), so these comparisons are
    // exact.
    if (v <= static_cast<From>(least)) return least;
    if (v >= static_cast<From>(most)) return most;
    return static_cast<To>(v);
  } else {
    return static_cast<To>(v);
  }
}

template <class To, class From>
void convert_row(const RowArgs&, void* y, const void* const* in, const int64_t* step, int64_t n) {
  const From* p = static_cast<const From*>(in[0]);
  To* q = static_cast<To*>(y);
  if (!step[0])
    std::fill_n(q, n, convert<To>(*p));
  else
    for (int64_t i = 0; i < n; ++i) q[i] = convert<To>(p[i]);
}

template <class F>
Row for_numbers(DType t, F&& f) {  // bfloat16 and float16 reach a row as float
  switch (t) {
    case DType::Float64:
      return f(double{});
    case DType::Int8:
      return f(std::int8_t{});
    case DType::UInt8:
      return f(std::uint8_t{});
    case DType::Int32:
      return f(std::int32_t{});
    case DType::Int64:
      return f(int64_t{});
    case DType::Boolean:
      return f(bool{});
    default:
      return f(float{});
  }
}
Row conversion(DType from, DType to) {
  return for_numbers(from, [&](auto x) {
    return for_numbers(to, [&](auto y) -> Row { return &convert_row<decltype(y), decltype(x)>; });
  });
}

constexpr int64_t kTile =
    16;  // of 4-byte items: a cache line on both sides, so strides of a power of two do no harm

/// y[j * ys + i] = x[i * xs + j] for i < n, j < m.
template <class T>
void transpose_tile(const T* x, int64_t xs, T* y, int64_t ys, int64_t n, int64_t m) {
  int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    typedef T Quad __attribute__((vector_size(16)));
    auto load = [](const T* p) {
      Quad v;
      std::memcpy(&v, p, 16);
      return v;
    };
    for (; i + 4 <= n; i += 4) {
      int64_t j = 0;
      for (; j + 4 <= m; j += 4) {
        const T* p = x + i * xs + j;
        const Quad a = load(p), b = load(p + xs), c = load(p + 2 * xs), d = load(p + 3 * xs);
        const Quad ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                   ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        const Quad cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                   cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        const Quad r[4] = {__builtin_shufflevector(ab0, cd0, 0, 1, 4, 5),
                           __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7),
                           __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5),
                           __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7)};
        for (int k = 0; k < 4; ++k) std::memcpy(y + (j + k) * ys + i, &r[k], 16);
      }
      for (; j < m; ++j)
        for (int k = 0; k < 4; ++k) y[j * ys + i + k] = x[(i + k) * xs + j];
    }
  }
  for (; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) y[j * ys + i] = x[i * xs + j];
}

/// y's last dimension has unit stride, x's dimension d has. Work is split by tiles of (d, last)
/// under every index of the other dimensions.
template <class T>
void transposed_copy(const Loop& l, int d, const T* x, T* y) {
  const int last = l.ndim - 1;
  const int64_t m = l.size[d], n = l.size[last], xs = l.stride[1][last], ys = l.stride[0][d];
  const int64_t bands = ceil_div(m, kTile);
  Loop outer = l;  // the loop with d and last held at 0
  outer.size[d] = outer.size[last] = 1;
  const int64_t others = l.total / (m * n), grain = std::max<int64_t>(1, kGrain / (kTile * n));
  parallel_for(others * bands, grain, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t j = u % bands * kTile, tall = std::min(kTile, m - j);
      const T* from = x + outer.offset(1, u / bands) + j;
      T* to = y + outer.offset(0, u / bands) + j * ys;
      for (int64_t i = 0; i < n; i += kTile)
        transpose_tile(from + i * xs, xs, to + i, ys, std::min(kTile, n - i), tall);
    }
  });
}

bool transposed(const Loop& l, int64_t item, const void* x, void* y) {
  const int last = l.ndim - 1;
  if (l.stride[0][last] != 1 || l.stride[1][last] == 1 || l.stride[1][last] == 0 ||
      l.size[last] < 4)
    return false;
  for (int d = last - 1; d >= 0; --d) {
    if (l.stride[1][d] != 1 || l.size[d] < 4) continue;
    switch (item) {
      case 1:
        transposed_copy(l, d, static_cast<const std::uint8_t*>(x), static_cast<std::uint8_t*>(y));
        break;
      case 2:
        transposed_copy(l, d, static_cast<const std::uint16_t*>(x), static_cast<std::uint16_t*>(y));
        break;
      case 4:
        transposed_copy(l, d, static_cast<const std::uint32_t*>(x), static_cast<std::uint32_t*>(y));
        break;
      default:
        transposed_copy(l, d, static_cast<const std::uint64_t*>(x), static_cast<std::uint64_t*>(y));
        break;
    }
    return true;
  }
  return false;
}

void copy_bytes(const void* x, void* y, int64_t bytes) {
  parallel_for(bytes, kGrain * 4, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(y) + begin, static_cast<const char*>(x) + begin,
                static_cast<std::size_t>(end - begin));
  });
}

Status copy_cpu(const KernelContext&, const TensorIn& x, const TensorOut& y) {
  if (x.ndim != y.ndim || !std::equal(x.sizes, x.sizes + x.ndim, y.sizes))
    return abi::failed("sizes differ");
  copy_values(x, y);
  return abi::ok();
}
Status fill_cpu(const KernelContext&, double value, const TensorOut& y) {
  const int64_t total = y.numel(), item = item_size(y.dtype);
  if (total == 0) return abi::ok();
  Loop loop;
  loop.make({&y});
  const bool dense = loop.dense(0);
  visit_dtype(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    T v;
    if constexpr (sizeof(T) == 2)
      v = T(static_cast<float>(value));
    else
      v = convert<T>(value);
    parallel_for(total, kGrain, [&](int64_t begin, int64_t end) {
      if (dense) {
        std::fill(y.as<T>() + begin, y.as<T>() + end, v);
        return;
      }
      T block[256];
      std::fill_n(block, std::min<int64_t>(256, end - begin), v);
      for (; begin < end; begin += 256)
        scatter(loop, 0, item, block, begin, std::min<int64_t>(256, end - begin), y.as<void>());
    });
  });
  return abi::ok();
}

}  // namespace

void copy_values(const TensorIn& x, const TensorOut& y) {
  const int64_t total = y.numel(), item = item_size(y.dtype);
  if (total == 0) return;
  if (x.dtype != y.dtype) {
    map(conversion(x.dtype, y.dtype), {}, y, {&x});
    return;
  }
  if (x.contiguous() && y.contiguous()) {
    copy_bytes(x.data, y.as<void>(), total * item);
    return;
  }
  Loop loop;
  loop.make({&y, &x});
  const bool x_dense = loop.dense(1), y_dense = loop.dense(0);
  if (x_dense && y_dense) {
    copy_bytes(x.data, y.as<void>(), total * item);
  } else if (transposed(loop, item, x.data, y.as<void>())) {
  } else {
    parallel_for(total, kGrain, [&](int64_t begin, int64_t end) {
      if (y_dense)
        return gather(loop, 1, item, x.data, begin, end - begin, y.as<char>() + begin * item);
      if (x_dense)
        return scatter(loop, 0, item, x.as<char>() + begin * item, begin, end - begin,
                       y.as<void>());
      alignas(64) char block[4096];
      for (const int64_t most = 4096 / item; begin < end; begin += most) {
        const int64_t n = std::min(most, end - begin);
        gather(loop, 1, item, x.data, begin, n, block);
        scatter(loop, 0, item, block, begin, n, y.as<void>());
      }
    });
  }
}

Packed::Packed(const TensorIn& x, DType to) {
  static_cast<TensorIn&>(tensor) = x;
  tensor.dtype = to;
  int64_t n = 1;
  for (int i = x.ndim - 1; i >= 0; --i) {
    tensor.strides[i] = n;
    n *= x.sizes[i];
  }
  memory.reset(new char[static_cast<std::size_t>(std::max<int64_t>(1, n * item_size(to)))]);
  tensor.data = memory.get();
  copy_values(x, tensor);
}

void provide_copy_cpu(abi::KernelTable& t) {
  t.provide<copy>(&copy_cpu);
  t.provide<fill>(&fill_cpu);
}

}  // namespace dropin::kernels
