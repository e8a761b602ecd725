// Small strided arrays for calling kernels directly.
#pragma once
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "dropin/core/device.h"
#include "dropin/core/dtype.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"

namespace dropin::testing {

/// A dense row-major array, or (with an order) one whose dims are laid out in another order. Guard
/// elements after the end tell of writes beyond it.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(std::vector<int64_t> sizes, std::vector<int> order = {}) {
    t_.ndim = static_cast<int>(sizes.size());
    t_.dtype = dtype_of<T>::value;
    if (order.empty())
      for (int i = 0; i < t_.ndim; ++i) order.push_back(i);
    int64_t n = 1;
    for (int i = t_.ndim - 1; i >= 0; --i) {
      t_.strides[order[i]] = n;
      n *= sizes[order[i]];
    }
    for (int i = 0; i < t_.ndim; ++i) t_.sizes[i] = sizes[i];
    storage_.assign((n + kGuard) * sizeof(T), 0xa5);
    n_ = n;
    t_.data = storage_.data();
  }
  Array(const Array& o) : storage_(o.storage_), t_(o.t_), n_(o.n_) { t_.data = storage_.data(); }
  Array& operator=(const Array& o) {
    storage_ = o.storage_, t_ = o.t_, n_ = o.n_;
    t_.data = storage_.data();
    return *this;
  }
  T* data() { return reinterpret_cast<T*>(storage_.data()); }
  const T* data() const { return reinterpret_cast<const T*>(storage_.data()); }
  int64_t numel() const { return n_; }
  int64_t size(int i) const { return t_.sizes[i]; }
  template <class... I>
  T& operator()(I... i) {
    int64_t at = 0;
    int d = 0;
    ((at += i * t_.strides[d++]), ...);
    return data()[at];
  }
  Array& fill(T v) {
    for (int64_t i = 0; i < n_; ++i) data()[i] = v;
    return *this;
  }
  Array& random(unsigned seed, double low = -1, double high = 1) {
    std::mt19937 g(seed);
    std::uniform_real_distribution<double> u(low, high);
    for (int64_t i = 0; i < n_; ++i) data()[i] = static_cast<T>(u(g));
    return *this;
  }
  bool guarded() const {
    for (std::size_t i = n_ * sizeof(T); i < storage_.size(); ++i)
      if (storage_[i] != 0xa5) return false;
    return true;
  }
  const abi::TensorIn& in() const { return t_; }
  const abi::TensorOut& out() { return t_; }

 private:
  static constexpr int64_t kGuard = 16;
  std::vector<unsigned char> storage_;
  abi::TensorOut t_;
  int64_t n_ = 0;
};

struct WithThreads {
  int before = get_num_threads();
  explicit WithThreads(int n) { set_num_threads(n); }
  ~WithThreads() { set_num_threads(before); }
};

}  // namespace dropin::testing
