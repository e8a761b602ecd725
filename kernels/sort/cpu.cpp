// Sorting rows. Every value becomes an unsigned key whose order is the wanted one (NaN largest, -0
// equal to 0, complemented when descending), so one stable radix sort serves all types and both
// directions; short rows are sorted by counting.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "kernels/sort/kernel.h"
#include "src/cpu/scratch.h"

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

template <class T>
using Key = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;

template <class T>
Key<T> key_of(T v, bool descending) {
  using K = Key<T>;
  K k;
  if constexpr (std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>) {
    return key_of(static_cast<float>(v), descending);
  } else if constexpr (std::is_floating_point_v<T>) {
    v += T(0);  // -0 becomes 0
    std::memcpy(&k, &v, sizeof k);
    const K sign = K(1) << (8 * sizeof(K) - 1);
    k = v != v ? ~K(0) : k & sign ? ~k : k | sign;
  } else if constexpr (std::is_signed_v<T>) {
    k = static_cast<K>(
            static_cast<
                std::make_unsigned_t<std::conditional_t<sizeof(T) == 8, int64_t, std::int32_t>>>(
                v)) ^
        (K(1) << (8 * sizeof(K) - 1));
  } else {
    k = static_cast<K>(v);
  }
  return descending ? static_cast<K>(~k) : k;
}

template <class K>
struct Item {
  K key;
  std::uint32_t at;
};

/// Stable; `other` is room for n more. Passes over digits that all items share are left out.
template <class K>
Item<K>* radix_sort(Item<K>* a, Item<K>* other, int64_t n) {
  constexpr int kDigits = sizeof(K);
  std::array<std::array<std::uint32_t, 256>, kDigits> counts{};
  for (int64_t i = 0; i < n; ++i)
    for (int d = 0; d < kDigits; ++d) ++counts[d][(a[i].key >> (8 * d)) & 255];
  for (int d = 0; d < kDigits; ++d) {
    auto& c = counts[d];
    if (c[(a[0].key >> (8 * d)) & 255] == n) continue;
    std::uint32_t at = 0;
    for (auto& x : c) {
      const std::uint32_t size = x;
      x = at;
      at += size;
    }
    for (int64_t i = 0; i < n; ++i) other[c[(a[i].key >> (8 * d)) & 255]++] = a[i];
    std::swap(a, other);
  }
  return a;
}

template <class K>
bool before(const Item<K>& a, const Item<K>& b) {
  return a.key < b.key || (a.key == b.key && a.at < b.at);
}

// Where measurements cross: 64-bit keys have no vector comparison in the portable build, and twice
// the digits.
template <class K>
constexpr int64_t kRankBelow = sizeof(K) == 4 ? 112 : 28;
constexpr int64_t kRadixFrom = 64, kFew = 16;

/// Short rows: an item's place is the number of those before it, counted without a branch. Keys
/// first, so that the counting is vector code.
template <class K>
void rank_sort(const K* keys, int64_t n, std::uint32_t* order) {
  for (int64_t i = 0; i < n; ++i) {
    const K key = keys[i];
    K place = 0;
    for (int64_t j = 0; j < i; ++j) place += keys[j] <= key;
    for (int64_t j = i + 1; j < n; ++j) place += keys[j] < key;
    order[place] = static_cast<std::uint32_t>(i);
  }
}

template <class T>
void sort_rows(const TensorIn& x, bool descending, const TensorOut& values,
               const TensorOut& indices, int64_t rows, int64_t n) {
  parallel_for(rows, std::max<int64_t>(1, 4096 / n), [&](int64_t r, int64_t end) {
    using K = Key<T>;
    const cpu::Scratch<Item<K>> room(2 * n);
    K keys[kRankBelow<K>];
    std::uint32_t order[kRankBelow<K>];
    for (; r < end; ++r) {
      const T* from = x.as<T>() + r * n;
      T* to = values.as<T>() + r * n;
      int64_t* at = indices.as<int64_t>() + r * n;
      if (n < kRankBelow<K>) {
        for (int64_t i = 0; i < n; ++i) keys[i] = key_of(from[i], descending);
        rank_sort(keys, n, order);
        for (int64_t i = 0; i < n; ++i) to[i] = from[order[i]], at[i] = order[i];
        continue;
      }
      Item<K>* items = room.data();
      for (int64_t i = 0; i < n; ++i)
        items[i] = {key_of(from[i], descending), static_cast<std::uint32_t>(i)};
      if (n >= kRadixFrom)
        items = radix_sort(items, items + n, n);
      else
        std::sort(items, items + n, before<K>);
      for (int64_t i = 0; i < n; ++i) to[i] = from[items[i].at], at[i] = items[i].at;
    }
  });
}

/// Few of a row: the best so far, in order; a later key goes in only when it is below the last of
/// them.
template <class T>
void topk_few(const TensorIn& x, int64_t k, bool largest, const TensorOut& values,
              const TensorOut& indices, int64_t rows, int64_t n) {
  using K = Key<T>;
  parallel_for(rows, std::max<int64_t>(1, 16384 / n), [&](int64_t r, int64_t end) {
    Item<K> best[kFew];
    for (; r < end; ++r) {
      const T* from = x.as<T>() + r * n;
      for (int64_t i = 0; i < n; ++i) {
        const K key = key_of(from[i], largest);
        if (i >= k && key >= best[k - 1].key) continue;
        int64_t j = std::min(i, k - 1);
        for (; j > 0 && key < best[j - 1].key; --j) best[j] = best[j - 1];
        best[j] = {key, static_cast<std::uint32_t>(i)};
      }
      for (int64_t i = 0; i < k; ++i) {
        values.as<T>()[r * k + i] = from[best[i].at];
        indices.as<int64_t>()[r * k + i] = best[i].at;
      }
    }
  });
}

/// Keeps the best of what was seen in a buffer; once it is full only what beats the k-th best so
/// far comes in.
template <class T>
void topk_rows(const TensorIn& x, int64_t k, bool largest, const TensorOut& values,
               const TensorOut& indices, int64_t rows, int64_t n) {
  using K = Key<T>;
  parallel_for(rows, std::max<int64_t>(1, 16384 / n), [&](int64_t r, int64_t end) {
    const int64_t room = std::min(n, std::max<int64_t>(2 * k, k + 64));
    const cpu::Scratch<Item<K>> buffer(room);
    Item<K>* const b = buffer.data();
    for (; r < end; ++r) {
      const T* from = x.as<T>() + r * n;
      int64_t count = 0;
      K limit = ~K(0);
      bool full = false;  // k are known: a key must be below the limit (an equal one comes later in
                          // the row)
      for (int64_t i = 0; i < n; ++i) {
        const K key = key_of(from[i], largest);
        if (full && key >= limit) continue;
        b[count++] = {key, static_cast<std::uint32_t>(i)};
        if (count == room && count > k) {
          std::nth_element(b, b + k - 1, b + count, before<K>);
          limit = b[k - 1].key;
          full = true;
          count = k;
        }
      }
      std::partial_sort(b, b + k, b + count, before<K>);
      for (int64_t i = 0; i < k; ++i) {
        values.as<T>()[r * k + i] = from[b[i].at];
        indices.as<int64_t>()[r * k + i] = b[i].at;
      }
    }
  });
}

Status check(const TensorIn& x, const TensorIn& values, const TensorIn& indices, int64_t& rows,
             int64_t& n) {
  if (values.dtype != x.dtype || indices.dtype != DType::Int64)
    return abi::unsupported("sort: values must have x's type, indices int64");
  if (!x.contiguous() || !values.contiguous() || !indices.contiguous())
    return abi::unsupported("sort: arrays must be contiguous");
  n = x.ndim ? x.sizes[x.ndim - 1] : 1;
  rows = n ? x.numel() / n : 0;
  if (n >= int64_t{1} << 32) return abi::unsupported("sort: rows of 2^32 or more");
  return abi::ok();
}

Status sort_cpu(const abi::KernelContext&, const TensorIn& x, bool descending,
                const TensorOut& values, const TensorOut& indices) {
  int64_t rows, n;
  if (Status st = check(x, values, indices, rows, n); st.code) return st;
  if (values.numel() != x.numel() || indices.numel() != x.numel())
    return abi::failed("sort: sizes do not fit");
  if (rows == 0) return abi::ok();
  visit_dtype(x.dtype,
              [&](auto v) { sort_rows<decltype(v)>(x, descending, values, indices, rows, n); });
  return abi::ok();
}

Status topk_cpu(const abi::KernelContext&, const TensorIn& x, int64_t k, bool largest,
                const TensorOut& values, const TensorOut& indices) {
  int64_t rows, n;
  if (Status st = check(x, values, indices, rows, n); st.code) return st;
  if (k < 0 || k > n || values.numel() != rows * k || indices.numel() != rows * k)
    return abi::failed("topk: sizes do not fit");
  if (rows == 0 || k == 0) return abi::ok();
  visit_dtype(x.dtype, [&](auto v) {
    using T = decltype(v);
    if (k <= kFew)
      topk_few<T>(x, k, largest, values, indices, rows, n);
    else
      topk_rows<T>(x, k, largest, values, indices, rows, n);
  });
  return abi::ok();
}

}  // namespace

void provide_sort_cpu(abi::KernelTable& t) {
  t.provide<sort>(&sort_cpu);
  t.provide<topk>(&topk_cpu);
}

}  // namespace dropin::kernels
