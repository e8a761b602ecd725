// Mixed depthwise convolution: every run of channels with its own kernel, in one pass over the image. Work is cut where the products come out even.
#include <algorithm>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/conv/depthwise.h"
#include "kernels/conv/plane.h"

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;
using std::int64_t;

constexpr int64_t kWide = 16;         // channels of a unit where they lie side by side: whole vectors on every target
constexpr int64_t kPlanes = 8;        // channels of a unit otherwise: they share one padded band
constexpr double kSliceFlops = 1e6;   // least work of a slice
constexpr int64_t kMostSlices = 128;

/// Channels-last, without being contiguous as well.
bool channels_last(const TensorIn& t) {
  return t.strides[1] == 1 && t.strides[3] == t.sizes[1] && t.strides[2] == t.sizes[1] * t.sizes[3] && (t.sizes[0] <= 1 || t.strides[0] == t.sizes[1] * t.sizes[2] * t.sizes[3]);
}

cpu::PlaneStrides plane_strides(const TensorIn& t, bool last) {
  const int64_t c = t.sizes[1], w = t.sizes[3];
  return last ? cpu::PlaneStrides{1, w * c, c} : cpu::PlaneStrides{t.sizes[2] * w, w, 1};
}

/// A run as the planes see it, cut into units of a few channels.
struct Run {
  cpu::PlaneConv plane;
  const DepthwiseRun* run;
  int64_t first, channels, units;
  double cost;  ///< of a unit and image
};

struct Call {
  bool last = false;
  int64_t images = 0, width = 1, units = 0;
  double cost = 0;  ///< of an image
  std::vector<Run> runs;
};

Status prepare(const TensorIn& x, const TensorIn& y, const DepthwiseRun* runs, int64_t count, Call& c) {
  if (x.ndim != 4 || y.ndim != 4) return abi::failed("depthwise: expected four dimensions");
  if (x.dtype != DType::Float32 || y.dtype != DType::Float32) return abi::unsupported("depthwise: no kernel for these types; there is float32");
  c.last = !(x.contiguous() && y.contiguous());
  if (c.last && !(channels_last(x) && channels_last(y))) return abi::unsupported("depthwise: arrays must be contiguous or channels-last");
  if (x.sizes[0] != y.sizes[0] || x.sizes[1] != y.sizes[1]) return abi::failed("depthwise: arrays do not fit");
  c.images = x.sizes[0], c.width = c.last ? kWide : kPlanes;
  int64_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    const DepthwiseRun& r = runs[i];
    const TensorIn& w = r.w.data ? r.w : static_cast<const TensorIn&>(r.gw);
    if (w.ndim != 4 || w.sizes[1] != 1) return abi::failed("depthwise: weights do not fit");
    Run u{{}, &r, at, w.sizes[0], (w.sizes[0] + c.width - 1) / c.width, 0};
    for (const TensorIn* t : {&r.w, static_cast<const TensorIn*>(&r.gw)})
      if (t->data && (t->dtype != DType::Float32 || !t->contiguous() || t->numel() != w.numel())) return abi::failed("depthwise: weights do not fit");
    for (const TensorIn* t : {&r.bias, static_cast<const TensorIn*>(&r.gb)})
      if (t->data && (t->dtype != DType::Float32 || !t->contiguous() || t->numel() != u.channels)) return abi::failed("depthwise: a bias does not fit");
    for (int d = 0; d < 2; ++d) {
      u.plane.size[d] = x.sizes[d + 2], u.plane.out_size[d] = y.sizes[d + 2], u.plane.kernel[d] = w.sizes[d + 2];
      u.plane.stride[d] = r.g.stride[d], u.plane.dilation[d] = r.g.dilation[d], u.plane.pad_begin[d] = r.g.pad_begin[d];
      if (r.g.stride[d] < 1 || r.g.dilation[d] < 1 || r.g.pad_begin[d] < 0 || r.g.pad_end[d] < 0 || w.sizes[d + 2] < 1) return abi::failed("depthwise: geometry out of range");
      const int64_t room = x.sizes[d + 2] + r.g.pad_begin[d] + r.g.pad_end[d] - r.g.dilation[d] * (w.sizes[d + 2] - 1) - 1;
      if (room < 0 || y.sizes[d + 2] != room / r.g.stride[d] + 1) return abi::failed("depthwise: output size does not fit");
    }
    u.cost = static_cast<double>(c.width) * (2.0 * static_cast<double>(y.sizes[2] * y.sizes[3]) * static_cast<double>(w.sizes[2] * w.sizes[3] + 6) + 8.0 * static_cast<double>(x.sizes[2] * x.sizes[3]));
    at += u.channels;
    c.units += u.units;
    c.cost += u.cost * static_cast<double>(u.units);
    c.runs.push_back(u);
  }
  if (at != x.sizes[1]) return abi::failed("depthwise: the runs' channels do not add up to those of x");
  return abi::ok();
}

/// f(run, first channel within it, channels, image) for units in slices of even cost; with `by_image` false the image is -1 and a unit stands for all of them.
template <class F>
void each_unit(const Call& c, bool by_image, F&& f) {
  const int64_t images = by_image ? c.images : 1;
  const double each = by_image ? c.cost : c.cost * static_cast<double>(c.images) * 2, total = each * static_cast<double>(images), weight = by_image ? 1 : 2 * static_cast<double>(c.images);
  const int64_t slices = std::clamp<int64_t>(static_cast<int64_t>(total / kSliceFlops), 1, std::min(kMostSlices, std::max<int64_t>(1, c.units * images)));
  parallel_for(slices, 1, [&](int64_t from, int64_t to) {
    // Units whose middle lies in [low, high) of the running cost.
    const double low = total * static_cast<double>(from) / static_cast<double>(slices), high = to == slices ? 2 * total + 1 : total * static_cast<double>(to) / static_cast<double>(slices);
    for (int64_t b = 0; b < images; ++b) {
      double at = each * static_cast<double>(b);
      if (at >= high || at + each < low) continue;
      for (const Run& r : c.runs) {
        const double cost = r.cost * weight;
        for (int64_t u = static_cast<int64_t>(std::max(0.0, (low - at) / cost - 1)); u < r.units; ++u) {
          const double middle = at + (static_cast<double>(u) + 0.5) * cost;
          if (middle < low) continue;
          if (middle >= high) break;
          f(r, u * c.width, std::min(c.width, r.channels - u * c.width), by_image ? b : -1);
        }
        at += cost * static_cast<double>(r.units);
      }
    }
  });
}

}  // namespace

Status depthwise_forward(const TensorIn& x, const DepthwiseRun* runs, int64_t count, const TensorOut& y) {
  Call c;
  if (Status s = prepare(x, y, runs, count, c); s.code) return s;
  if (y.numel() == 0) return abi::ok();
  const cpu::PlaneStrides sx = plane_strides(x, c.last), sy = plane_strides(y, c.last);
  const int64_t x_image = x.sizes[1] * x.sizes[2] * x.sizes[3], y_image = y.sizes[1] * y.sizes[2] * y.sizes[3];
  each_unit(c, true, [&](const Run& r, int64_t channel, int64_t n, int64_t b) {
    const int64_t at = r.first + channel;
    cpu::planes_forward(r.plane, n, x.as<float>() + b * x_image + at * sx.channel, sx, r.run->w.as<float>() + channel * r.plane.kernel[0] * r.plane.kernel[1],
                        r.run->bias.data ? r.run->bias.as<float>() + channel : nullptr, y.as<float>() + b * y_image + at * sy.channel, sy);
  });
  return abi::ok();
}

Status depthwise_backward(const TensorIn& gy, const TensorIn& x, const DepthwiseRun* runs, int64_t count, const TensorOut& gx) {
  const TensorIn& like = gx.data ? static_cast<const TensorIn&>(gx) : x;
  Call c;
  if (Status s = prepare(like, gy, runs, count, c); s.code) return s;
  bool weights = false;
  for (const Run& r : c.runs) {
    weights = weights || r.run->gw.data || r.run->gb.data;
    if (r.run->gw.data && (!x.data || x.numel() != like.numel() || x.dtype != DType::Float32 || (c.last ? !channels_last(x) : !x.contiguous()))) return abi::failed("depthwise: x does not fit");
    if (gx.data && !r.run->w.data) return abi::failed("depthwise: no weights");
  }
  if (like.numel() == 0 || gy.numel() == 0) {
    for (const Run& r : c.runs) {
      if (r.run->gw.data) std::fill_n(r.run->gw.as<float>(), r.run->gw.numel(), 0.0f);
      if (r.run->gb.data) std::fill_n(r.run->gb.as<float>(), r.run->gb.numel(), 0.0f);
    }
    return abi::ok();
  }
  const cpu::PlaneStrides sx = plane_strides(like, c.last), sy = plane_strides(gy, c.last);
  const int64_t x_image = like.sizes[1] * like.sizes[2] * like.sizes[3], y_image = gy.sizes[1] * gy.sizes[2] * gy.sizes[3];
  each_unit(c, !weights, [&](const Run& r, int64_t channel, int64_t n, int64_t b) {
    const int64_t at = r.first + channel, taps = r.plane.kernel[0] * r.plane.kernel[1], from = std::max<int64_t>(b, 0);
    const DepthwiseRun& d = *r.run;
    cpu::planes_backward(r.plane, n, b < 0 ? c.images : 1, gy.as<float>() + from * y_image + at * sy.channel, y_image, sy, d.gw.data ? x.as<float>() + at * sx.channel : nullptr, x_image, sx,
                         d.w.data ? d.w.as<float>() + channel * taps : nullptr, gx.data ? gx.as<float>() + from * x_image + at * sx.channel : nullptr, d.gw.data ? d.gw.as<float>() + channel * taps : nullptr,
                         d.gb.data ? d.gb.as<float>() + channel : nullptr);
  });
  return abi::ok();
}

}  // namespace dropin::kernels
