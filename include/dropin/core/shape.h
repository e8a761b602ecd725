// Shape: sizes or strides of up to abi::kMaxDims dimensions, held inline.
#pragma once
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "dropin/abi/abi.h"

namespace dropin {

/// A short list of int64 values (sizes, strides, dims). At most 8 entries; more is a ShapeError.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> v) { assign(v.begin(), static_cast<int64_t>(v.size())); }
  Shape(const std::vector<int64_t>& v) { assign(v.data(), static_cast<int64_t>(v.size())); }
  Shape(const int64_t* p, int64_t n) { assign(p, n); }

  int size() const { return n_; }
  bool empty() const { return n_ == 0; }
  const int64_t* data() const { return v_; }
  const int64_t* begin() const { return v_; }
  const int64_t* end() const { return v_ + n_; }
  int64_t* begin() { return v_; }
  int64_t* end() { return v_ + n_; }
  int64_t operator[](int i) const { return v_[i]; }
  int64_t& operator[](int i) { return v_[i]; }
  int64_t front() const { return v_[0]; }
  int64_t back() const { return v_[n_ - 1]; }
  void push_back(int64_t x);
  void insert(int at, int64_t x);
  void erase(int at);
  /// Product of the entries (1 when empty).
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < n_; ++i) n *= v_[i];
    return n;
  }
  std::vector<int64_t> vec() const { return {begin(), end()}; }
  bool operator==(const Shape& o) const {
    if (n_ != o.n_) return false;
    for (int i = 0; i < n_; ++i)
      if (v_[i] != o.v_[i]) return false;
    return true;
  }
  /// "[2, 100, 256]"
  std::string str() const;

 private:
  void assign(const int64_t* p, int64_t n);
  int64_t v_[abi::kMaxDims] = {};
  int n_ = 0;
};

/// The dimensions that a function goes over: {0, 2}, or one number. Empty: all.
class Dims : public Shape {
 public:
  using Shape::Shape;
  Dims() = default;
  Dims(const Shape& dims) : Shape(dims) {}
  template <std::signed_integral I>
  Dims(I dim) : Shape({static_cast<int64_t>(dim)}) {}
};

/// Strides of a contiguous array of these sizes.
Shape contiguous_strides(const Shape& sizes);
/// NumPy's broadcasting of two shapes; ShapeError naming `who` if they do not fit.
Shape broadcast_shapes(const Shape& a, const Shape& b, const char* who);

}  // namespace dropin
