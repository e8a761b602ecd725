#include "dropin/detection/suppression.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "cpu/scratch.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/suppression/kernel.h"
#include "ops/common.h"

namespace dropin {
namespace {

using Index = int64_t;
using Indices = std::vector<Index>;

// ---- checks

void check_boxes(const char* who, const Tensor& boxes, const Tensor& scores) {
  DROPIN_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, ShapeError, who, ": boxes is ",
               boxes.sizes(), ", expected [N, 4]");
  DROPIN_CHECK(boxes.dtype() == kFloat32 || boxes.dtype() == kFloat64, DTypeError, who,
               ": boxes is ", boxes.dtype(), ", expected float32 or float64");
  DROPIN_CHECK(scores.dtype() == kFloat32 || scores.dtype() == kFloat64, DTypeError, who,
               ": scores is ", scores.dtype(), ", expected float32 or float64");
  ops_detail::same_device(who, boxes, scores);
}
void check_scores(const char* who, const Tensor& boxes, const Tensor& scores) {
  check_boxes(who, boxes, scores);
  DROPIN_CHECK(scores.sizes() == Shape{boxes.size(0)}, ShapeError, who, ": scores is ",
               scores.sizes(), ", expected [", boxes.size(0), "] because boxes is ", boxes.sizes());
}
void check_classes(const char* who, const char* what, const Tensor& classes, const Tensor& boxes) {
  DROPIN_CHECK(classes.dtype() == kInt64, DTypeError, who, ": ", what, " is ", classes.dtype(),
               ", expected int64");
  DROPIN_CHECK(classes.sizes() == Shape{boxes.size(0)}, ShapeError, who, ": ", what, " is ",
               classes.sizes(), ", expected [", boxes.size(0), "] because boxes is ",
               boxes.sizes());
  ops_detail::same_device(who, boxes, classes);
}
void check_share(const char* who, const char* what, double v) {
  DROPIN_CHECK(v >= 0 && v <= 1, OptionError, who, ": ", what, " is ", v, ", expected 0 to 1");
}
void check_not_nan(const char* who, const char* what, double v) {
  DROPIN_CHECK(!std::isnan(v), OptionError, who, ": ", what, " is nan, expected a number");
}
void check_count(const char* who, const char* what, Index v) {
  DROPIN_CHECK(v >= 0, OptionError, who, ": ", what, " is ", v, ", expected 0 (no limit) or more");
}

// ---- order

// Keys whose ascending order is that of descending scores (NaN last), equal ones by index. -0 and 0
// are equal.
std::uint64_t sort_key(float score, Index i) {
  const std::uint32_t bits = std::isnan(score) ? 0 : std::bit_cast<std::uint32_t>(score + 0.0f);
  const std::uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return std::uint64_t{std::isnan(score) ? 0xffffffffu : ~ascending} << 32 |
         static_cast<std::uint32_t>(i);
}

// Ascending by the upper half, a few bits at a time; equal upper halves keep their order, which is
// the lower half's.
template <int kBits>
void radix_sort(cpu::Scratch<std::uint64_t>& keys, Index n) {
  constexpr int passes = (32 + kBits - 1) / kBits;
  constexpr std::uint64_t mask = (1 << kBits) - 1;
  cpu::Scratch<std::uint64_t> other(n);
  std::uint32_t counts[passes][1 << kBits] = {};
  for (Index i = 0; i < n; ++i)
    for (int p = 0; p < passes; ++p) ++counts[p][keys[i] >> (32 + kBits * p) & mask];
  for (int p = 0; p < passes; ++p) {
    const int shift = 32 + kBits * p;
    if (counts[p][keys[0] >> shift & mask] == static_cast<std::uint64_t>(n))
      continue;  // all the same
    std::uint32_t at = 0;
    for (std::uint32_t& c : counts[p]) at += std::exchange(c, at);
    for (Index i = 0; i < n; ++i) other[counts[p][keys[i] >> shift & mask]++] = keys[i];
    std::swap(keys, other);
  }
}

// The least `keep` of n keys to the front; equal upper halves in the order of the lower. By a
// histogram of their first bits, then within the bucket on the border.
void keep_least(cpu::Scratch<std::uint64_t>& keys, Index n, Index keep) {
  std::uint32_t counts[2048] = {};
  for (Index i = 0; i < n; ++i) ++counts[keys[i] >> 53];
  std::uint64_t border = 0;
  for (Index below = 0; below + counts[border] < keep; ++border) below += counts[border];
  cpu::Scratch<std::uint64_t> least(n + 1), same(n + 1);
  Index a = 0, b = 0;
  for (Index i = 0; i < n; ++i) {
    const std::uint64_t k = keys[i], digit = k >> 53;
    least[a] = same[b] = k;
    a += digit < border;
    b += digit == border;
  }
  if (a + b > keep) std::nth_element(same.data(), same.data() + (keep - a), same.data() + b);
  std::sort(same.data(), same.data() + (keep - a));
  std::copy_n(same.data(), keep - a, least.data() + a);
  std::swap(keys, least);
}

// The first `limit` (0: all) of `among` (indices into scores, ascending) by descending score.
Indices ranked(const float* scores, const Index* among, Index n, Index limit) {
  const Index keep = limit > 0 ? std::min(limit, n) : n;
  if (n == 0) return {};
  cpu::Scratch<std::uint64_t> keys(n);
  for (Index i = 0; i < n; ++i)
    keys[i] = sort_key(scores[among ? among[i] : i], among ? among[i] : i);
  if (keep < n) keep_least(keys, n, keep);
  if (keep < 128)
    std::sort(keys.data(), keys.data() + keep);
  else if (keep < 8192)
    radix_sort<8>(keys, keep);
  else
    radix_sort<11>(keys, keep);
  Indices r(static_cast<std::size_t>(keep));
  for (std::size_t i = 0; i < r.size(); ++i)
    r[i] = static_cast<Index>(keys[static_cast<Index>(i)] & 0xffffffffu);
  return r;
}
Indices ranked(const double* scores, const Index* among, Index n, Index limit) {
  Indices r(static_cast<std::size_t>(n));
  if (among)
    std::copy_n(among, n, r.begin());
  else
    std::iota(r.begin(), r.end(), Index{0});
  auto before = [&](Index a, Index b) {
    const double x = scores[a], y = scores[b];
    if (std::isnan(x) || std::isnan(y))
      return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
  const Index keep = limit > 0 ? std::min(limit, n) : n;
  if (keep < n) std::nth_element(r.begin(), r.begin() + keep, r.end(), before);
  r.resize(static_cast<std::size_t>(keep));
  std::sort(r.begin(), r.end(), before);
  return r;
}
// 2^32 boxes do not fit the keys' lower half; nobody has them, but they must not go wrong.
template <class T>
Indices rank_all(const T* scores, const Index* among, Index n, Index limit, Index all) {
  DROPIN_CHECK(all < (Index{1} << 32), ShapeError, "suppression: ", all,
               " boxes, expected fewer than 2^32");
  return ranked(scores, among, n, limit);
}

Tensor to_tensor(const Indices& v) {
  Tensor t = empty({static_cast<Index>(v.size())}, kInt64);
  std::copy(v.begin(), v.end(), t.data<Index>());
  return t;
}
template <class F>
decltype(auto) by_type(const Tensor& t, F&& f) {
  return t.dtype() == kFloat32 ? f(t.data<float>()) : f(t.data<double>());
}

abi::TensorIn view(const Indices& v) {
  abi::TensorIn t;
  t.data = v.data(), t.dtype = kInt64, t.ndim = 1, t.sizes[0] = static_cast<Index>(v.size()),
  t.strides[0] = 1;
  return t;
}
// One flag per entry of `order`: whether it stays in its list.
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

// ---- IoU in f64, for the rules that use its value

struct Rect {
  double x1, y1, x2, y2, area;
};
std::vector<Rect> read_boxes(const Tensor& boxes) {
  return by_type(boxes, [n = boxes.size(0)](const auto* p) {
    std::vector<Rect> r(static_cast<std::size_t>(n));
    for (Rect& b : r) {
      b = {static_cast<double>(p[0]), static_cast<double>(p[1]), static_cast<double>(p[2]),
           static_cast<double>(p[3]), 0};
      b.area = (b.x2 - b.x1) * (b.y2 - b.y1);
      if (!std::isfinite(b.x1) || !std::isfinite(b.y1) || !std::isfinite(b.x2) ||
          !std::isfinite(b.y2))
        b = {0, 0, 0, 0, 0};
      p += 4;
    }
    return r;
  });
}
double iou(const Rect& a, const Rect& b) {
  const double w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1),
               h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  const double inter = std::max(w, 0.0) * std::max(h, 0.0), all = a.area + b.area - inter;
  return all > 0 ? inter / all : 0;
}

Tensor contiguous(const Tensor& t) { return t.detach().contiguous(); }
Tensor on_cpu(const Tensor& t) { return t.defined() ? t.detach().to(kCPU) : t; }
Detections moved(const Detections& d, const Device& device) {
  return {d.indices.to(device), d.classes.defined() ? d.classes.to(device) : d.classes,
          d.scores.to(device)};
}

// ---- on a device: the same steps in operations, so that only counts come to the host

template <class Kernel>
Tensor survivors_there(const Tensor& boxes, const Tensor& order, const Indices& starts,
                       double threshold) {
  const Tensor kept = empty(order.sizes(), {kUInt8, boxes.device()}), o = order.contiguous(),
               s = to_tensor(starts).to(boxes.device());
  run<Kernel>(boxes.device(), boxes.in(), o.in(), s.in(), threshold, kept.out());
  return kept.to(kBool);
}

Tensor batched_nms_there(const Tensor& boxes, const Tensor& scores, const Tensor& classes,
                         const NmsOptions& o) {
  const Index n = boxes.size(0);
  const Tensor order = argsort(scores, 0, true);
  if (!classes.defined())
    return masked_select(
        order, survivors_there<kernels::greedy_suppression>(boxes, order, {0, n}, o.iou_threshold));
  const Tensor ranked = index_select(classes, 0, order), place = argsort(ranked, 0, false),
               of = index_select(ranked, 0, place).to(kCPU);
  Indices starts{0};
  for (Index k = 1; k < n; ++k)
    if (of.data<Index>()[k] != of.data<Index>()[k - 1]) starts.push_back(k);
  starts.push_back(n);
  const Tensor kept = survivors_there<kernels::greedy_suppression>(
      boxes, index_select(order, 0, place), starts, o.iou_threshold);
  return masked_select(order, scatter(zeros_like(kept), 0, place, kept));
}

Detections fast_nms_there(const Tensor& boxes, const Tensor& scores, const FastNmsOptions& o) {
  const Device& d = boxes.device();
  const Index N = boxes.size(0), C = scores.size(0);
  const Detections none{empty({0}, {kInt64, d}), empty({0}, {kInt64, d}),
                        empty({0}, scores.options())};
  if (N == 0 || C == 0) return none;
  const ValuesIndices best = max(scores, 0);
  const Tensor among = nonzero(best.values.to(kFloat64) > o.conf_threshold).reshape({-1});
  const Index candidates = among.size(0);
  if (candidates == 0) return none;
  const Tensor lists = o.cross_class ? index_select(best.values, 0, among).unsqueeze(0)
                                     : index_select(scores, 1, among);
  const Index L = lists.size(0), k = o.top_k > 0 ? std::min(o.top_k, candidates) : candidates;
  const Tensor rank =
      topk(masked_fill(lists, isnan(lists), -HUGE_VAL), k, 1, true).indices;  // NaN last
  const Tensor order = index_select(among, 0, rank.reshape({-1})),
               values = gather(lists, 1, rank).reshape({-1});
  Indices starts;
  for (Index l = 0; l <= L; ++l) starts.push_back(l * k);
  Tensor kept = survivors_there<kernels::fast_suppression>(boxes, order, starts, o.iou_threshold);
  if (o.second_threshold) kept = logical_and(kept, values.to(kFloat64) > o.conf_threshold);
  const Tensor chosen = nonzero(kept).reshape({-1});
  const Index found = chosen.size(0),
              limit = o.max_detections > 0 ? std::min(o.max_detections, found) : found;
  if (found == 0) return none;
  const Tensor out = index_select(values, 0, chosen),
               last = index_select(
                   chosen, 0,
                   topk(masked_fill(out, isnan(out), -HUGE_VAL), limit, 0, true).indices);
  const Tensor indices = index_select(order, 0, last);
  const Tensor classes = o.cross_class
                             ? index_select(best.indices, 0, indices)
                             : floor_divide(last, full({}, static_cast<double>(k), last.options()));
  return {indices, classes, index_select(values, 0, last)};
}

}  // namespace

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   const NmsOptions& o) {
  const char* who = idxs.defined() ? "batched_nms" : "nms";
  check_scores(who, boxes, scores);
  if (idxs.defined()) check_classes(who, "idxs", idxs, boxes);
  check_share(who, "iou_threshold", o.iou_threshold);
  if (!boxes.device().is_cpu() && boxes.size(0) > 0 && !any(isnan(scores)).item<bool>())
    return batched_nms_there(contiguous(boxes), contiguous(scores),
                             idxs.defined() ? contiguous(idxs) : idxs, o);
  const Tensor b = contiguous(on_cpu(boxes)), s = contiguous(on_cpu(scores)),
               c = idxs.defined() ? contiguous(on_cpu(idxs)) : Tensor();
  const Index n = b.size(0);
  if (n == 0) return empty({0}, {kInt64, boxes.device()});
  Indices order = by_type(s, [&](const auto* p) {
    for (Index i = 0; i < n; ++i)
      DROPIN_CHECK(!std::isnan(p[i]), Error, who, ": scores[", i, "] is nan, expected numbers");
    return rank_all(p, nullptr, n, 0, n);
  });
  Indices starts{0, n}, place;  // place[k]: the rank of entry k
  if (c.defined()) {
    const Index* cls = c.data<Index>();
    place.resize(order.size());
    std::iota(place.begin(), place.end(), Index{0});
    std::stable_sort(place.begin(), place.end(), [&](Index x, Index y) {
      return cls[order[static_cast<std::size_t>(x)]] < cls[order[static_cast<std::size_t>(y)]];
    });
    Indices grouped(order.size());
    starts = {0};
    for (std::size_t k = 0; k < grouped.size(); ++k) {
      grouped[k] = order[static_cast<std::size_t>(place[k])];
      if (k > 0 && cls[grouped[k]] != cls[grouped[k - 1]]) starts.push_back(static_cast<Index>(k));
    }
    starts.push_back(n);
    const auto kept = survivors<kernels::greedy_suppression>(b, grouped, starts, o.iou_threshold);
    std::vector<std::uint8_t> by_rank(kept.size());
    for (std::size_t k = 0; k < kept.size(); ++k)
      by_rank[static_cast<std::size_t>(place[k])] = kept[k];
    Indices r;
    for (std::size_t k = 0; k < order.size(); ++k)
      if (by_rank[k]) r.push_back(order[k]);
    return to_tensor(r);
  }
  const auto kept = survivors<kernels::greedy_suppression>(b, order, starts, o.iou_threshold);
  Indices r;
  for (std::size_t k = 0; k < order.size(); ++k)
    if (kept[k]) r.push_back(order[k]);
  return to_tensor(r);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, const NmsOptions& o) {
  return batched_nms(boxes, scores, {}, o);
}

Detections soft_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                    const SoftNmsOptions& o) {
  const char* who = "soft_nms";
  check_scores(who, boxes, scores);
  if (idxs.defined()) check_classes(who, "idxs", idxs, boxes);
  DROPIN_CHECK(o.method == "gaussian" || o.method == "linear" || o.method == "hard", OptionError,
               who, ": method is \"", o.method, "\", expected gaussian, linear or hard");
  DROPIN_CHECK(o.sigma > 0, OptionError, who, ": sigma is ", o.sigma,
               ", expected a positive number");
  check_share(who, "iou_threshold", o.iou_threshold);
  check_not_nan(who, "min_score", o.min_score);
  if (!boxes.device().is_cpu())
    return moved(soft_nms(on_cpu(boxes), on_cpu(scores), on_cpu(idxs), o),
                 boxes.device());  // one box after the other, or few: not worth a device
  const std::vector<Rect> all = read_boxes(contiguous(boxes));
  const Tensor c = idxs.defined() ? contiguous(idxs) : Tensor();
  std::vector<double> score = scores.detach().to_vector();
  const Index* cls = c.defined() ? c.data<Index>() : nullptr;
  Indices left(all.size()), taken;
  std::iota(left.begin(), left.end(), Index{0});
  std::vector<double> out;
  const bool gaussian = o.method == "gaussian", linear = o.method == "linear";
  while (!left.empty()) {
    std::size_t best = left.size();
    for (std::size_t k = 0; k < left.size(); ++k) {  // NaN is never the best
      const double v = score[static_cast<std::size_t>(left[k])];
      if (best == left.size() ? !std::isnan(v) : v > score[static_cast<std::size_t>(left[best])])
        best = k;
    }
    if (best == left.size()) break;
    const auto i = static_cast<std::size_t>(left[best]);
    if (score[i] < o.min_score) break;
    taken.push_back(left[best]);
    out.push_back(score[i]);
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(best));
    for (const Index k : left) {
      const auto j = static_cast<std::size_t>(k);
      if (cls && cls[j] != cls[i]) continue;
      const double v = iou(all[i], all[j]);
      if (gaussian)
        score[j] *= std::exp(-v * v / o.sigma);
      else if (v > o.iou_threshold)
        score[j] = linear ? score[j] * (1 - v) : 0;
    }
  }
  Detections r{to_tensor(taken), {}, tensor(out, {static_cast<Index>(out.size())}, scores.dtype())};
  return r;
}

Detections matrix_nms(const Tensor& boxes, const Tensor& scores, const Tensor& classes,
                      const MatrixNmsOptions& o) {
  const char* who = "matrix_nms";
  check_scores(who, boxes, scores);
  check_classes(who, "classes", classes, boxes);
  DROPIN_CHECK(o.kernel == "gaussian" || o.kernel == "linear", OptionError, who, ": kernel is \"",
               o.kernel, "\", expected gaussian or linear");
  DROPIN_CHECK(o.sigma > 0, OptionError, who, ": sigma is ", o.sigma,
               ", expected a positive number");
  check_count(who, "top_k", o.top_k);
  check_count(who, "max_detections", o.max_detections);
  check_not_nan(who, "score_threshold", o.score_threshold);
  if (!boxes.device().is_cpu())
    return moved(matrix_nms(on_cpu(boxes), on_cpu(scores), on_cpu(classes), o),
                 boxes.device());  // one box after the other, or few: not worth a device
  const std::vector<Rect> all = read_boxes(contiguous(boxes));
  const Tensor s = contiguous(scores), c = contiguous(classes);
  const Index* cls = c.data<Index>();
  const Indices order = by_type(s, [&](const auto* p) {
    return rank_all(p, nullptr, boxes.size(0), o.top_k, boxes.size(0));
  });
  const std::size_t n = order.size();
  std::vector<Rect> box(n);
  Indices label(n);
  for (std::size_t k = 0; k < n; ++k)
    box[k] = all[static_cast<std::size_t>(order[k])], label[k] = cls[order[k]];
  const bool gaussian = o.kernel == "gaussian";
  std::vector<double> decayed(n),
      worst(n);  // worst[j]: the greatest IoU of j with a better box of its class (comp)
  // Row j needs worst[i] of the better boxes only, so one pass in order would do; two, because each
  // row then stands for itself and rows go to the threads.
  auto rows = [&](auto&& f) {
    parallel_for(static_cast<Index>(n), 64, [&](Index from, Index to) {
      for (Index j = from; j < to; ++j) f(static_cast<std::size_t>(j));
    });
  };
  rows([&](std::size_t j) {
    double m = 0;
    for (std::size_t i = 0; i < j; ++i)
      if (label[i] == label[j]) m = std::max(m, iou(box[i], box[j]));
    worst[j] = m;
  });
  rows([&](std::size_t j) {
    double decay = 1;
    for (std::size_t i = 0; i < j; ++i) {
      if (label[i] != label[j]) continue;
      const double v = iou(box[i], box[j]);
      decay = std::min(decay, gaussian ? std::exp(-o.sigma * (v * v - worst[i] * worst[i]))
                                       : (1 - v) / std::max(1 - worst[i], 1e-10));
    }
    decayed[j] = decay;
  });
  const std::vector<double> raw = scores.detach().to_vector();
  for (std::size_t j = 0; j < n; ++j) decayed[j] *= raw[static_cast<std::size_t>(order[j])];
  Indices among;
  for (std::size_t j = 0; j < n; ++j)
    if (decayed[j] >= o.score_threshold) among.push_back(static_cast<Index>(j));
  const Indices best = rank_all(decayed.data(), among.data(), static_cast<Index>(among.size()),
                                o.max_detections, static_cast<Index>(n));
  Indices indices, kinds;
  std::vector<double> out;
  for (const Index j : best) {
    indices.push_back(order[static_cast<std::size_t>(j)]);
    kinds.push_back(label[static_cast<std::size_t>(j)]);
    out.push_back(decayed[static_cast<std::size_t>(j)]);
  }
  return {to_tensor(indices), to_tensor(kinds),
          tensor(out, {static_cast<Index>(out.size())}, scores.dtype())};
}

namespace {

template <class T>
Detections fast_nms_of(const Tensor& boxes, const T* scores, Index C, Index N,
                       const FastNmsOptions& o) {
  // 1. Candidates, and (cross_class) the best score and class of each.
  std::vector<T> best(static_cast<std::size_t>(N));
  Indices best_class(static_cast<std::size_t>(N)), among;
  if (C > 0) {
    std::copy_n(scores, N, best.begin());
    for (Index c = 1; c < C; ++c)
      for (Index n = 0; n < N; ++n) {  // a NaN wins and stays
        const auto k = static_cast<std::size_t>(n);
        const T v = scores[c * N + n];
        const bool more = !(v <= best[k]) && !std::isnan(best[k]);
        best[k] = more ? v : best[k];
        best_class[k] = more ? c : best_class[k];
      }
    for (Index n = 0; n < N; ++n)
      if (static_cast<double>(best[static_cast<std::size_t>(n)]) > o.conf_threshold)
        among.push_back(n);
  }
  // 2. Each list sorted and cut.
  const auto candidates = static_cast<Index>(among.size());
  const Index lists = candidates == 0 ? 0 : o.cross_class ? 1 : C;
  std::vector<Indices> sorted(static_cast<std::size_t>(lists));
  parallel_for(
      lists, std::max<Index>(1, 2048 / std::max<Index>(candidates, 1)), [&](Index from, Index to) {
        for (Index c = from; c < to; ++c)
          sorted[static_cast<std::size_t>(c)] = rank_all(
              o.cross_class ? best.data() : scores + c * N, among.data(), candidates, o.top_k, N);
      });
  Indices order, starts{0};
  for (const Indices& s : sorted) {
    order.insert(order.end(), s.begin(), s.end());
    starts.push_back(static_cast<Index>(order.size()));
  }
  // 3, 4. Decided at once.
  const auto kept = survivors<kernels::fast_suppression>(boxes, order, starts, o.iou_threshold);
  std::vector<T> out;
  Indices indices, classes;
  for (Index c = 0; c < lists; ++c)
    for (Index k = starts[static_cast<std::size_t>(c)]; k < starts[static_cast<std::size_t>(c) + 1];
         ++k) {
      const Index n = order[static_cast<std::size_t>(k)];
      const T v = o.cross_class ? best[static_cast<std::size_t>(n)] : scores[c * N + n];
      if (!kept[static_cast<std::size_t>(k)] ||
          (o.second_threshold && !(static_cast<double>(v) > o.conf_threshold)))
        continue;  // 5.
      indices.push_back(n);
      classes.push_back(o.cross_class ? best_class[static_cast<std::size_t>(n)] : c);
      out.push_back(v);
    }
  // 6. All classes by score.
  const auto found = static_cast<Index>(out.size());
  const Indices final_order = rank_all(out.data(), nullptr, found, o.max_detections, found);
  Detections r{empty({static_cast<Index>(final_order.size())}, kInt64),
               empty({static_cast<Index>(final_order.size())}, kInt64),
               empty({static_cast<Index>(final_order.size())}, dtype_of<T>::value)};
  for (std::size_t k = 0; k < final_order.size(); ++k) {
    const auto i = static_cast<std::size_t>(final_order[k]);
    r.indices.data<Index>()[k] = indices[i];
    r.classes.data<Index>()[k] = classes[i];
    r.scores.data<T>()[k] = out[i];
  }
  return r;
}

void check_fast_nms(const FastNmsOptions& o) {
  check_share("fast_nms", "iou_threshold", o.iou_threshold);
  check_not_nan("fast_nms", "conf_threshold", o.conf_threshold);
  check_count("fast_nms", "top_k", o.top_k);
  check_count("fast_nms", "max_detections", o.max_detections);
}

}  // namespace

Detections fast_nms(const Tensor& boxes, const Tensor& scores, const FastNmsOptions& o) {
  check_boxes("fast_nms", boxes, scores);
  DROPIN_CHECK(scores.dim() == 2 && scores.size(1) == boxes.size(0), ShapeError,
               "fast_nms: scores is ", scores.sizes(), ", expected [C, ", boxes.size(0),
               "] because boxes is ", boxes.sizes());
  check_fast_nms(o);
  const Tensor b = contiguous(boxes), s = contiguous(scores);
  if (!b.device().is_cpu()) return fast_nms_there(b, s, o);
  return by_type(s, [&](const auto* p) { return fast_nms_of(b, p, s.size(0), s.size(1), o); });
}

std::vector<Detections> fast_nms_batch(const Tensor& boxes, const Tensor& scores,
                                       const FastNmsOptions& o) {
  DROPIN_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, ShapeError, "fast_nms: boxes is ",
               boxes.sizes(), ", expected [B, N, 4]");
  DROPIN_CHECK(
      scores.dim() == 3 && scores.size(0) == boxes.size(0) && scores.size(2) == boxes.size(1),
      ShapeError, "fast_nms: scores is ", scores.sizes(), ", expected [", boxes.size(0), ", C, ",
      boxes.size(1), "] because boxes is ", boxes.sizes());
  check_fast_nms(o);
  std::vector<Detections> r;
  for (Index i = 0; i < boxes.size(0); ++i) r.push_back(fast_nms(boxes[i], scores[i], o));
  return r;
}

}  // namespace dropin
