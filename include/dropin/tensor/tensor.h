// Tensor: a strided view of typed storage that may carry a tape node. Names and semantics are
// PyTorch's.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <string>
#include <type_traits>
#include <vector>

#include "dropin/core/device.h"
#include "dropin/core/dtype.h"
#include "dropin/core/error.h"
#include "dropin/core/ref.h"
#include "dropin/core/shape.h"
#include "dropin/tensor/generator.h"
#include "dropin/tensor/scalar.h"
#include "dropin/tensor/storage.h"

namespace dropin {

class Tensor;
class Indexed;
using Tensors = std::vector<Tensor>;
struct ValuesIndices;  // ops/reduce.h

/// dtype and device of a new tensor: zeros({2, 3}, kFloat64), zeros({2, 3}, kCUDA) or zeros({2, 3},
/// {kInt64, kCPU}).
struct TensorOptions {
  DType dtype = DType::Float32;
  Device device;
  TensorOptions() = default;
  TensorOptions(DType t) : dtype(t) {}
  TensorOptions(const Device& d) : device(d) {}
  TensorOptions(DType t, const Device& d) : dtype(t), device(d) {}
};

/// What the tape hangs on a tensor; defined by autograd.
struct TapeEntry {
  virtual ~TapeEntry() = default;
};

/// How a view came about, which says whether a recorded in-place write through it is allowed.
enum class ViewOrigin : std::uint8_t {
  Own,         ///< not a view
  Recorded,    ///< has a base
  Unrecorded,  ///< made inside no_grad
  OffTape,     ///< made inside no_grad, of a tensor that requires grad
  Several      ///< one of those that one call returned
};

struct TensorImpl : RefCounted {
  Ref<Storage> storage;
  int64_t offset = 0;    ///< in elements
  Shape sizes, strides;  ///< strides in elements
  DType dtype = DType::Float32;
  ViewOrigin origin = ViewOrigin::Own;
  std::uint32_t history = 0;  ///< counts what recorded in-place writes did to the tape entry
  std::uint32_t seen = 0;     ///< of a view: the base's history when its own was made
  int64_t numel = 1;
  TapeEntry* tape = nullptr;
  Ref<TensorImpl> base;  ///< of a recorded view: the tensor that owns the history, never a view
  ~TensorImpl() override { delete tape; }
};

/// The end of a slice that runs to the end.
inline constexpr int64_t kEnd = INT64_MAX;

/// A value handle: copies share data. Default-constructed it is undefined (PyTorch's None).
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Ref<TensorImpl> impl) : impl_(std::move(impl)) {}
  Tensor(const Tensor&) = default;
  Tensor(Tensor&&) noexcept = default;
  ~Tensor() = default;
  /// A named handle is bound to the other tensor; a temporary, such as x[0], is written to:
  /// `x[0] = y` is x[0].copy_(y), `x[0] = 1.5` is x[0].fill_(1.5).
  Tensor& operator=(const Tensor&) & = default;
  Tensor& operator=(Tensor&&) & noexcept = default;
  Tensor& operator=(const Tensor& src) && { return copy_(src); }
  Tensor& operator=(const Scalar& value) && { return fill_(value); }

  // --- what it is
  bool defined() const { return static_cast<bool>(impl_); }
  int64_t dim() const { return get().sizes.size(); }
  /// Size of dimension d; negative counts from the end; IndexError when out of range.
  int64_t size(int64_t d) const;
  const Shape& sizes() const { return get().sizes; }
  const Shape& strides() const { return get().strides; }
  int64_t stride(int64_t d) const;
  int64_t numel() const { return get().numel; }
  int64_t element_size() const { return item_size(get().dtype); }
  bool is_floating_point() const { return is_floating(get().dtype); }
  DType dtype() const { return get().dtype; }
  const Device& device() const { return get().storage->device(); }
  TensorOptions options() const { return {dtype(), device()}; }
  bool is_contiguous() const;
  int64_t storage_offset() const { return get().offset; }
  bool is_same(const Tensor& o) const { return impl_ == o.impl_; }

  // --- raw access
  void* data_ptr() const {
    return static_cast<char*>(get().storage->data()) + get().offset * item_size(get().dtype);
  }
  /// Typed pointer to the first element; DTypeError if T is not the dtype.
  template <class T>
  T* data() const {
    if (get().dtype != dtype_of<T>::value) [[unlikely]]
      wrong_type(dtype_of<T>::value);
    return static_cast<T*>(data_ptr());
  }
  /// The only element as T, integers exactly; ShapeError if there is not exactly one, DTypeError if
  /// T does not hold it.
  template <class T = double>
  T item() const {
    if constexpr (std::is_same_v<T, double>)
      return item_as_double();
    else if constexpr (has_dtype<T>)
      return is_floating(dtype()) ? number_as<T>(item_as_double(), "item")
                                  : number_as<T>(item_as_int64(), "item");
    else
      return static_cast<T>(is_floating(dtype()) ? number_as<int64_t>(item_as_double(), "item")
                                                 : item_as_int64());
  }
  /// All elements, in order, converted; integers exactly. DTypeError for one that an integer type
  /// does not hold.
  template <class T = double>
  std::vector<T> to_vector() const {
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      const auto whole = [](auto v) {
        if constexpr (has_dtype<T>)
          return number_as<T>(v, "to_vector");
        else
          return static_cast<T>(number_as<int64_t>(v, "to_vector"));
      };
      std::vector<T> all;
      all.reserve(static_cast<std::size_t>(numel()));
      if (is_floating(dtype()))
        for (const double v : values()) all.push_back(whole(v));
      else
        for (const int64_t v : whole_values()) all.push_back(whole(v));
      return all;
    } else {
      const std::vector<double> v = values();
      return std::vector<T>(v.begin(), v.end());
    }
  }
  abi::TensorIn in() const;
  abi::TensorOut out() const;
  TensorImpl* impl() const { return impl_.get(); }
  std::uint32_t version() const { return get().storage->version(); }
  void bump_version() const { get().storage->bump_version(); }

  // --- tape (autograd/autograd.h)
  bool requires_grad() const;
  /// Marks a leaf as wanting a gradient. AutogradError on a non-leaf or an integer tensor.
  Tensor& requires_grad_(bool on = true);
  bool is_leaf() const;
  /// The accumulated gradient of a leaf; undefined until backward.
  Tensor grad() const;
  void set_grad(Tensor g) const;
  /// Runs backward from this scalar (or from `gradient` of this shape), accumulating into the
  /// leaves' grad().
  void backward(const Tensor& gradient = {}, bool retain_graph = false,
                bool create_graph = false) const;
  /// The same data, off the tape.
  Tensor detach() const;

  /// Replaces data, shape, dtype and device of this handle (and of all its copies) by another
  /// tensor's; the gradient is dropped.
  void set_data(const Tensor& t) const;

  // --- views (differentiable; share data)
  Tensor slice(int64_t dim, int64_t start = 0, int64_t end = kEnd, int64_t step = 1) const;
  Tensor narrow(int64_t dim, int64_t start, int64_t length) const;
  Tensor select(int64_t dim, int64_t index) const;
  /// select(0, i)
  Tensor operator[](int64_t i) const { return select(0, i); }
  /// What an index chooses, a copy, as x[index] in PyTorch: a bool index takes the elements where
  /// it is true, an int64 one those of its numbers, along the first dimensions. Assigning to it
  /// writes into x: `x[mask] = 0`, `x[ids] += y` (see Indexed).
  Indexed operator[](const Tensor& index) const;
  /// The same with an index per dimension, which broadcast together; an undefined one takes the
  /// whole dimension: x.index({rows, columns}), x.index({{}, ids}) is x[:, ids]. ops/indexing.h.
  Indexed index(const Tensors& indices) const;
  Indexed index(const Tensor& index) const;
  Tensor transpose(int64_t d0, int64_t d1) const;
  /// Swap of the last two dimensions.
  Tensor mT() const { return transpose(-2, -1); }
  /// Swap of the two dimensions of a matrix; ShapeError when there are more than two.
  Tensor t() const;
  Tensor permute(const Shape& dims) const;
  /// One dimension taken out and put in at another place.
  Tensor movedim(int64_t from, int64_t to) const;
  Tensor expand(const Shape& sizes) const;
  Tensor expand_as(const Tensor& other) const { return expand(other.sizes()); }
  Tensor unsqueeze(int64_t dim) const;
  Tensor squeeze(int64_t dim) const;
  /// Without any dimension of size 1.
  Tensor squeeze() const;
  Tensor flip(const Shape& dims) const;
  /// View when the strides allow, else a copy; one size may be -1.
  Tensor reshape(const Shape& sizes) const;
  /// As reshape, but ShapeError where a copy would be needed.
  Tensor view(const Shape& sizes) const;
  Tensor view_as(const Tensor& other) const { return view(other.sizes()); }
  Tensor flatten(int64_t start = 0, int64_t end = -1) const;
  /// One dimension as several, of which one size may be -1.
  Tensor unflatten(int64_t dim, const Shape& sizes) const;
  Tensors split(int64_t size, int64_t dim = 0) const;
  Tensors split(const Shape& sizes, int64_t dim = 0) const;
  Tensors chunk(int64_t chunks, int64_t dim = 0) const;
  Tensors unbind(int64_t dim = 0) const;
  /// torch.Tensor.unfold: windows of `size` every `step` along dim, in a new last dimension.
  Tensor unfold(int64_t dim, int64_t size, int64_t step) const;
  /// torch.diagonal
  Tensor diagonal(int64_t offset = 0, int64_t d0 = 0, int64_t d1 = 1) const;

  // --- copies
  Tensor contiguous() const;
  Tensor clone() const;
  Tensor to(DType dtype) const;
  Tensor to(const Device& device) const;
  Tensor to(DType dtype, const Device& device) const { return to(dtype).to(device); }
  Tensor cpu() const { return to(kCPU); }
  Tensor cuda() const { return to(kCUDA); }
  /// In the dtype and on the device of another.
  Tensor type_as(const Tensor& other) const { return to(other.dtype(), other.device()); }

  // --- in place: advance the version of the memory, which all views of it share. While recording,
  // a write is differentiated: the tensor, the one it is a view of, and that one's other views take
  // part in its history. AutogradError on a leaf that requires grad and on views of one, outside
  // no_grad, and on views made inside no_grad or by split. DTypeError where the result has a kind
  // that the tensor can not hold (a float in an integer tensor; copy_ and fill_ convert). Error on
  // expanded tensors, whose elements share memory (fill_ may).
  Tensor& copy_(const Tensor& src);
  Tensor& fill_(const Scalar& value);
  Tensor& zero_() { return fill_(0); }
  Tensor& add_(const Tensor& other, const Scalar& alpha = 1);
  Tensor& add_(const Scalar& v);
  Tensor& sub_(const Tensor& other, const Scalar& alpha = 1);
  Tensor& sub_(const Scalar& v);
  Tensor& mul_(const Tensor& other);
  Tensor& mul_(const Scalar& v);
  Tensor& div_(const Tensor& other);
  Tensor& div_(const Scalar& v);
  Tensor& clamp_(const Scalar& lo, const Scalar& hi);
  Tensor& masked_fill_(const Tensor& mask, const Scalar& value);
  /// Writes values, which broadcast, where index(indices) reads; accumulate adds them, as often as
  /// a place is named. Of several values for one place the last stays.
  Tensor& index_put_(const Tensors& indices, const Tensor& values, bool accumulate = false);
  Tensor& index_put_(const Tensors& indices, const Scalar& value, bool accumulate = false);
  Tensor& uniform_(double a = 0, double b = 1, Generator* g = nullptr);
  Tensor& normal_(double mean = 0, double std = 1, Generator* g = nullptr);
  Tensor& operator+=(const Tensor& other) { return add_(other); }
  Tensor& operator-=(const Tensor& other) { return sub_(other); }
  Tensor& operator*=(const Tensor& other) { return mul_(other); }
  Tensor& operator/=(const Tensor& other) { return div_(other); }
  Tensor& operator+=(const Scalar& v) { return add_(v); }
  Tensor& operator-=(const Scalar& v) { return sub_(v); }
  Tensor& operator*=(const Scalar& v) { return mul_(v); }
  Tensor& operator/=(const Scalar& v) { return div_(v); }

  // --- the commonest functions as methods; all are free functions too (ops/)
  Tensor sum(const Dims& dims = {}, bool keepdim = false) const;
  Tensor mean(const Dims& dims = {}, bool keepdim = false) const;
  Tensor prod(const Dims& dims = {}, bool keepdim = false) const;
  Tensor amax(const Dims& dims = {}, bool keepdim = false) const;
  Tensor amin(const Dims& dims = {}, bool keepdim = false) const;
  Tensor any(const Dims& dims = {}, bool keepdim = false) const;
  Tensor all(const Dims& dims = {}, bool keepdim = false) const;
  Tensor logsumexp(const Dims& dims, bool keepdim = false) const;
  Tensor var(const Dims& dims = {}, double correction = 1, bool keepdim = false) const;
  Tensor std(const Dims& dims = {}, double correction = 1, bool keepdim = false) const;
  Tensor norm(const Shape& dims = {}, bool keepdim = false) const;
  /// torch's x.norm(p, dims, keepdim): infinity gives the greatest absolute value.
  template <class P>
  requires std::is_arithmetic_v<P> Tensor norm(P p, const Dims& dims = {}, bool keepdim = false)
  const { return p_norm(static_cast<double>(p), dims, keepdim); }
  /// The greatest (least) of all values; along dim with its index.
  Tensor(max)() const;
  ValuesIndices(max)(int64_t dim, bool keepdim = false) const;
  Tensor(min)() const;
  ValuesIndices(min)(int64_t dim, bool keepdim = false) const;
  /// Where it stands: in the flattened tensor, or along dim.
  Tensor argmax() const;
  Tensor argmax(int64_t dim, bool keepdim = false) const;
  Tensor argmin() const;
  Tensor argmin(int64_t dim, bool keepdim = false) const;
  ValuesIndices sort(int64_t dim = -1, bool descending = false) const;
  Tensor argsort(int64_t dim = -1, bool descending = false) const;
  ValuesIndices topk(int64_t k, int64_t dim = -1, bool largest = true) const;
  Tensor cumsum(int64_t dim) const;
  Tensor cumprod(int64_t dim) const;
  Tensor clamp(const Scalar& lo, const Scalar& hi) const;
  Tensor clamp_min(const Scalar& lo) const;
  Tensor clamp_max(const Scalar& hi) const;
  Tensor add(const Tensor& other, const Scalar& alpha = 1) const;
  Tensor add(const Scalar& v) const;
  Tensor sub(const Tensor& other) const;
  Tensor sub(const Scalar& v) const;
  Tensor mul(const Tensor& other) const;
  Tensor mul(const Scalar& v) const;
  Tensor div(const Tensor& other) const;
  Tensor div(const Scalar& v) const;
  Tensor neg() const;
  Tensor exp() const;
  Tensor log() const;
  Tensor log1p() const;
  Tensor expm1() const;
  Tensor sqrt() const;
  Tensor rsqrt() const;
  Tensor square() const;
  Tensor reciprocal() const;
  Tensor abs() const;
  Tensor sign() const;
  Tensor floor() const;
  Tensor ceil() const;
  Tensor round() const;
  Tensor sin() const;
  Tensor cos() const;
  Tensor erf() const;
  Tensor relu() const;
  Tensor sigmoid() const;
  Tensor tanh() const;
  Tensor pow(const Scalar& exponent) const;
  Tensor pow(const Tensor& exponent) const;
  Tensor softmax(int64_t dim = -1) const;
  Tensor log_softmax(int64_t dim = -1) const;
  Tensor isnan() const;
  Tensor isfinite() const;
  Tensor eq(const Tensor& other) const;
  Tensor eq(const Scalar& v) const;
  Tensor ne(const Tensor& other) const;
  Tensor ne(const Scalar& v) const;
  Tensor lt(const Tensor& other) const;
  Tensor lt(const Scalar& v) const;
  Tensor le(const Tensor& other) const;
  Tensor le(const Scalar& v) const;
  Tensor gt(const Tensor& other) const;
  Tensor gt(const Scalar& v) const;
  Tensor ge(const Tensor& other) const;
  Tensor ge(const Scalar& v) const;
  /// Whether sizes and all values are equal (torch.equal); close (torch.allclose).
  bool equal(const Tensor& other) const;
  bool allclose(const Tensor& other, double rtol = 1e-5, double atol = 1e-8,
                bool equal_nan = false) const;
  Tensor matmul(const Tensor& other) const;
  Tensor mm(const Tensor& other) const;
  Tensor bmm(const Tensor& other) const;
  Tensor dot(const Tensor& other) const;
  Tensor masked_fill(const Tensor& mask, const Scalar& value) const;
  Tensor masked_select(const Tensor& mask) const;
  /// This where the condition is true, else other.
  Tensor where(const Tensor& condition, const Tensor& other) const;
  Tensor where(const Tensor& condition, const Scalar& other) const;
  Tensor nonzero() const;
  Tensor index_select(int64_t dim, const Tensor& index) const;
  Tensor index_add(int64_t dim, const Tensor& index, const Tensor& src) const;
  Tensor index_put(const Tensors& indices, const Tensor& values, bool accumulate = false) const;
  Tensor gather(int64_t dim, const Tensor& index) const;
  Tensor scatter(int64_t dim, const Tensor& index, const Tensor& src) const;
  Tensor scatter_add(int64_t dim, const Tensor& index, const Tensor& src) const;
  Tensor roll(int64_t shift, int64_t dim) const;
  Tensor repeat(const Shape& repeats) const;
  Tensor repeat_interleave(int64_t repeats, int64_t dim) const;
  Tensor tril(int64_t diagonal = 0) const;
  Tensor triu(int64_t diagonal = 0) const;
  Tensor multinomial(int64_t num_samples, bool replacement = false, Generator* g = nullptr) const;

  /// "tensor([[1., 2.],\n        [3., 4.]])", as torch prints.
  std::string str() const;

 private:
  TensorImpl& get() const {
    if (!impl_) [[unlikely]]
      undefined();
    return *impl_;
  }
  [[noreturn]] static void undefined();
  [[noreturn]] void wrong_type(DType asked) const;
  double item_as_double() const;
  int64_t item_as_int64() const;
  std::vector<double> values() const;
  std::vector<int64_t> whole_values() const;
  Tensor p_norm(double p, const Dims& dims, bool keepdim) const;
  Ref<TensorImpl> impl_;
};

/// What x[index] gives: a tensor, a copy of the elements chosen, that writes into x when a
/// temporary is assigned to, as in Python: `x[mask] = 0`, `x[ids] += y`. A named one is a tensor
/// like others.
class Indexed : public Tensor {
 public:
  Indexed(const Tensor& values, const Tensor& of, Tensors indices)
      : Tensor(values), of_(of), indices_(std::move(indices)) {}
  Indexed(const Indexed&) = default;
  Indexed(Indexed&&) noexcept = default;
  Indexed& operator=(const Indexed&) & = default;
  Indexed& operator=(Indexed&&) & noexcept = default;
  ~Indexed() = default;
  void operator=(const Tensor& src) & { Tensor::operator=(src); }
  void operator=(const Indexed& src) && { of_.index_put_(indices_, src); }
  void operator=(const Tensor& src) && { of_.index_put_(indices_, src); }
  void operator=(const Scalar& value) && { of_.index_put_(indices_, value); }
  template <class V>
  void operator+=(const V& v) && {
    of_.index_put_(indices_, add(v));
  }
  template <class V>
  void operator-=(const V& v) && {
    of_.index_put_(indices_, sub(v));
  }
  template <class V>
  void operator*=(const V& v) && {
    of_.index_put_(indices_, mul(v));
  }
  template <class V>
  void operator/=(const V& v) && {
    of_.index_put_(indices_, div(v));
  }
  template <class V>
  Tensor& operator+=(const V& v) & {
    return Tensor::operator+=(v);
  }
  template <class V>
  Tensor& operator-=(const V& v) & {
    return Tensor::operator-=(v);
  }
  template <class V>
  Tensor& operator*=(const V& v) & {
    return Tensor::operator*=(v);
  }
  template <class V>
  Tensor& operator/=(const V& v) & {
    return Tensor::operator/=(v);
  }

 private:
  Tensor of_;
  Tensors indices_;
};

/// str()
std::ostream& operator<<(std::ostream& out, const Tensor& t);

// --- factories
Tensor empty(const Shape& sizes, const TensorOptions& o = {});
Tensor zeros(const Shape& sizes, const TensorOptions& o = {});
Tensor ones(const Shape& sizes, const TensorOptions& o = {});
/// value converted to the dtype of `o`, integers exactly.
/// DTypeError if the dtype does not hold the value.
Tensor full(const Shape& sizes, const Scalar& value, const TensorOptions& o = {});
Tensor empty_like(const Tensor& x);  ///< contiguous
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
/// 0-dimensional.
Tensor scalar(const Scalar& value, const TensorOptions& o = {});
/// start, start + step, ... before end. Without a dtype: int64 when all three are integers, else
/// float32.
Tensor arange(const Scalar& start, const Scalar& end, const Scalar& step = 1);
Tensor arange(const Scalar& start, const Scalar& end, const Scalar& step, const TensorOptions& o);
/// 0, 1, ... before end.
Tensor arange(const Scalar& end);
Tensor linspace(double start, double end, int64_t steps, const TensorOptions& o = {});
Tensor eye(int64_t n, int64_t m = -1, const TensorOptions& o = {});
/// A copy of the values, in row-major order; ShapeError unless there are as many as the sizes say.
Tensor tensor(const std::vector<double>& values, const Shape& sizes, const TensorOptions& o = {});
Tensor tensor(const std::vector<double>& values, const TensorOptions& o = {});
namespace detail {
Tensor whole_tensor(const std::vector<int64_t>& values, const Shape& sizes, const TensorOptions& o);
/// torch's dtype of C++ numbers: float32 for floating ones, int64 for integers; bool and 8-bit
/// integers stay.
template <class T>
constexpr DType default_dtype() {
  if constexpr (std::is_floating_point_v<T>)
    return DType::Float32;
  else if constexpr (std::is_same_v<T, bool>)
    return DType::Boolean;
  else if constexpr (sizeof(T) == 1)
    return std::is_signed_v<T> ? DType::Int8 : DType::UInt8;
  else
    return DType::Int64;
}
}  // namespace detail
/// A copy of numbers of any C++ type, integers exactly: float32 for floating numbers, int64 for
/// integers (bool and 8-bit integers stay), or the dtype given.
template <class T>
requires std::is_arithmetic_v<T> Tensor
tensor(const std::vector<T>& values, const Shape& sizes,
       const TensorOptions& o = detail::default_dtype<T>()) {
  if constexpr (std::is_integral_v<T>)
    return detail::whole_tensor({values.begin(), values.end()}, sizes, o);
  else
    return tensor(std::vector<double>(values.begin(), values.end()), sizes, o);
}
template <class T>
requires std::is_arithmetic_v<T> Tensor
tensor(const std::vector<T>& values, const TensorOptions& o = detail::default_dtype<T>()) {
  return tensor(values, Shape{static_cast<int64_t>(values.size())}, o);
}
/// A tensor over the caller's memory. Strides in elements (empty: contiguous). The deleter runs
/// with the last reference.
Tensor from_blob(void* data, const Shape& sizes, const TensorOptions& o = {},
                 const Shape& strides = {}, Deleter deleter = nullptr, void* context = nullptr);
Tensor rand(const Shape& sizes, const TensorOptions& o = {}, Generator* g = nullptr);
Tensor randn(const Shape& sizes, const TensorOptions& o = {}, Generator* g = nullptr);
/// Of x's sizes, dtype and device.
Tensor full_like(const Tensor& x, const Scalar& value);
Tensor rand_like(const Tensor& x, Generator* g = nullptr);
Tensor randn_like(const Tensor& x, Generator* g = nullptr);
/// Integers in [low, high).
Tensor randint(int64_t low, int64_t high, const Shape& sizes, const TensorOptions& o = DType::Int64,
               Generator* g = nullptr);
Tensor randperm(int64_t n, Generator* g = nullptr);

/// Wraps a negative dimension; IndexError naming `who` when out of range.
int wrap_dim(int64_t dim, int64_t ndim, const char* who);

namespace detail {
/// A view of x's storage with these sizes and strides, off the tape: a write to it is not seen by
/// x's history.
Tensor alias(const Tensor& x, const Shape& sizes, const Shape& strides, int64_t offset);
/// x expanded to these sizes with stride 0, off the tape; the caller has checked that it fits.
Tensor broadcast_to(const Tensor& x, const Shape& sizes);
}  // namespace detail

}  // namespace dropin
