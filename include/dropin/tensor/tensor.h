// Tensor: a strided view of typed storage that may carry a tape node. Names and semantics are
// PyTorch's.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "dropin/core/device.h"
#include "dropin/core/dtype.h"
#include "dropin/core/error.h"
#include "dropin/core/ref.h"
#include "dropin/core/shape.h"
#include "dropin/tensor/generator.h"
#include "dropin/tensor/storage.h"

namespace dropin {

class Tensor;
using Tensors = std::vector<Tensor>;

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

struct TensorImpl : RefCounted {
  Ref<Storage> storage;
  std::int64_t offset = 0;  ///< in elements
  Shape sizes, strides;     ///< strides in elements
  DType dtype = DType::Float32;
  std::int64_t numel = 1;
  TapeEntry* tape = nullptr;
  ~TensorImpl() override { delete tape; }
};

/// The end of a slice that runs to the end.
inline constexpr std::int64_t kEnd = INT64_MAX;

/// A value handle: copies share data. Default-constructed it is undefined (PyTorch's None).
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Ref<TensorImpl> impl) : impl_(std::move(impl)) {}

  // --- what it is
  bool defined() const { return static_cast<bool>(impl_); }
  std::int64_t dim() const { return get().sizes.size(); }
  /// Size of dimension d; negative counts from the end; IndexError when out of range.
  std::int64_t size(std::int64_t d) const;
  const Shape& sizes() const { return get().sizes; }
  const Shape& strides() const { return get().strides; }
  std::int64_t stride(std::int64_t d) const;
  std::int64_t numel() const { return get().numel; }
  DType dtype() const { return get().dtype; }
  const Device& device() const { return get().storage->device(); }
  TensorOptions options() const { return {dtype(), device()}; }
  bool is_contiguous() const;
  std::int64_t storage_offset() const { return get().offset; }
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
  /// The only element as T; ShapeError if there is not exactly one.
  template <class T = double>
  T item() const {
    return static_cast<T>(item_as_double());
  }
  /// All elements, in order, converted.
  template <class T = double>
  std::vector<T> to_vector() const {
    std::vector<double> v = values();
    return std::vector<T>(v.begin(), v.end());
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
  Tensor slice(std::int64_t dim, std::int64_t start = 0, std::int64_t end = kEnd,
               std::int64_t step = 1) const;
  Tensor narrow(std::int64_t dim, std::int64_t start, std::int64_t length) const;
  Tensor select(std::int64_t dim, std::int64_t index) const;
  /// select(0, i)
  Tensor operator[](std::int64_t i) const { return select(0, i); }
  Tensor transpose(std::int64_t d0, std::int64_t d1) const;
  /// Swap of the last two dimensions.
  Tensor mT() const { return transpose(-2, -1); }
  Tensor permute(const Shape& dims) const;
  Tensor expand(const Shape& sizes) const;
  Tensor unsqueeze(std::int64_t dim) const;
  Tensor squeeze(std::int64_t dim) const;
  Tensor flip(const Shape& dims) const;
  /// View when the strides allow, else a copy; one size may be -1.
  Tensor reshape(const Shape& sizes) const;
  /// As reshape, but ShapeError where a copy would be needed.
  Tensor view(const Shape& sizes) const;
  Tensor flatten(std::int64_t start = 0, std::int64_t end = -1) const;
  /// torch.Tensor.unfold: windows of `size` every `step` along dim, in a new last dimension.
  Tensor unfold(std::int64_t dim, std::int64_t size, std::int64_t step) const;
  /// torch.diagonal
  Tensor diagonal(std::int64_t offset = 0, std::int64_t d0 = 0, std::int64_t d1 = 1) const;

  // --- copies
  Tensor contiguous() const;
  Tensor clone() const;
  Tensor to(DType dtype) const;
  Tensor to(const Device& device) const;
  Tensor to(DType dtype, const Device& device) const { return to(dtype).to(device); }

  // --- in place (advance the version; AutogradError on a leaf that requires grad, outside no_grad)
  Tensor& copy_(const Tensor& src);
  Tensor& fill_(double value);
  Tensor& zero_() { return fill_(0); }
  Tensor& add_(const Tensor& other, double alpha = 1);
  Tensor& add_(double v);
  Tensor& sub_(const Tensor& other) { return add_(other, -1); }
  Tensor& mul_(const Tensor& other);
  Tensor& mul_(double v);
  Tensor& div_(const Tensor& other);
  Tensor& clamp_(double lo, double hi);
  Tensor& masked_fill_(const Tensor& mask, double value);
  Tensor& uniform_(double a = 0, double b = 1, Generator* g = nullptr);
  Tensor& normal_(double mean = 0, double std = 1, Generator* g = nullptr);

  // --- the commonest functions as methods; all are free functions too (ops/)
  Tensor sum() const;
  Tensor sum(const Shape& dims, bool keepdim = false) const;
  Tensor mean() const;
  Tensor mean(const Shape& dims, bool keepdim = false) const;
  Tensor exp() const;
  Tensor log() const;
  Tensor sqrt() const;
  Tensor square() const;
  Tensor abs() const;
  Tensor relu() const;
  Tensor sigmoid() const;
  Tensor tanh() const;
  Tensor pow(double exponent) const;
  Tensor softmax(std::int64_t dim = -1) const;
  Tensor matmul(const Tensor& other) const;
  Tensor masked_fill(const Tensor& mask, double value) const;

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
  std::vector<double> values() const;
  Ref<TensorImpl> impl_;
};

// --- factories
Tensor empty(const Shape& sizes, const TensorOptions& o = {});
Tensor zeros(const Shape& sizes, const TensorOptions& o = {});
Tensor ones(const Shape& sizes, const TensorOptions& o = {});
Tensor full(const Shape& sizes, double value, const TensorOptions& o = {});
Tensor empty_like(const Tensor& x);  ///< contiguous
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
/// 0-dimensional.
Tensor scalar(double value, const TensorOptions& o = {});
Tensor arange(double start, double end, double step = 1, const TensorOptions& o = DType::Int64);
Tensor linspace(double start, double end, std::int64_t steps, const TensorOptions& o = {});
Tensor eye(std::int64_t n, std::int64_t m = -1, const TensorOptions& o = {});
/// A copy of the values, in row-major order; ShapeError unless there are as many as the sizes say.
Tensor tensor(const std::vector<double>& values, const Shape& sizes, const TensorOptions& o = {});
Tensor tensor(const std::vector<double>& values, const TensorOptions& o = {});
/// A tensor over the caller's memory. Strides in elements (empty: contiguous). The deleter runs
/// with the last reference.
Tensor from_blob(void* data, const Shape& sizes, const TensorOptions& o = {},
                 const Shape& strides = {}, Deleter deleter = nullptr, void* context = nullptr);
Tensor rand(const Shape& sizes, const TensorOptions& o = {}, Generator* g = nullptr);
Tensor randn(const Shape& sizes, const TensorOptions& o = {}, Generator* g = nullptr);
/// Integers in [low, high).
Tensor randint(std::int64_t low, std::int64_t high, const Shape& sizes,
               const TensorOptions& o = DType::Int64, Generator* g = nullptr);
Tensor randperm(std::int64_t n, Generator* g = nullptr);

/// Wraps a negative dimension; IndexError naming `who` when out of range.
int wrap_dim(std::int64_t dim, std::int64_t ndim, const char* who);

namespace detail {
/// A view of x's storage with these sizes and strides, off the tape.
Tensor alias(const Tensor& x, const Shape& sizes, const Shape& strides, std::int64_t offset);
/// x expanded to these sizes with stride 0, off the tape; the caller has checked that it fits.
Tensor broadcast_to(const Tensor& x, const Shape& sizes);
}  // namespace detail

}  // namespace dropin
