// Convolutions: oneDNN's (f32), cut into images and channels for the threads; otherwise products
// with unrolled patches, or with the image itself when the kernel is 1x1. Depthwise convolutions
// (f32, one filter per channel) and all depthwise weight gradients are our own (cpu_plane.cpp).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "dropin/core/parallel.h"
#include "kernels/conv/depthwise.h"
#include "kernels/conv/kernel.h"
#include "kernels/conv/plane.h"
#include "kernels/hd.h"
#include "src/cpu/gemm.h"
#include "src/cpu/onednn.h"
#include "src/cpu/scratch.h"

namespace dropin::kernels {
namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

constexpr int64_t kImageBytes = 1 << 20;  // images handled together: what stays in L2
constexpr double kMinFlops = 4e6;         // per range of parallel_for

/// The sizes of one call, whichever pass.
struct Sizes {
  int64_t B, C, H, W, O, P, Q, kh, kw, groups;
  ConvGeometry g;
  int64_t cg() const { return C / groups; }
  int64_t og() const { return O / groups; }
  int64_t taps() const { return kh * kw; }
  int64_t area() const { return H * W; }
  int64_t out_area() const { return P * Q; }
  bool is_1x1() const {
    return kh == 1 && kw == 1 && g.stride[0] == 1 && g.stride[1] == 1 && !g.pad_begin[0] &&
           !g.pad_begin[1] && !g.pad_end[0] && !g.pad_end[1];
  }
  double image_flops() const { return 2.0 * O * P * Q * cg() * kh * kw; }
};

Status check(const TensorIn& x, const TensorIn& w, const TensorIn& y, const ConvGeometry& g,
             Sizes& s) {
  if (x.ndim != 4 || w.ndim != 4 || y.ndim != 4)
    return abi::failed("conv2d: expected four dimensions");
  if (x.dtype != w.dtype || x.dtype != y.dtype ||
      (x.dtype != DType::Float32 && x.dtype != DType::Float64))
    return abi::unsupported("conv2d: no kernel for these types; there are float32 and float64");
  if (!x.contiguous() || !w.contiguous() || !y.contiguous())
    return abi::unsupported("conv2d: arrays must be contiguous");
  s = {x.sizes[0], x.sizes[1], x.sizes[2], x.sizes[3], w.sizes[0], y.sizes[2],
       y.sizes[3], w.sizes[2], w.sizes[3], g.groups,   g};
  if (g.groups < 1 || s.C % g.groups || s.O % g.groups || w.sizes[1] != s.C / g.groups ||
      y.sizes[0] != s.B || y.sizes[1] != s.O)
    return abi::failed("conv2d: channels do not fit");
  const int64_t in[2] = {s.H, s.W}, out[2] = {s.P, s.Q}, k[2] = {s.kh, s.kw};
  for (int i = 0; i < 2; ++i) {
    if (g.stride[i] < 1 || g.dilation[i] < 1 || g.pad_begin[i] < 0 || g.pad_end[i] < 0 || k[i] < 1)
      return abi::failed("conv2d: geometry out of range");
    const int64_t room = in[i] + g.pad_begin[i] + g.pad_end[i] - g.dilation[i] * (k[i] - 1) - 1;
    if (room < 0 || out[i] != room / g.stride[i] + 1)
      return abi::failed("conv2d: output size does not fit");
  }
  return abi::ok();
}

// ---- Patches
// -------------------------------------------------------------------------------------------------------------------------------------------

/// Output columns [first, last) whose tap j falls inside the image.
void inside(int64_t out, int64_t in, int64_t stride, int64_t offset, int64_t& first,
            int64_t& last) {
  first = offset < 0 ? std::min(out, ceil_div(-offset, stride)) : 0;
  last = in > offset ? std::min(out, (in - 1 - offset) / stride + 1) : 0;
  last = std::max(first, last);
}

/// col [channels * taps, rows * Q] from the image's channels, for output rows p0 .. p0 + rows.
template <class T>
void unroll(const Sizes& s, const T* x, int64_t channels, int64_t p0, int64_t rows, T* col) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < s.kh; ++i)
      for (int64_t j = 0; j < s.kw; ++j) {
        const int64_t dx = j * s.g.dilation[1] - s.g.pad_begin[1], st = s.g.stride[1];
        int64_t first, last;
        inside(s.Q, s.W, st, dx, first, last);
        for (int64_t p = p0; p < p0 + rows; ++p, col += s.Q) {
          const int64_t h = p * s.g.stride[0] + i * s.g.dilation[0] - s.g.pad_begin[0];
          if (h < 0 || h >= s.H) {
            std::fill_n(col, s.Q, T(0));
            continue;
          }
          const T* row = x + (c * s.H + h) * s.W + dx;
          std::fill_n(col, first, T(0));
          if (st == 1)
            std::copy(row + first, row + last, col + first);
          else
            for (int64_t q = first; q < last; ++q) col[q] = row[q * st];
          std::fill(col + last, col + s.Q, T(0));
        }
      }
}

/// The transpose of unroll: adds col into the image.
template <class T>
void roll_up(const Sizes& s, const T* col, int64_t channels, int64_t p0, int64_t rows, T* x) {
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < s.kh; ++i)
      for (int64_t j = 0; j < s.kw; ++j) {
        const int64_t dx = j * s.g.dilation[1] - s.g.pad_begin[1], st = s.g.stride[1];
        int64_t first, last;
        inside(s.Q, s.W, st, dx, first, last);
        for (int64_t p = p0; p < p0 + rows; ++p, col += s.Q) {
          const int64_t h = p * s.g.stride[0] + i * s.g.dilation[0] - s.g.pad_begin[0];
          if (h < 0 || h >= s.H) continue;
          T* row = x + (c * s.H + h) * s.W + dx;
          if (st == 1)
            for (int64_t q = first; q < last; ++q) row[q] += col[q];
          else
            for (int64_t q = first; q < last; ++q) row[q * st] += col[q];
        }
      }
}

/// Output rows whose patches of `channels` channels stay in L2.
template <class T>
int64_t rows_at_once(const Sizes& s, int64_t channels) {
  return std::clamp<int64_t>(kImageBytes / 2 / static_cast<int64_t>(sizeof(T)) /
                                 std::max<int64_t>(1, channels * s.taps() * s.Q),
                             1, s.P);
}

/// How many parts to cut `n` channels into when `tasks` tasks alone do not keep the threads busy;
/// parts of at least `least`.
int64_t channel_parts(int64_t tasks, int64_t n, int64_t least, double flops) {
  const int64_t threads = in_parallel_region() ? 1 : get_num_threads();
  if (tasks >= 2 * threads) return 1;
  const int64_t want = std::min<int64_t>(ceil_div(threads, tasks),
                                         static_cast<int64_t>(std::min(flops / kMinFlops, 1e6)));
  return std::clamp<int64_t>(want, 1, std::max<int64_t>(1, n / least));
}

int64_t grain(double flops) {
  return flops >= kMinFlops ? 1
                            : static_cast<int64_t>(std::min(kMinFlops / std::max(flops, 1.0), 1e9));
}

template <class T>
void plain_forward(const Sizes& s, const T* x, const T* w, const T* bias, T* y) {
  const int64_t K = s.cg() * s.taps();
  const bool direct = s.is_1x1();
  int64_t rows = direct ? s.P : rows_at_once<T>(s, s.cg());
  const int64_t threads = in_parallel_region() ? 1 : get_num_threads();
  if (s.B * s.groups < 2 * threads && s.image_flops() * s.B > 2 * kMinFlops)
    rows = std::min(rows, ceil_div(s.P, ceil_div(2 * threads, s.B * s.groups)));
  const int64_t parts = ceil_div(s.P, rows);
  parallel_for(s.B * s.groups * parts,
               grain(s.image_flops() / static_cast<double>(s.groups * parts)),
               [&](int64_t from, int64_t to) {
                 cpu::Scratch<T> col(direct ? 0 : K * rows * s.Q);
                 for (int64_t u = from; u < to; ++u) {
                   const int64_t b = u / (s.groups * parts), g = u / parts % s.groups,
                                 p0 = u % parts * rows, n = std::min(rows, s.P - p0);
                   const T* image = x + (b * s.C + g * s.cg()) * s.area();
                   T* out = y + (b * s.O + g * s.og()) * s.out_area() + p0 * s.Q;
                   cpu::Matrix<const T> patches{image + p0 * s.Q, s.area(), 1};
                   if (!direct) {
                     unroll(s, image, s.cg(), p0, n, col.data());
                     patches = {col.data(), n * s.Q, 1};
                   }
                   if (bias)
                     for (int64_t o = 0; o < s.og(); ++o)
                       std::fill_n(out + o * s.out_area(), n * s.Q, bias[g * s.og() + o]);
                   cpu::gemm(s.og(), n * s.Q, K, cpu::Matrix<const T>{w + g * s.og() * K, K, 1},
                             patches, bias ? T(1) : T(0), cpu::Matrix<T>{out, s.out_area(), 1});
                 }
               });
}

template <class T>
void plain_backward_input(const Sizes& s, const T* gy, const T* w, T* gx) {
  const int64_t K = s.cg() * s.taps();
  const bool direct = s.is_1x1();
  const int64_t parts = channel_parts(s.B * s.groups, s.cg(), 1, s.image_flops() * s.B),
                part = ceil_div(s.cg(), parts);
  const int64_t rows = direct ? s.P : rows_at_once<T>(s, part);
  parallel_for(s.B * s.groups * parts,
               grain(s.image_flops() / static_cast<double>(s.groups * parts)),
               [&](int64_t from, int64_t to) {
                 cpu::Scratch<T> col(direct ? 0 : part * s.taps() * rows * s.Q);
                 for (int64_t u = from; u < to; ++u) {
                   const int64_t b = u / (s.groups * parts), g = u / parts % s.groups,
                                 c0 = u % parts * part, c = std::min(part, s.cg() - c0);
                   if (c <= 0) continue;
                   T* image = gx + (b * s.C + g * s.cg() + c0) * s.area();
                   const T* out = gy + (b * s.O + g * s.og()) * s.out_area();
                   const cpu::Matrix<const T> wt{w + g * s.og() * K + c0 * s.taps(), 1, K};
                   if (direct) {
                     cpu::gemm(c, s.area(), s.og(), wt, cpu::Matrix<const T>{out, s.out_area(), 1},
                               T(0), cpu::Matrix<T>{image, s.area(), 1});
                     continue;
                   }
                   std::fill_n(image, c * s.area(), T(0));
                   for (int64_t p0 = 0; p0 < s.P; p0 += rows) {
                     const int64_t n = std::min(rows, s.P - p0);
                     cpu::gemm(c * s.taps(), n * s.Q, s.og(), wt,
                               cpu::Matrix<const T>{out + p0 * s.Q, s.out_area(), 1}, T(0),
                               cpu::Matrix<T>{col.data(), n * s.Q, 1});
                     roll_up(s, col.data(), c, p0, n, image);
                   }
                 }
               });
}

/// Every task owns some input channels of a group and goes through the whole batch, so sums have
/// one order whatever the thread count.
template <class T>
void plain_backward_weight(const Sizes& s, const T* gy, const T* x, T* gw) {
  const int64_t K = s.cg() * s.taps();
  const bool direct = s.is_1x1();
  const int64_t parts = channel_parts(s.groups, s.cg(), 1, s.image_flops() * s.B),
                part = ceil_div(s.cg(), parts);
  const int64_t rows = direct ? s.P : rows_at_once<T>(s, part);
  parallel_for(
      s.groups * parts, grain(s.image_flops() * s.B / static_cast<double>(s.groups * parts)),
      [&](int64_t from, int64_t to) {
        cpu::Scratch<T> col(direct ? 0 : part * s.taps() * rows * s.Q);
        for (int64_t u = from; u < to; ++u) {
          const int64_t g = u / parts, c0 = u % parts * part, c = std::min(part, s.cg() - c0);
          if (c <= 0) continue;
          T beta = 0;
          for (int64_t b = 0; b < s.B; ++b)
            for (int64_t p0 = 0; p0 < s.P; p0 += rows) {
              const int64_t n = std::min(rows, s.P - p0);
              const T* image = x + (b * s.C + g * s.cg() + c0) * s.area();
              cpu::Matrix<const T> patches{image, 1, s.area()};
              if (!direct) {
                unroll(s, image, c, p0, n, col.data());
                patches = {col.data(), 1, n * s.Q};
              }
              cpu::gemm(s.og(), c * s.taps(), n * s.Q,
                        cpu::Matrix<const T>{gy + (b * s.O + g * s.og()) * s.out_area() + p0 * s.Q,
                                             s.out_area(), 1},
                        patches, beta, cpu::Matrix<T>{gw + g * s.og() * K + c0 * s.taps(), K, 1});
              beta = 1;
            }
        }
      });
}

/// Sums in several lanes, so that the loop becomes vector code.
template <class T>
struct Lanes {
  static constexpr int kN = 64 / sizeof(T);
  T v[kN] = {};
  void add(const T* a, int64_t n) {
    int64_t i = 0;
    for (; i + kN <= n; i += kN)
      for (int k = 0; k < kN; ++k) v[k] += a[i + k];
    for (; i < n; ++i) v[i % kN] += a[i];
  }
  T sum() const {
    T s[kN];
    std::copy(v, v + kN, s);
    for (int n = kN / 2; n > 0; n /= 2)
      for (int k = 0; k < n; ++k) s[k] += s[k + n];
    return s[0];
  }
};

/// gb[o] = sum of gy over images and positions.
template <class T>
void bias_gradient(const Sizes& s, const T* gy, T* gb) {
  parallel_for(s.O, std::max<int64_t>(1, (1 << 17) / std::max<int64_t>(1, s.B * s.out_area())),
               [&](int64_t from, int64_t to) {
                 for (int64_t o = from; o < to; ++o) {
                   Lanes<T> sum;
                   for (int64_t b = 0; b < s.B; ++b)
                     sum.add(gy + (b * s.O + o) * s.out_area(), s.out_area());
                   gb[o] = sum.sum();
                 }
               });
}

/// One input channel per group.
template <class T>
void depthwise_backward_weight(const Sizes& s, const T* gy, const T* x, T* gw) {
  const cpu::PlaneConv plane{{s.H, s.W},
                             {s.P, s.Q},
                             {s.kh, s.kw},
                             {s.g.stride[0], s.g.stride[1]},
                             {s.g.dilation[0], s.g.dilation[1]},
                             {s.g.pad_begin[0], s.g.pad_begin[1]}};
  parallel_for(s.O, grain(s.image_flops() * s.B / static_cast<double>(s.O) * 4),
               [&](int64_t o, int64_t end) {
                 for (; o < end; ++o)
                   cpu::plane_weight_gradient(plane, s.B, gy + o * s.out_area(), s.O * s.out_area(),
                                              x + o / s.og() * s.area(), s.C * s.area(),
                                              gw + o * s.taps());
               });
}

// ---- oneDNN
// --------------------------------------------------------------------------------------------------------------------------------------------

using cpu::onednn::Conv;
using cpu::onednn::ConvPass;
using WeightsPtr = std::unique_ptr<cpu::onednn::ConvWeights, cpu::onednn::DestroyWeights>;

/// Some groups, or some of the output (BackwardInput: input) channels, of the convolution.
struct Part {
  Conv conv;
  int64_t in0 = 0, out0 = 0;  ///< its first channels
  WeightsPtr weights;
};

struct Parts {
  int64_t count, width;
  bool by_group;
};

/// Few images are cut by channels: whole groups, or slices of at least 32 that are multiples of
/// oneDNN's blocks of 16.
Parts cut(const Sizes& s, ConvPass pass, int64_t tasks) {
  const int64_t n = s.groups > 1 ? s.groups : pass == ConvPass::BackwardInput ? s.C : s.O;
  const int64_t want = channel_parts(tasks, n, s.groups > 1 ? 1 : 32, s.image_flops() * s.B);
  Parts p{1, ceil_div(n, want), s.groups > 1};
  if (!p.by_group) p.width = ceil_div(p.width, 16) * 16;
  p.count = ceil_div(n, p.width);
  return p;
}

Part part(const Sizes& s, ConvPass pass, const Parts& parts, int64_t i, int64_t batch) {
  Part p;
  Conv& c = p.conv;
  c.batch = batch, c.groups = s.groups, c.in = s.C, c.out = s.O;
  c.size[0] = s.H, c.size[1] = s.W, c.out_size[0] = s.P, c.out_size[1] = s.Q, c.kernel[0] = s.kh,
  c.kernel[1] = s.kw;
  for (int d = 0; d < 2; ++d)
    c.stride[d] = s.g.stride[d], c.dilation[d] = s.g.dilation[d], c.pad_begin[d] = s.g.pad_begin[d],
    c.pad_end[d] = s.g.pad_end[d];
  if (parts.count == 1) return p;
  const int64_t first = i * parts.width;
  if (parts.by_group) {
    c.groups = std::min(parts.width, s.groups - first);
    c.in = c.groups * s.cg(), c.out = c.groups * s.og(), p.in0 = first * s.cg(),
    p.out0 = first * s.og();
  } else if (pass == ConvPass::BackwardInput) {
    c.in = std::min(parts.width, s.C - first), c.weight_stride = s.cg() * s.taps(), p.in0 = first;
  } else {
    c.out = std::min(parts.width, s.O - first), p.out0 = first;
  }
  if (c.in != s.C) c.in_stride = s.C * s.area();
  if (c.out != s.O) c.out_stride = s.O * s.out_area();
  return p;
}

/// Forward (x, w, bias to y) or BackwardInput (gy, w to gx); false when oneDNN has no good
/// implementation.
bool onednn_images(const Sizes& s, ConvPass pass, const float* from, const float* w,
                   const float* bias, float* to) {
  const bool forward = pass == ConvPass::Forward;
  const int64_t threads = in_parallel_region() ? 1 : get_num_threads();
  const int64_t images = std::clamp<int64_t>(
      kImageBytes / (4 * (s.C * s.area() + s.O * s.out_area())), 1, ceil_div(s.B, threads));
  const int64_t chunks = ceil_div(s.B, images);
  const Parts parts = cut(s, pass, chunks);
  const std::unique_ptr<Part[]> all(new Part[parts.count]);
  for (int64_t i = 0; i < parts.count; ++i) {
    Part& p = all[i] = part(s, pass, parts, i, images);
    p.conv.bias = bias != nullptr;
    p.weights.reset(cpu::onednn::prepare_weights(
        pass, p.conv, w + p.out0 * s.cg() * s.taps() + (parts.by_group ? 0 : p.in0 * s.taps())));
    if (!p.weights) return false;
    if (s.B % images) {
      Conv last = p.conv;
      last.batch = s.B % images;
      if (!cpu::onednn::conv_supported(pass, last)) return false;
    }
  }
  parallel_for(
      chunks * parts.count,
      grain(s.image_flops() * static_cast<double>(images) / static_cast<double>(parts.count)),
      [&](int64_t u, int64_t end) {
        for (; u < end; ++u) {
          const Part& p = all[u % parts.count];
          const int64_t b = u / parts.count * images;
          Conv c = p.conv;
          c.batch = std::min(images, s.B - b);
          const int64_t in = (b * s.C + p.in0) * s.area(), out = (b * s.O + p.out0) * s.out_area();
          if (forward)
            cpu::onednn::conv_forward(c, *p.weights, from + in, bias ? bias + p.out0 : nullptr,
                                      to + out);
          else
            cpu::onednn::conv_backward_input(c, *p.weights, from + out, to + in);
        }
      });
  return true;
}

/// Cut by channels first; what that leaves idle goes to parts of the batch, whose sums are added in
/// order.
bool onednn_backward_weight(const Sizes& s, const float* gy, const float* x, float* gw, float* gb) {
  const int64_t threads = in_parallel_region() ? 1 : get_num_threads(), K = s.cg() * s.taps();
  const Parts parts = cut(s, ConvPass::BackwardWeight, 1);
  const int64_t want = s.image_flops() * s.B > 2 * kMinFlops
                           ? std::clamp<int64_t>(threads / parts.count, 1, s.B)
                           : 1;
  const int64_t share = ceil_div(s.B, want), shares = ceil_div(s.B, share);
  const int64_t images =
      std::clamp<int64_t>(8 * kImageBytes / (4 * (s.C * s.area() + s.O * s.out_area())), 1, share);
  const std::unique_ptr<Part[]> all(new Part[parts.count]);
  for (int64_t i = 0; i < parts.count; ++i) {
    all[i] = part(s, ConvPass::BackwardWeight, parts, i, images);
    all[i].conv.bias = gb != nullptr;
    Conv c = all[i].conv;
    for (const int64_t batch : {images, share % images, (s.B - (shares - 1) * share) % images}) {
      c.batch = batch;
      if (batch && !cpu::onednn::conv_supported(ConvPass::BackwardWeight, c)) return false;
    }
  }
  const int64_t size = s.O * K + s.O;  // of one set of gradients
  cpu::Scratch<float> sums((shares - 1) * size);
  auto place = [&](int64_t k, int64_t out0, float*& w, float*& b) {
    w = (k == 0 ? gw : sums.data() + (k - 1) * size) + out0 * K;
    b = (k == 0 ? gb : sums.data() + (k - 1) * size + s.O * K) + out0;
  };
  parallel_for(parts.count * shares, 1, [&](int64_t u, int64_t end) {
    for (; u < end; ++u) {
      const Part& p = all[u % parts.count];
      const int64_t k = u / parts.count, last = std::min(s.B, (k + 1) * share),
                    weights = p.conv.out * K;
      float *w, *b;
      place(k, p.out0, w, b);
      cpu::Scratch<float> more;
      for (int64_t at = k * share; at < last; at += images) {
        Conv c = p.conv;
        c.batch = std::min(images, last - at);
        const float *image = x + (at * s.C + p.in0) * s.area(),
                    *out = gy + (at * s.O + p.out0) * s.out_area();
        if (at == k * share) {
          cpu::onednn::conv_backward_weight(c, image, out, w, b);
          continue;
        }
        if (!more.data()) more = cpu::Scratch<float>(weights + c.out);
        cpu::onednn::conv_backward_weight(c, image, out, more.data(), more.data() + weights);
        for (int64_t i = 0; i < weights; ++i) w[i] += more[i];
        for (int64_t i = 0; gb && i < c.out; ++i) b[i] += more[weights + i];
      }
    }
  });
  if (shares > 1)
    parallel_for(s.O * K, 1 << 16, [&](int64_t from, int64_t to) {
      for (int64_t k = 1; k < shares; ++k)
        for (int64_t i = from; i < to; ++i) gw[i] += sums[(k - 1) * size + i];
    });
  for (int64_t k = 1; gb && k < shares; ++k)
    for (int64_t i = 0; i < s.O; ++i) gb[i] += sums[(k - 1) * size + s.O * K + i];
  return true;
}

// --- the kernels

bool depthwise(const Sizes& s) { return s.cg() == 1 && s.og() == 1; }

bool use_onednn(const Sizes& s) { return cpu::onednn_enabled() && !(s.is_1x1() && s.groups == 1); }

Status forward_cpu(const abi::KernelContext&, const TensorIn& x, const TensorIn& w,
                   const TensorIn& bias, const ConvGeometry& g, const TensorOut& y) {
  Sizes s;
  if (Status st = check(x, w, y, g, s); st.code) return st;
  if (bias.data && (bias.dtype != x.dtype || bias.numel() != s.O || !bias.contiguous()))
    return abi::failed("conv2d: bias does not fit");
  if (s.B == 0 || s.O == 0) return abi::ok();
  if (x.dtype == DType::Float64)
    plain_forward(s, x.as<double>(), w.as<double>(), bias.as<double>(), y.as<double>());
  else if (depthwise(s)) {
    const DepthwiseRun run{w, bias, {}, {}, g};
    return depthwise_forward(x, {&run, 1}, y);
  } else if (s.C == 0 || !use_onednn(s) ||
             !onednn_images(s, ConvPass::Forward, x.as<float>(), w.as<float>(), bias.as<float>(),
                            y.as<float>()))
    plain_forward(s, x.as<float>(), w.as<float>(), bias.as<float>(), y.as<float>());
  return abi::ok();
}

Status backward_input_cpu(const abi::KernelContext&, const TensorIn& gy, const TensorIn& w,
                          const ConvGeometry& g, const TensorOut& gx) {
  Sizes s;
  if (Status st = check(gx, w, gy, g, s); st.code) return st;
  if (s.B == 0 || s.C == 0) return abi::ok();
  if (gy.dtype == DType::Float64)
    plain_backward_input(s, gy.as<double>(), w.as<double>(), gx.as<double>());
  else if (depthwise(s)) {
    const DepthwiseRun run{w, {}, {}, {}, g};
    return depthwise_backward(gy, {}, {&run, 1}, gx);
  } else if (s.O == 0 || !use_onednn(s) ||
             !onednn_images(s, ConvPass::BackwardInput, gy.as<float>(), w.as<float>(), nullptr,
                            gx.as<float>()))
    plain_backward_input(s, gy.as<float>(), w.as<float>(), gx.as<float>());
  return abi::ok();
}

template <class T>
void own_backward_weight(const Sizes& s, const TensorIn& gy, const TensorIn& x, const TensorOut& gw,
                         const TensorOut& gb) {
  if (s.B == 0)
    std::fill_n(gw.as<T>(), s.O * s.cg() * s.taps(), T(0));
  else if (s.cg() == 1)
    depthwise_backward_weight(s, gy.as<T>(), x.as<T>(), gw.as<T>());
  else if (s.C > 0 && s.O > 0)
    plain_backward_weight(s, gy.as<T>(), x.as<T>(), gw.as<T>());
  if (gb.data) bias_gradient(s, gy.as<T>(), gb.as<T>());
}

Status backward_weight_cpu(const abi::KernelContext&, const TensorIn& gy, const TensorIn& x,
                           const ConvGeometry& g, const TensorOut& gw, const TensorOut& gb) {
  Sizes s;
  if (Status st = check(x, gw, gy, g, s); st.code) return st;
  if (gb.data && (gb.dtype != x.dtype || gb.numel() != s.O || !gb.contiguous()))
    return abi::failed("conv2d: bias does not fit");
  if (x.dtype == DType::Float64)
    own_backward_weight<double>(s, gy, x, gw, gb);
  else if (depthwise(s)) {
    const DepthwiseRun run{{}, {}, gw, gb, g};
    return depthwise_backward(gy, x, {&run, 1}, {});
  } else if (s.B == 0 || s.C == 0 || s.O == 0 || s.cg() == 1 || !use_onednn(s) ||
             !onednn_backward_weight(s, gy.as<float>(), x.as<float>(), gw.as<float>(),
                                     gb.as<float>()))
    own_backward_weight<float>(s, gy, x, gw, gb);
  return abi::ok();
}

Status mixed_forward_cpu(const abi::KernelContext&, const TensorIn& x, const DepthwiseRuns& runs,
                         const TensorOut& y) {
  return depthwise_forward(x, runs, y);
}
Status mixed_backward_cpu(const abi::KernelContext&, const TensorIn& gy, const TensorIn& x,
                          const DepthwiseRuns& runs, const TensorOut& gx) {
  return depthwise_backward(gy, x, runs, gx);
}

}  // namespace

void provide_conv_cpu(abi::KernelTable& t) {
  t.provide<conv2d_forward>(&forward_cpu);
  t.provide<conv2d_backward_input>(&backward_input_cpu);
  t.provide<conv2d_backward_weight>(&backward_weight_cpu);
  t.provide<mixed_depthwise_forward>(&mixed_forward_cpu);
  t.provide<mixed_depthwise_backward>(&mixed_backward_cpu);
}

}  // namespace dropin::kernels
