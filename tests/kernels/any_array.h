// Small strided arrays of any dtype, for tests that call kernels directly and compare with loops in
// double.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"

namespace dropin::test {

using Sizes = std::vector<int64_t>;
inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline const double kNaN = std::numeric_limits<double>::quiet_NaN();

/// How an array lies in memory.
enum class Layout {
  Dense,
  Transposed /* last two dims */,
  Strided /* every second element of a wider last dim */,
  Reversed /* dims back to front */
};
inline constexpr Layout kLayouts[] = {Layout::Dense, Layout::Transposed, Layout::Strided,
                                      Layout::Reversed};

inline int64_t count(const Sizes& s) {
  return std::accumulate(s.begin(), s.end(), int64_t{1}, std::multiplies<>());
}

/// Values are read and written as double, by row-major index; storage has guard bytes that check()
/// looks at.
class Array {
 public:
  Array(DType t, Sizes sizes, Layout layout = Layout::Dense) : dtype_(t), sizes_(std::move(sizes)) {
    const int n = static_cast<int>(sizes_.size());
    std::vector<int> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    if (layout == Layout::Transposed && n >= 2) std::swap(order[n - 1], order[n - 2]);
    if (layout == Layout::Reversed) std::reverse(order.begin(), order.end());
    strides_.resize(static_cast<std::size_t>(n));
    int64_t step = layout == Layout::Strided ? 2 : 1;
    for (int i = n - 1; i >= 0; --i) {
      strides_[order[i]] = step;
      step *= std::max<int64_t>(1, sizes_[order[i]]);
    }
    bytes_.assign(static_cast<std::size_t>((step + 2) * item_size(t) + 2 * kGuard), 0);
    std::memset(bytes_.data(), kMark, kGuard);
    std::memset(bytes_.data() + bytes_.size() - kGuard, kMark, kGuard);
  }
  /// The same values seen with stride 0 along the dims of size 1 that are widened to `sizes`.
  abi::TensorIn broadcast(const Sizes& sizes) const {
    abi::TensorIn t = in();
    t.ndim = static_cast<int>(sizes.size());
    const int lead = t.ndim - static_cast<int>(sizes_.size());
    for (int i = 0; i < t.ndim; ++i) {
      t.sizes[i] = sizes[i];
      t.strides[i] = i < lead || (sizes_[i - lead] == 1 && sizes[i] != 1) ? 0 : strides_[i - lead];
    }
    return t;
  }
  abi::TensorIn in() const {
    abi::TensorIn t;
    fill(t);
    return t;
  }
  abi::TensorOut out() {
    abi::TensorOut t;
    fill(t);
    return t;
  }
  int64_t size() const { return count(sizes_); }
  const Sizes& sizes() const { return sizes_; }
  DType dtype() const { return dtype_; }

  double operator[](int64_t flat) const {
    return visit_dtype(dtype_, [&](auto zero) {
      decltype(zero) v;
      std::memcpy(&v, at(flat), sizeof v);
      if constexpr (sizeof v == 2)
        return static_cast<double>(static_cast<float>(v));
      else
        return static_cast<double>(v);
    });
  }
  void set(int64_t flat, double value) {
    visit_dtype(dtype_, [&](auto zero) {
      using T = decltype(zero);
      T v;
      if constexpr (sizeof(T) == 2 || std::is_same_v<T, float>)
        v = T(static_cast<float>(value));
      else if constexpr (std::is_same_v<T, bool>)
        v = value != 0;
      else
        v = static_cast<T>(value);
      std::memcpy(at(flat), &v, sizeof v);
    });
  }
  Array& random(double lo, double hi, unsigned seed = 1) {
    std::mt19937_64 rng(seed);
    std::uniform_real_distribution<double> u(lo, hi);
    for (int64_t i = 0; i < size(); ++i) set(i, is_floating(dtype_) ? u(rng) : std::round(u(rng)));
    return *this;
  }
  Array& values(const std::vector<double>& v) {
    for (int64_t i = 0; i < size(); ++i) set(i, v[static_cast<std::size_t>(i) % v.size()]);
    return *this;
  }
  void check_guards() const {
    for (std::size_t i = 0; i < kGuard; ++i) {
      ASSERT_EQ(bytes_[i], kMark) << "written before the array";
      ASSERT_EQ(bytes_[bytes_.size() - 1 - i], kMark) << "written behind the array";
    }
  }

 private:
  static constexpr std::size_t kGuard = 64;
  static constexpr char kMark = 0x5a;
  void fill(abi::TensorIn& t) const {
    t.data = bytes_.data() + kGuard;
    t.dtype = dtype_;
    t.ndim = static_cast<int>(sizes_.size());
    for (int i = 0; i < t.ndim; ++i) t.sizes[i] = sizes_[i], t.strides[i] = strides_[i];
  }
  char* at(int64_t flat) const {
    int64_t offset = 0;
    for (int i = static_cast<int>(sizes_.size()) - 1; i >= 0; --i) {
      offset += flat % sizes_[i] * strides_[i];
      flat /= sizes_[i];
    }
    return const_cast<char*>(bytes_.data()) + kGuard + offset * item_size(dtype_);
  }
  DType dtype_;
  Sizes sizes_, strides_;
  std::vector<char> bytes_;
};

/// Relative rounding of one operation in the dtype.
inline double epsilon(DType t) {
  switch (t) {
    case DType::Float64:
      return 0x1p-52;
    case DType::Float32:
      return 0x1p-23;
    case DType::Float16:
      return 0x1p-10;
    case DType::BFloat16:
      return 0x1p-7;
    default:
      return 0;
  }
}
inline double smallest(DType t) {
  return t == DType::Float64 ? 1e-307 : t == DType::Float16 ? 6.2e-5 : 1.2e-38;
}
inline double largest(DType t) {
  return t == DType::Float64    ? std::numeric_limits<double>::max()
         : t == DType::Float16  ? 65504.0
         : t == DType::BFloat16 ? 3.3895e38
                                : 3.4028234e38;
}

/// got is want, to `ulps` units of the dtype (and absolutely where want is below `floor`).
inline bool close(DType t, double got, double want, double ulps, double floor = 0) {
  if (std::isnan(want)) return std::isnan(got);
  if (got == want) return true;
  if (std::fabs(want) > largest(t))
    return std::fabs(got) >= largest(t) * (1 - epsilon(t)) && (got < 0) == (want < 0);
  if (!std::isfinite(got)) return std::fabs(want) > largest(t) * (1 - 4 * epsilon(t));
  return std::fabs(got - want) <=
         ulps * epsilon(t) * std::max({std::fabs(want), floor, smallest(t)});
}

inline void expect_close(const Array& got, const std::function<double(int64_t)>& want, double ulps,
                         double floor, const std::string& what) {
  got.check_guards();
  int shown = 0;
  for (int64_t i = 0; i < got.size() && shown < 3; ++i) {
    const double w = want(i);
    if (close(got.dtype(), got[i], w, ulps, floor)) continue;
    ADD_FAILURE() << what << " [" << i << "]: got " << got[i] << ", want " << w << ", off by "
                  << std::fabs(got[i] - w) / std::max(epsilon(got.dtype()) * std::fabs(w), 1e-300)
                  << " ulp";
    ++shown;
  }
}

/// Runs f with 1 and with 3 threads, whatever the machine has.
template <class F>
void with_threads(F&& f) {
  const int before = get_num_threads();
  for (int n : {1, 3}) {
    set_num_threads(n);
    f();
  }
  set_num_threads(before);
}

}  // namespace dropin::test
