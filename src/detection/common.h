// What the rules of suppression share: checks, ranks by score, the kernels over lists of boxes.
#pragma once
#include <cstdint>
#include <vector>

#include "dropin/detection/suppression.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/shape.h"
#include "kernels/suppression/kernel.h"

namespace dropin::detection_detail {

using Index = int64_t;
using Indices = std::vector<Index>;

void check_boxes(const char* who, const Tensor& boxes, const Tensor& scores);
void check_scores(const char* who, const Tensor& boxes, const Tensor& scores);
void check_classes(const char* who, const char* what, const Tensor& classes, const Tensor& boxes);
void check_share(const char* who, const char* what, double v);
void check_not_nan(const char* who, const char* what, double v);
void check_count(const char* who, const char* what, Index v);

/// The first `limit` (0: all) of `among` (indices into scores, ascending; null: 0 to n) by
/// descending score, NaN last, equal ones by index.
Indices ranked(const float* scores, const Index* among, Index n, Index limit);
Indices ranked(const double* scores, const Index* among, Index n, Index limit);
/// 2^32 boxes do not fit the keys' lower half; nobody has them, but they must not go wrong.
template <class T>
Indices rank_all(const T* scores, const Index* among, Index n, Index limit, Index all) {
  DROPIN_CHECK(all < (Index{1} << 32), ShapeError, "suppression: ", all,
               " boxes, expected fewer than 2^32");
  return ranked(scores, among, n, limit);
}

Tensor to_tensor(const Indices& v);
template <class F>
decltype(auto) by_type(const Tensor& t, F&& f) {
  return t.dtype() == kFloat32 ? f(t.data<float>()) : f(t.data<double>());
}

abi::TensorIn view(const Indices& v);
/// One flag per entry of `order`: whether it stays in its list.
template <class Kernel>
std::vector<std::uint8_t> survivors(const Tensor& boxes, const Indices& order,
                                    const Indices& starts, double threshold) {
  std::vector<std::uint8_t> kept(order.size());
  abi::TensorOut out;
  out.data = kept.data(), out.dtype = kUInt8, out.ndim = 1,
  out.sizes[0] = static_cast<Index>(kept.size()), out.strides[0] = 1;
  run<Kernel>(kCPU, boxes.in(), view(order), view(starts), threshold, out);
  return kept;
}

/// The same on a device, where the order is a tensor.
template <class Kernel>
Tensor survivors_there(const Tensor& boxes, const Tensor& order, const Indices& starts,
                       double threshold) {
  const Tensor kept = empty(order.sizes(), {kUInt8, boxes.device()}), o = order.contiguous(),
               s = to_tensor(starts).to(boxes.device());
  run<Kernel>(boxes.device(), boxes.in(), o.in(), s.in(), threshold, kept.out());
  return kept.to(kBool);
}

inline Tensor contiguous(const Tensor& t) { return t.detach().contiguous(); }
inline Tensor on_cpu(const Tensor& t) { return t.defined() ? t.detach().to(kCPU) : t; }
inline Detections moved(const Detections& d, const Device& device) {
  return {d.indices.to(device), d.classes.defined() ? d.classes.to(device) : d.classes,
          d.scores.to(device)};
}

}  // namespace dropin::detection_detail
