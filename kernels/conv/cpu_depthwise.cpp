// Mixed depthwise convolution: every run of channels with its own kernel, in one pass over the
// image. Work is cut where the products come out even.
#include <algorithm>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/conv/depthwise.h"
#include "kernels/conv/plane.h"
#include "kernels/conv/rows.h"
#include "kernels/hd.h"
#include "src/cpu/scratch.h"

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

constexpr int64_t kPlanes =
    8;  // channels of a unit where each has a plane: they share one padded band
constexpr int64_t kLeastChannels = 32;  // of a slice where they lie side by side
constexpr double kSliceFlops = 1e6;     // least work of a slice
constexpr int64_t kMostSlices = 128;

/// Channels-last, without being contiguous as well.
bool channels_last(const TensorIn& t) {
  return t.strides[1] == 1 && t.strides[3] == t.sizes[1] &&
         t.strides[2] == t.sizes[1] * t.sizes[3] &&
         (t.sizes[0] <= 1 || t.strides[0] == t.sizes[1] * t.sizes[2] * t.sizes[3]);
}

/// Of an image in channels-last order.
cpu::RowStrides strides_of(const TensorIn& t) { return {t.sizes[1] * t.sizes[3], t.sizes[1]}; }

/// A run as the planes see it, cut into units of a few channels.
struct Run {
  cpu::PlaneConv plane;
  const DepthwiseRun* run;
  int64_t first, channels, units;
  double cost;  ///< of a unit and image
};

struct Call {
  bool last = false;
  int64_t images = 0, units = 0;
  double cost = 0;  ///< of an image
  std::vector<Run> runs;
};

Status prepare(const TensorIn& x, const TensorIn& y, const DepthwiseRuns& runs, Call& c) {
  if (x.ndim != 4 || y.ndim != 4) return abi::failed("depthwise: expected four dimensions");
  if (x.dtype != DType::Float32 || y.dtype != DType::Float32)
    return abi::unsupported("depthwise: no kernel for these types; there is float32");
  c.last = !(x.contiguous() && y.contiguous());
  if (c.last && !(channels_last(x) && channels_last(y)))
    return abi::unsupported("depthwise: arrays must be contiguous or channels-last");
  if (x.sizes[0] != y.sizes[0] || x.sizes[1] != y.sizes[1])
    return abi::failed("depthwise: arrays do not fit");
  c.images = x.sizes[0];
  int64_t at = 0;
  for (const DepthwiseRun& r : runs) {
    const TensorIn& w = r.w.data ? r.w : static_cast<const TensorIn&>(r.gw);
    if (w.ndim != 4 || w.sizes[1] != 1) return abi::failed("depthwise: weights do not fit");
    Run u{{}, &r, at, w.sizes[0], ceil_div(w.sizes[0], kPlanes), 0};
    for (const TensorIn* t : {&r.w, static_cast<const TensorIn*>(&r.gw)})
      if (t->data && (t->dtype != DType::Float32 || !t->contiguous() || t->numel() != w.numel()))
        return abi::failed("depthwise: weights do not fit");
    for (const TensorIn* t : {&r.bias, static_cast<const TensorIn*>(&r.gb)})
      if (t->data && (t->dtype != DType::Float32 || !t->contiguous() || t->numel() != u.channels))
        return abi::failed("depthwise: a bias does not fit");
    for (int d = 0; d < 2; ++d) {
      u.plane.size[d] = x.sizes[d + 2], u.plane.out_size[d] = y.sizes[d + 2],
      u.plane.kernel[d] = w.sizes[d + 2];
      u.plane.stride[d] = r.g.stride[d], u.plane.dilation[d] = r.g.dilation[d],
      u.plane.pad_begin[d] = r.g.pad_begin[d];
      if (r.g.stride[d] < 1 || r.g.dilation[d] < 1 || r.g.pad_begin[d] < 0 || r.g.pad_end[d] < 0 ||
          w.sizes[d + 2] < 1)
        return abi::failed("depthwise: geometry out of range");
      const int64_t room = x.sizes[d + 2] + r.g.pad_begin[d] + r.g.pad_end[d] -
                           r.g.dilation[d] * (w.sizes[d + 2] - 1) - 1;
      if (room < 0 || y.sizes[d + 2] != room / r.g.stride[d] + 1)
        return abi::failed("depthwise: output size does not fit");
    }
    u.cost = static_cast<double>(kPlanes) * (2.0 * static_cast<double>(y.sizes[2] * y.sizes[3]) *
                                                 static_cast<double>(w.sizes[2] * w.sizes[3] + 6) +
                                             8.0 * static_cast<double>(x.sizes[2] * x.sizes[3]));
    at += u.channels;
    c.units += u.units;
    c.cost += u.cost * static_cast<double>(u.units);
    c.runs.push_back(u);
  }
  if (at != x.sizes[1])
    return abi::failed("depthwise: the runs' channels do not add up to those of x");
  return abi::ok();
}

/// f(run, first channel within it, channels, image) for units in slices of even cost; with
/// `by_image` false the image is -1 and a unit stands for all of them.
template <class F>
void each_unit(const Call& c, bool by_image, F&& f) {
  const int64_t images = by_image ? c.images : 1;
  const double each = by_image ? c.cost : c.cost * static_cast<double>(c.images) * 2,
               total = each * static_cast<double>(images),
               weight = by_image ? 1 : 2 * static_cast<double>(c.images);
  const int64_t slices =
      std::clamp<int64_t>(static_cast<int64_t>(total / kSliceFlops), 1,
                          std::min(kMostSlices, std::max<int64_t>(1, c.units * images)));
  parallel_for(slices, 1, [&](int64_t from, int64_t to) {
    // Units whose middle lies in [low, high) of the running cost.
    const double low = total * static_cast<double>(from) / static_cast<double>(slices),
                 high = to == slices
                            ? 2 * total + 1
                            : total * static_cast<double>(to) / static_cast<double>(slices);
    for (int64_t b = 0; b < images; ++b) {
      double at = each * static_cast<double>(b);
      if (at >= high || at + each < low) continue;
      for (const Run& r : c.runs) {
        const double cost = r.cost * weight;
        for (int64_t u = static_cast<int64_t>(std::max(0.0, (low - at) / cost - 1)); u < r.units;
             ++u) {
          const double middle = at + (static_cast<double>(u) + 0.5) * cost;
          if (middle < low) continue;
          if (middle >= high) break;
          f(r, u * kPlanes, std::min(kPlanes, r.channels - u * kPlanes), by_image ? b : -1);
        }
        at += cost * static_cast<double>(r.units);
      }
    }
  });
}

// --- channels-last: slices are rows of the output, and channels too where there are few rows

/// Weights of a run as [taps, channels]; bias and gradients stay as they are.
class TurnedWeights {
 public:
  explicit TurnedWeights(const Call& c) {
    int64_t size = 0;
    for (const Run& r : c.runs) size += r.channels * r.plane.kernel[0] * r.plane.kernel[1];
    all_ = cpu::Scratch<float>(size);
    float* to = all_.data();
    for (const Run& r : c.runs) {
      const int64_t taps = r.plane.kernel[0] * r.plane.kernel[1];
      at_.push_back(to);
      if (const float* w = r.run->w.as<float>())
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t k = 0; k < r.channels; ++k) to[t * r.channels + k] = w[k * taps + t];
      to += taps * r.channels;
    }
  }
  const float* operator[](std::size_t run) const { return at_[run]; }

 private:
  cpu::Scratch<float> all_;
  std::vector<const float*> at_;
};

/// Blocks of rows of all images, one after the other, in `slices` parts; every part once for each
/// of `groups` of channels.
struct Grid {
  int64_t block, blocks, items, slices, groups;
};
Grid grid_of(const Call& c, int64_t rows, int64_t most_slices) {
  int64_t dilation = 1, channels = 0, kernel = 0;
  for (const Run& r : c.runs)
    dilation = std::max(dilation, r.plane.dilation[0]), channels = std::max(channels, r.channels),
    kernel = std::max(kernel, r.plane.kernel[0]);
  Grid g;
  g.block = cpu::row_block(ceil_div(rows, dilation), kernel) * dilation;
  g.blocks = ceil_div(rows, g.block);
  g.items = g.blocks * c.images;
  const double slices = c.cost * static_cast<double>(c.images) / kSliceFlops;
  const int64_t wanted = std::clamp<int64_t>(static_cast<int64_t>(slices), 1, kMostSlices);
  g.slices = std::min({wanted, g.items, std::max<int64_t>(1, most_slices)});
  g.groups = std::clamp<int64_t>(ceil_div(std::min<int64_t>(wanted, 16), g.slices), 1,
                                 std::max<int64_t>(1, channels / kLeastChannels));
  return g;
}
/// The channels of a run in group `i`: whole lines of memory but in the last.
struct Channels {
  int64_t from, count;
};
Channels channels_of(const Run& r, const Grid& g, int64_t i) {
  const int64_t each = r.channels / g.groups / 16 * 16;
  if (i + 1 == g.groups) return {i * each, r.channels - i * each};
  return {i * each, each};
}
/// f(slice, group, image, block, whether it is the slice's first) for each block.
template <class F>
void each_slice(const Grid& g, F&& f) {
  parallel_for(g.slices * g.groups, 1, [&](int64_t begin, int64_t end) {
    for (; begin < end; ++begin) {
      const int64_t slice = begin % g.slices, to = g.items * (slice + 1) / g.slices;
      for (int64_t i = g.items * slice / g.slices, start = i; i < to; ++i)
        f(slice, begin / g.slices, i / g.blocks, i % g.blocks, i == start);
    }
  });
}

void last_forward(const Call& c, const TensorIn& x, const TensorOut& y) {
  const TurnedWeights w(c);
  const int64_t P = y.sizes[2], x_image = x.sizes[1] * x.sizes[2] * x.sizes[3],
                y_image = y.sizes[1] * P * y.sizes[3];
  const Grid g = grid_of(c, P, kMostSlices);
  const cpu::RowStrides sx = strides_of(x), sy = strides_of(y);
  each_slice(g, [&](int64_t, int64_t group, int64_t b, int64_t i, bool) {
    for (std::size_t k = 0; k < c.runs.size(); ++k) {
      const Run& r = c.runs[k];
      const auto [first, count] = channels_of(r, g, group);
      if (count == 0) continue;
      cpu::rows_forward(r.plane, count, x.as<float>() + b * x_image + r.first + first, sx,
                        w[k] + first, r.channels,
                        r.run->bias.data ? r.run->bias.as<float>() + first : nullptr,
                        y.as<float>() + b * y_image + r.first + first, sy, i * g.block,
                        std::min(P, (i + 1) * g.block));
    }
  });
}

bool wants_sums(const Run& r) { return r.run->gw.data || r.run->gb.data; }
int64_t sums_of(const Run& r, int64_t channels) {
  return (r.plane.kernel[0] * r.plane.kernel[1] + 1) * cpu::sums_pitch(channels);
}
int64_t all_sums(const Call& c) {
  int64_t all = 0;
  for (const Run& r : c.runs) all += wants_sums(r) ? sums_of(r, r.channels) : 0;
  return all;
}

/// Every slice has sums of its own for the weights' gradients: [slices][runs][groups]; they are
/// added in order.
struct SliceSums {
  std::vector<int64_t> at;
  int64_t size = 0, groups;
  cpu::Scratch<float> sums;

  SliceSums(const Call& c, const Grid& g) : groups(g.groups) {
    for (const Run& r : c.runs)
      for (int64_t i = 0; i < g.groups; ++i) {
        at.push_back(size);
        const int64_t count = channels_of(r, g, i).count;
        if (wants_sums(r) && count > 0) size += sums_of(r, count);
      }
    sums = cpu::Scratch<float>(size * g.slices + 1);
  }
  float* of(int64_t slice, std::size_t run, int64_t group) {
    return sums.data() + slice * size +
           at[run * static_cast<std::size_t>(groups) + static_cast<std::size_t>(group)];
  }
  void finish(const Call& c, const Grid& g) {
    for (std::size_t k = 0; k < c.runs.size(); ++k) {
      const Run& r = c.runs[k];
      if (!wants_sums(r)) continue;
      for (int64_t group = 0; group < g.groups; ++group) {
        const auto [first, count] = channels_of(r, g, group);
        if (count == 0) continue;
        float* sum = of(0, k, group);
        const int64_t n = sums_of(r, count);
        for (int64_t slice = 1; slice < g.slices; ++slice)
          for (int64_t i = 0; i < n; ++i) sum[i] += sum[slice * size + i];
        cpu::rows_finish(r.plane, count, sum,
                         r.run->gw.data
                             ? r.run->gw.as<float>() + first * r.plane.kernel[0] * r.plane.kernel[1]
                             : nullptr,
                         r.run->gb.data ? r.run->gb.as<float>() + first : nullptr);
      }
    }
  }
};

void last_backward(const Call& c, const TensorIn& gy, const TensorIn& x, const TensorIn& like,
                   const TensorOut& gx) {
  const int64_t P = gy.sizes[2], H = like.sizes[2], x_image = like.sizes[1] * H * like.sizes[3],
                y_image = gy.sizes[1] * P * gy.sizes[3];
  const cpu::RowStrides sx = strides_of(like), sy = strides_of(gy);
  const TurnedWeights w(c);
  const int64_t all = all_sums(c);
  const Grid g = grid_of(c, P, all ? c.images * y_image / (2 * all) : kMostSlices);
  SliceSums sums(c, g);
  each_slice(g, [&](int64_t slice, int64_t group, int64_t b, int64_t i, bool fresh) {
    for (std::size_t k = 0; k < c.runs.size(); ++k) {
      const Run& r = c.runs[k];
      const auto [first, count] = channels_of(r, g, group);
      if (count == 0) continue;
      const int64_t p0 = i * g.block, p1 = std::min(P, p0 + g.block), s = r.plane.stride[0];
      const float* rows = gy.as<float>() + b * y_image + r.first + first;
      // gx's rows over the same rows of gy, so that these are read from memory once
      if (gx.data)
        cpu::rows_backward_input(r.plane, count, rows, sy, w[k] + first, r.channels,
                                 gx.as<float>() + b * x_image + r.first + first, sx,
                                 std::min(H, p0 * s), p1 == P ? H : std::min(H, p1 * s));
      if (!wants_sums(r)) continue;
      float* sum = sums.of(slice, k, group);
      if (fresh) std::fill_n(sum, sums_of(r, count), 0.0f);
      cpu::rows_backward_weight(
          r.plane, count, rows, sy,
          r.run->gw.data ? x.as<float>() + b * x_image + r.first + first : nullptr, sx, sum,
          r.run->gb.data != nullptr, p0, p1);
    }
  });
  sums.finish(c, g);
}

}  // namespace

Status depthwise_forward(const TensorIn& x, const DepthwiseRuns& runs, const TensorOut& y) {
  Call c;
  if (Status s = prepare(x, y, runs, c); s.code) return s;
  if (y.numel() == 0) return abi::ok();
  if (c.last) return last_forward(c, x, y), abi::ok();
  const int64_t x_plane = x.sizes[2] * x.sizes[3], y_plane = y.sizes[2] * y.sizes[3],
                x_image = x.sizes[1] * x.sizes[2] * x.sizes[3],
                y_image = y.sizes[1] * y.sizes[2] * y.sizes[3];
  each_unit(c, true, [&](const Run& r, int64_t channel, int64_t n, int64_t b) {
    const int64_t at = r.first + channel;
    cpu::planes_forward(r.plane, n, x.as<float>() + b * x_image + at * x_plane,
                        r.run->w.as<float>() + channel * r.plane.kernel[0] * r.plane.kernel[1],
                        r.run->bias.data ? r.run->bias.as<float>() + channel : nullptr,
                        y.as<float>() + b * y_image + at * y_plane);
  });
  return abi::ok();
}

Status depthwise_backward(const TensorIn& gy, const TensorIn& x, const DepthwiseRuns& runs,
                          const TensorOut& gx) {
  const TensorIn& like = gx.data ? static_cast<const TensorIn&>(gx) : x;
  Call c;
  if (Status s = prepare(like, gy, runs, c); s.code) return s;
  bool weights = false;
  for (const Run& r : c.runs) {
    weights = weights || r.run->gw.data || r.run->gb.data;
    // An empty batch has no data to point at.
    if (r.run->gw.data && like.numel() > 0 &&
        (!x.data || x.numel() != like.numel() || x.dtype != DType::Float32 ||
         (c.last ? !channels_last(x) : !x.contiguous())))
      return abi::failed("depthwise: x does not fit");
    if (gx.data && !r.run->w.data) return abi::failed("depthwise: no weights");
  }
  if (like.numel() == 0 || gy.numel() == 0) {
    for (const Run& r : c.runs) {
      if (r.run->gw.data) std::fill_n(r.run->gw.as<float>(), r.run->gw.numel(), 0.0f);
      if (r.run->gb.data) std::fill_n(r.run->gb.as<float>(), r.run->gb.numel(), 0.0f);
    }
    return abi::ok();
  }
  if (c.last) return last_backward(c, gy, x, like, gx), abi::ok();
  const int64_t x_plane = like.sizes[2] * like.sizes[3], y_plane = gy.sizes[2] * gy.sizes[3],
                x_image = like.sizes[1] * like.sizes[2] * like.sizes[3],
                y_image = gy.sizes[1] * gy.sizes[2] * gy.sizes[3];
  each_unit(c, !weights, [&](const Run& r, int64_t channel, int64_t n, int64_t b) {
    const int64_t at = r.first + channel, taps = r.plane.kernel[0] * r.plane.kernel[1],
                  from = std::max<int64_t>(b, 0);
    const DepthwiseRun& d = *r.run;
    cpu::planes_backward(r.plane, n, b < 0 ? c.images : 1,
                         gy.as<float>() + from * y_image + at * y_plane, y_image,
                         d.gw.data ? x.as<float>() + at * x_plane : nullptr, x_image,
                         d.w.data ? d.w.as<float>() + channel * taps : nullptr,
                         gx.data ? gx.as<float>() + from * x_image + at * x_plane : nullptr,
                         d.gw.data ? d.gw.as<float>() + channel * taps : nullptr,
                         d.gb.data ? d.gb.as<float>() + channel : nullptr);
  });
  return abi::ok();
}

}  // namespace dropin::kernels
