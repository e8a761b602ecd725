// dtype, device and shape: names and small rules.
#include <fmt/format.h>

#include <algorithm>

#include "dropin/core/device.h"
#include "dropin/core/dtype.h"
#include "dropin/core/error.h"
#include "dropin/core/shape.h"

namespace dropin {

namespace {
constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "float16", "int8",
                                  "uint8",   "int32",   "int64",    "bool"};
}

const char* name(DType t) { return kNames[static_cast<int>(t)]; }

DType dtype_from_name(std::string_view text) {
  for (int i = 0; i < 9; ++i)
    if (text == kNames[i]) return static_cast<DType>(i);
  fail<DTypeError>(
      {"dtype: no type \"", text,
       "\"; there are float32, float64, bfloat16, float16, int8, uint8, int32, int64, bool"});
}

DType promote(DType a, DType b) {
  if (a == b) return a;
  if (is_floating(a) != is_floating(b)) return is_floating(a) ? a : b;
  if (is_floating(a)) {
    if (a == DType::Float64 || b == DType::Float64) return DType::Float64;
    return DType::Float32;  // a 16-bit type with another one, or with float32
  }
  if (a == DType::Boolean) return b;
  if (b == DType::Boolean) return a;
  if (item_size(a) == item_size(b))
    return DType::Int32;  // int8 with uint8 needs a wider signed type (torch: int16)
  return item_size(a) > item_size(b) ? a : b;
}

Device::Device(std::string_view text) {
  std::string_view kind = text.substr(0, text.find(':'));
  if (kind == "cpu")
    type = DeviceType::CPU;
  else if (kind == "cuda")
    type = DeviceType::CUDA;
  else
    fail<DeviceError>({"device \"", text, "\": expected cpu, cuda or cuda:N"});
  if (kind.size() == text.size()) return;
  std::string_view digits = text.substr(kind.size() + 1);
  if (digits.empty() || digits.size() > 3 ||
      digits.find_first_not_of("0123456789") != std::string_view::npos)
    fail<DeviceError>({"device \"", text, "\": expected a number after the colon"});
  for (char c : digits) index = index * 10 + (c - '0');
  if (type == DeviceType::CPU && index)
    fail<DeviceError>({"device \"", text, "\": there is one cpu, number 0"});
}

std::string Device::str() const { return is_cpu() ? "cpu" : fmt::format("cuda:{}", index); }

void Shape::assign(const int64_t* p, int64_t n) {
  if (n > abi::kMaxDims)
    fail<ShapeError>({"shape: ", n, " dimensions; at most ", abi::kMaxDims, " are supported"});
  std::copy_n(p, n, v_);
  n_ = static_cast<int>(n);
}

void Shape::push_back(int64_t x) { insert(n_, x); }

void Shape::insert(int at, int64_t x) {
  if (n_ == abi::kMaxDims)
    fail<ShapeError>({"shape: ", n_ + 1, " dimensions; at most ", abi::kMaxDims, " are supported"});
  std::copy_backward(v_ + at, v_ + n_, v_ + n_ + 1);
  v_[at] = x;
  ++n_;
}

void Shape::erase(int at) {
  std::copy(v_ + at + 1, v_ + n_, v_ + at);
  v_[--n_] = 0;
}

std::string Shape::str() const { return fmt::format("[{}]", fmt::join(begin(), end(), ", ")); }

Shape contiguous_strides(const Shape& sizes) {
  Shape s = sizes;
  int64_t step = 1;
  for (int i = sizes.size() - 1; i >= 0; --i) {
    s[i] = step;
    if (__builtin_mul_overflow(step, std::max<int64_t>(sizes[i], 1), &step))
      step = INT64_MAX;  // no memory holds it: the allocator says so
  }
  return s;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, const char* who) {
  if (a == b) return a;
  const Shape& longer = a.size() >= b.size() ? a : b;
  const Shape& shorter = a.size() >= b.size() ? b : a;
  Shape r = longer;
  const int lead = longer.size() - shorter.size();
  for (int i = 0; i < shorter.size(); ++i) {
    const int64_t x = longer[lead + i], y = shorter[i];
    if (x == y || y == 1) continue;
    if (x != 1)
      fail<ShapeError>({who, ": shapes ", a, " and ", b, " do not broadcast (dimension ", lead + i,
                        ": ", x, " against ", y, ")"});
    r[lead + i] = y;
  }
  return r;
}

}  // namespace dropin
