// Deformable convolution: samples of a tile of outputs go into columns, then a matrix product.
// Images are turned to channels-last first, so that a sample of all channels of an offset group is
// four contiguous reads, with indices and weights found once per tap. Backward works on blocks of
// channels: the product gives the columns' gradient, which is scattered into the block's own image,
// and whose dot products with the four corners give the gradients of offset and mask. Blocks, and
// images within a share of the batch, go in a fixed order; what several of them add to is kept
// apart and added at the end in order, so results do not depend on the threads.
#include "kernels/deform/kernel.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/simd.h"
#include "src/cpu/gemm.h"
#include "src/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/deform/cpu.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#ifndef DROPIN_DEFORM_COMMON
#define DROPIN_DEFORM_COMMON
namespace dropin::kernels {
namespace deform {

struct Sizes {
  int64_t B, C, H, W, O, P, Q, kh, kw, G, groups;
  ConvGeometry g;
  int64_t taps() const { return kh * kw; }
  int64_t cg() const { return C / groups; }
  int64_t og() const { return O / groups; }
  int64_t area() const { return H * W; }
  int64_t out_area() const { return P * Q; }
};

/// Consecutive channels of one offset group and one weight group.
struct Block {
  int64_t first, channels, offset_group, group;
};

/// A tile of outputs of one image, and the image's channels-last pixels [H W, stride].
struct Tile {
  const float *offset, *mask;  ///< of the image; mask may be null
  int64_t pos, count;          ///< outputs pos, pos + 1, ...
  const float* pixels;
  int64_t stride;
  const float* zeros;  ///< as many as the widest block has channels
};

}  // namespace deform
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;
using deform::Block;
using deform::Sizes;
using deform::Tile;

/// Where a tap of an output looks: corners' pixels (-1: outside) and weights, rows' and columns'
/// shares. `inside` false: nothing is sampled.
struct Sample {
  bool inside;
  int64_t pixel[4];
  float weight[4], row_share, column_share;
};

HWY_INLINE Sample sample_at(const Sizes& s, double y, double x) {
  Sample r;
  r.inside = y > -1 && x > -1 && y < static_cast<double>(s.H) &&
             x < static_cast<double>(s.W);  // false for NaN
  if (!r.inside) return r;
  const double fy = std::floor(y), fx = std::floor(x);
  const int64_t y0 = static_cast<int64_t>(fy), x0 = static_cast<int64_t>(fx), at = y0 * s.W + x0;
  const bool top = y0 >= 0, bottom = y0 + 1 < s.H, left = x0 >= 0, right = x0 + 1 < s.W;
  const float ly = static_cast<float>(y - fy), lx = static_cast<float>(x - fx);
  r.row_share = ly, r.column_share = lx;
  r.pixel[0] = top && left ? at : -1, r.pixel[1] = top && right ? at + 1 : -1;
  r.pixel[2] = bottom && left ? at + s.W : -1, r.pixel[3] = bottom && right ? at + s.W + 1 : -1;
  r.weight[0] = (1 - ly) * (1 - lx), r.weight[1] = (1 - ly) * lx, r.weight[2] = ly * (1 - lx),
  r.weight[3] = ly * lx;
  return r;
}

/// Calls f(n, t, sample, mask) for each output n of the tile and tap t.
template <class F>
HWY_INLINE void each_sample(const Sizes& s, const Tile& tile, int64_t offset_group, F&& f) {
  const int64_t K = s.taps(), area = s.out_area();
  const float* off = tile.offset + offset_group * 2 * K * area + tile.pos;
  const float* mask = tile.mask ? tile.mask + offset_group * K * area + tile.pos : nullptr;
  for (int64_t n = 0; n < tile.count; ++n) {
    const int64_t p = (tile.pos + n) / s.Q, q = (tile.pos + n) % s.Q;
    const int64_t top = p * s.g.stride[0] - s.g.pad_begin[0],
                  left = q * s.g.stride[1] - s.g.pad_begin[1];
    int64_t t = 0;
    for (int64_t i = 0; i < s.kh; ++i)
      for (int64_t j = 0; j < s.kw; ++j, ++t)
        f(n, t,
          sample_at(s,
                    static_cast<double>(top + i * s.g.dilation[0]) +
                        static_cast<double>(off[2 * t * area + n]),
                    static_cast<double>(left + j * s.g.dilation[1]) +
                        static_cast<double>(off[(2 * t + 1) * area + n])),
          mask ? mask[t * area + n] : 1.0f);
  }
}

/// Channels [0, n) at a sample, times the mask.
HWY_INLINE void blend(const float* const (&p)[4], const float (&w)[4], int64_t n, float* out) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  const auto a = hn::Set(d, w[0]), b = hn::Set(d, w[1]), c = hn::Set(d, w[2]), e = hn::Set(d, w[3]);
  int64_t k = 0;
  for (; k + L <= n; k += L) {
    auto v = hn::Mul(a, hn::LoadU(d, p[0] + k));
    v = hn::MulAdd(b, hn::LoadU(d, p[1] + k), v);
    v = hn::MulAdd(c, hn::LoadU(d, p[2] + k), v);
    hn::StoreU(hn::MulAdd(e, hn::LoadU(d, p[3] + k), v), d, out + k);
  }
  for (; k < n; ++k) out[k] = w[0] * p[0][k] + w[1] * p[1][k] + w[2] * p[2][k] + w[3] * p[3][k];
}

/// columns [count, row]: the samples of the block's channels for tap t at n row + t step.
void Columns(const Sizes& s, const Tile& tile, const Block& block, float* columns, int64_t row,
             int64_t step) {
  each_sample(
      s, tile, block.offset_group, [&](int64_t n, int64_t t, const Sample& a, float m) HWY_ATTR {
        float* to = columns + n * row + t * step;
        if (!a.inside) {
          std::fill_n(to, block.channels, 0.0f);
          return;
        }
        const float* p[4];
        float w[4];
        for (int k = 0; k < 4; ++k)
          p[k] = a.pixel[k] < 0 ? tile.zeros : tile.pixels + a.pixel[k] * tile.stride + block.first,
          w[k] = a.weight[k] * m;
        blend(p, w, block.channels, to);
      });
}

/// From the columns' gradient [count, K channels]: adds to gpixels [H W, channels] (may be null),
/// and writes the block's part of the offsets' and masks' gradients.
void Scatter(const Sizes& s, const Tile& tile, const Block& block, const float* columns,
             float* gpixels, float* goffset, float* gmask) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d)), N = block.channels, K = s.taps(),
                area = s.out_area();
  each_sample(s, tile, block.offset_group,
              [&](int64_t n, int64_t t, const Sample& a, float m) HWY_ATTR {
                float gy = 0, gx = 0, gm = 0;
                if (a.inside) {
                  const float* c = columns + (n * K + t) * N;
                  float dot[4] = {0, 0, 0, 0};
                  for (int k = 0; k < 4; ++k) {
                    if (a.pixel[k] < 0) continue;
                    const float* p = tile.pixels + a.pixel[k] * tile.stride + block.first;
                    float* to = gpixels ? gpixels + a.pixel[k] * N : nullptr;
                    const float w = a.weight[k] * m;
                    const auto wv = hn::Set(d, w);
                    auto sum = hn::Zero(d);
                    int64_t i = 0;
                    for (; i + L <= N; i += L) {
                      const auto v = hn::LoadU(d, c + i);
                      sum = hn::MulAdd(v, hn::LoadU(d, p + i), sum);
                      if (to) hn::StoreU(hn::MulAdd(wv, v, hn::LoadU(d, to + i)), d, to + i);
                    }
                    float rest = 0;
                    for (; i < N; ++i) {
                      rest += c[i] * p[i];
                      if (to) to[i] += w * c[i];
                    }
                    dot[k] = rest + (N >= L ? hn::GetLane(hn::SumOfLanes(d, sum)) : 0.0f);
                  }
                  const float ly = a.row_share, lx = a.column_share;
                  gm = a.weight[0] * dot[0] + a.weight[1] * dot[1] + a.weight[2] * dot[2] +
                       a.weight[3] * dot[3];
                  gy = m * ((1 - lx) * (dot[2] - dot[0]) + lx * (dot[3] - dot[1]));
                  gx = m * ((1 - ly) * (dot[1] - dot[0]) + ly * (dot[3] - dot[2]));
                }
                if (goffset)
                  goffset[2 * t * area + tile.pos + n] = gy,
                                                    goffset[(2 * t + 1) * area + tile.pos + n] = gx;
                if (gmask) gmask[t * area + tile.pos + n] = gm;
              });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace dropin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(Columns);
HWY_EXPORT(Scatter);

namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;
using deform::Block;
using deform::Sizes;
using deform::Tile;

constexpr int64_t kColumnBytes = 192 << 10;  // of a tile's columns: half of what L2 holds
constexpr int64_t kBlockChannels = 32;       // of a task of the backward pass
constexpr int64_t kMostParts = 16;           // copies of gradients that are added at the end
constexpr double kMinFlops = 4e6;

Status check(const DeformConvInputs& in, const TensorIn& y, Sizes& s) {
  const TensorIn &x = in.x, &offset = in.offset, &mask = in.mask, &w = in.weight;
  const ConvGeometry& g = in.geometry;
  for (const TensorIn* t : {&x, &offset, &mask, &w, &y}) {
    if (t == &mask && !t->data) continue;
    if (t->ndim != 4 || !t->contiguous())
      return abi::failed("deform_conv2d: expected four dimensions, contiguous");
    if (t->dtype != DType::Float32)
      return abi::unsupported("deform_conv2d: no kernel for these types; there is float32");
  }
  s = {x.sizes[0], x.sizes[1], x.sizes[2], x.sizes[3], w.sizes[0], y.sizes[2],
       y.sizes[3], w.sizes[2], w.sizes[3], 0,          g.groups,   g};
  const int64_t K = s.taps();
  if (K < 1 || g.groups < 1 || s.C % g.groups || s.O % g.groups || w.sizes[1] != s.C / g.groups ||
      offset.sizes[1] % (2 * K) || offset.sizes[1] == 0)
    return abi::failed("deform_conv2d: channels do not fit");
  s.G = offset.sizes[1] / (2 * K);
  if (s.C % s.G || y.sizes[0] != s.B || y.sizes[1] != s.O || offset.sizes[0] != s.B ||
      offset.sizes[2] != s.P || offset.sizes[3] != s.Q)
    return abi::failed("deform_conv2d: sizes do not fit");
  if (mask.data && (mask.sizes[0] != s.B || mask.sizes[1] != s.G * K || mask.sizes[2] != s.P ||
                    mask.sizes[3] != s.Q))
    return abi::failed("deform_conv2d: the mask does not fit");
  return abi::ok();
}

std::vector<Block> blocks(const Sizes& s, int64_t most) {
  std::vector<Block> r;
  const int64_t per_offset = s.C / s.G, per_group = s.cg();
  for (int64_t c = 0; c < s.C;) {
    const int64_t end =
        std::min({c + most, (c / per_offset + 1) * per_offset, (c / per_group + 1) * per_group});
    r.push_back({c, end - c, c / per_offset, c / per_group});
    c = end;
  }
  return r;
}

/// from [rows, columns] with rows from_row apart -> to [columns, rows] with rows to_row apart.
void transpose(const float* from, int64_t rows, int64_t columns, int64_t from_row, float* to,
               int64_t to_row) {
  constexpr int64_t T = 16;
  for (int64_t i = 0; i < rows; i += T)
    for (int64_t j = 0; j < columns; j += T) {
      const int64_t m = std::min(T, rows - i), n = std::min(T, columns - j);
      if (m == T)
        for (int64_t b = 0; b < n; ++b)
          for (int64_t a = 0; a < T; ++a)
            to[(j + b) * to_row + i + a] = from[(i + a) * from_row + j + b];
      else
        for (int64_t b = 0; b < n; ++b)
          for (int64_t a = 0; a < m; ++a)
            to[(j + b) * to_row + i + a] = from[(i + a) * from_row + j + b];
    }
}

int64_t tile_size(const Sizes& s, int64_t depth) {
  return std::clamp<int64_t>(kColumnBytes / 4 / std::max<int64_t>(1, depth) / 16 * 16, 16,
                             std::max<int64_t>(16, s.out_area()));
}

/// At most `most` outputs of image b from `pos` on.
Tile tile_at(const DeformConvInputs& in, const Sizes& s, int64_t b, int64_t pos, int64_t most,
             const float* pixels, int64_t stride, const float* zeros) {
  const int64_t out = s.out_area();
  return {in.offset.as<float>() + b * in.offset.sizes[1] * out,
          in.mask.data ? in.mask.as<float>() + b * in.mask.sizes[1] * out : nullptr,
          pos,
          std::min(most, out - pos),
          pixels,
          stride,
          zeros};
}

Status forward(const abi::KernelContext&, const DeformConvInputs& in, const TensorOut& y) {
  Sizes s;
  if (Status st = check(in, y, s); st.code) return st;
  const TensorIn& bias = in.bias;
  if (bias.data && (bias.dtype != DType::Float32 || bias.numel() != s.O || !bias.contiguous()))
    return abi::failed("deform_conv2d: the bias does not fit");
  if (y.numel() == 0) return abi::ok();
  const int64_t K = s.taps(), area = s.area(), out = s.out_area(), depth = s.cg() * K,
                all = s.C * K;
  // Weights as [O, K, C / groups], as the columns have them; images as [H W, C].
  const cpu::Scratch<float> weights(s.O * depth), pixels(s.B * area * s.C), zeros(s.C);
  for (int64_t o = 0; o < s.O; ++o)
    transpose(in.weight.as<float>() + o * depth, s.cg(), K, K, weights.data() + o * depth, s.cg());
  std::fill_n(zeros.data(), s.C, 0.0f);
  const int64_t strips = std::min<int64_t>(8, ceil_div(area, 256));
  parallel_for(s.B * strips, std::max<int64_t>(1, 262144 * strips / (s.C * area + 1)),
               [&](int64_t u, int64_t end) {
                 for (; u < end; ++u) {
                   const int64_t b = u / strips, from = u % strips * area / strips,
                                 to = (u % strips + 1) * area / strips;
                   transpose(in.x.as<float>() + b * s.C * area + from, s.C, to - from, area,
                             pixels.data() + (b * area + from) * s.C, s.C);
                 }
               });
  const std::vector<Block> parts = blocks(s, s.C);
  const int64_t tile = tile_size(s, all), tiles = ceil_div(out, tile);
  const double flops =
      2.0 * static_cast<double>(s.O) * static_cast<double>(depth) * static_cast<double>(tile);
  parallel_for(
      s.B * tiles, std::max<int64_t>(1, static_cast<int64_t>(kMinFlops / (flops + 1))),
      [&](int64_t u, int64_t end) {
        const cpu::Scratch<float> columns(tile * all);
        for (; u < end; ++u) {
          const int64_t b = u / tiles, pos = u % tiles * tile;
          const Tile t =
              tile_at(in, s, b, pos, tile, pixels.data() + b * area * s.C, s.C, zeros.data());
          for (const Block& p : parts) HWY_DYNAMIC_DISPATCH(Columns)
          (s, t, p, columns.data() + p.group * depth + p.first - p.group * s.cg(), all, s.cg());
          for (int64_t k = 0; k < s.groups; ++k) {
            float* to = y.as<float>() + (b * s.O + k * s.og()) * out + pos;
            if (bias.data)
              for (int64_t o = 0; o < s.og(); ++o)
                std::fill_n(to + o * out, t.count, bias.as<float>()[k * s.og() + o]);
            cpu::gemm(s.og(), t.count, depth,
                      cpu::Matrix<const float>{weights.data() + k * s.og() * depth, depth, 1},
                      cpu::Matrix<const float>{columns.data() + k * depth, 1, all},
                      bias.data ? 1.0f : 0.0f, cpu::Matrix<float>{to, out, 1});
          }
        }
      });
  return abi::ok();
}

/// The backward pass: what its tasks, a block of channels over a share of the batch each, have in
/// common. Every share has gradients of the weights of its own; every block has gradients of offset
/// and mask of its own, as several of them may read one offset group.
struct Backward {
  const Sizes& s;
  const TensorIn& gy;
  const DeformConvInputs& in;
  const DeformConvGradients& out;
  std::vector<Block> parts;
  int64_t shares, share;  ///< of the batch, and images in one
  int64_t images;         ///< two offsets and a mask per tap and output, or 0
  cpu::Scratch<float> weights, moves;

  Backward(const Sizes& sizes, const TensorIn& g, const DeformConvInputs& inputs,
           const DeformConvGradients& gradients)
      : s(sizes),
        gy(g),
        in(inputs),
        out(gradients),
        parts(blocks(s, kBlockChannels)),
        shares(std::clamp<int64_t>(kMostParts / count(), 1, s.B)),
        share(ceil_div(s.B, shares)),
        images(out.offset.data || out.mask.data ? 3 * s.taps() * s.out_area() : 0),
        weights(out.weight.data ? shares * weight_count() : 0),
        moves(count() * s.B * images) {}
  int64_t count() const { return static_cast<int64_t>(parts.size()); }
  int64_t depth() const { return s.cg() * s.taps(); }
  int64_t weight_count() const { return s.O * depth(); }

  void block_over_share(int64_t i, int64_t k);
  void add_weights() const;
  void add_moves() const;
};

/// Block i over the images of share k.
void Backward::block_over_share(int64_t i, int64_t k) {
  const Block block = parts[static_cast<std::size_t>(i)];
  const int64_t K = s.taps(), area = s.area(), all = s.out_area(), N = block.channels, row = K * N;
  const Block own{0, N, block.offset_group, block.group};  // within the block's own pixels
  const int64_t tile = tile_size(s, 2 * row), first_tap = (block.first - block.group * s.cg()) * K;
  const cpu::Scratch<float> pixels(area * N), gpixels(out.x.data ? area * N : 0),
      columns(tile * row), gcolumns(tile * row), part(s.og() * row), zeros(N),
      gpart(out.weight.data ? s.og() * row : 0);
  std::fill_n(zeros.data(), N, 0.0f);
  for (int64_t o = 0; o < s.og(); ++o)  // the weights' part as [O / groups, K, N]
    transpose(in.weight.as<float>() + (block.group * s.og() + o) * depth() + first_tap, N, K, K,
              part.data() + o * row, N);
  float beta = 0;
  for (int64_t b = k * share; b < std::min(s.B, (k + 1) * share); ++b) {
    transpose(in.x.as<float>() + (b * s.C + block.first) * area, N, area, area, pixels.data(), N);
    if (out.x.data) std::fill_n(gpixels.data(), area * N, 0.0f);
    const float* grad = gy.as<float>() + (b * s.O + block.group * s.og()) * all;
    float* moved = images ? moves.data() + (i * s.B + b) * images : nullptr;
    for (int64_t pos = 0; pos < all; pos += tile) {
      const Tile t = tile_at(in, s, b, pos, tile, pixels.data(), N, zeros.data());
      if (out.weight.data) {
        HWY_DYNAMIC_DISPATCH(Columns)(s, t, own, columns.data(), row, N);
        cpu::gemm(s.og(), row, t.count, cpu::Matrix<const float>{grad + pos, all, 1},
                  cpu::Matrix<const float>{columns.data(), row, 1}, beta,
                  cpu::Matrix<float>{gpart.data(), row, 1});
        beta = 1;
      }
      if (!out.x.data && !moved) continue;
      cpu::gemm(t.count, row, s.og(), cpu::Matrix<const float>{grad + pos, 1, all},
                cpu::Matrix<const float>{part.data(), row, 1}, 0.0f,
                cpu::Matrix<float>{gcolumns.data(), row, 1});
      HWY_DYNAMIC_DISPATCH(Scatter)
      (s, t, own, gcolumns.data(), out.x.data ? gpixels.data() : nullptr, moved,
       moved ? moved + 2 * K * all : nullptr);
    }
    if (out.x.data)
      transpose(gpixels.data(), area, N, N, out.x.as<float>() + (b * s.C + block.first) * area,
                area);
  }
  for (int64_t o = 0; out.weight.data && o < s.og(); ++o) {
    float* to =
        weights.data() + k * weight_count() + (block.group * s.og() + o) * depth() + first_tap;
    if (beta == 0)
      std::fill_n(to, row, 0.0f);  // a share without images
    else
      transpose(gpart.data() + o * row, K, N, N, to, K);
  }
}

/// The shares' gradients of the weights, in order.
void Backward::add_weights() const {
  const int64_t n = weight_count();
  float* sum = out.weight.as<float>();
  parallel_for(n, 1 << 15, [&](int64_t from, int64_t to) {
    std::copy(weights.data() + from, weights.data() + to, sum + from);
    for (int64_t k = 1; k < shares; ++k)
      for (int64_t i = from; i < to; ++i) sum[i] += weights[k * n + i];
  });
}

/// The blocks' gradients of offset and mask, in order.
void Backward::add_moves() const {
  const int64_t taps = s.taps() * s.out_area();
  parallel_for(s.B * s.G, 1, [&](int64_t u, int64_t end) {
    for (; u < end; ++u) {
      const int64_t b = u / s.G, group = u % s.G;
      float *offsets = out.offset.data ? out.offset.as<float>() + u * 2 * taps : nullptr,
            *masks = out.mask.data ? out.mask.as<float>() + u * taps : nullptr;
      bool first = true;
      for (int64_t i = 0; i < count(); ++i) {
        if (parts[static_cast<std::size_t>(i)].offset_group != group) continue;
        const float* from = moves.data() + (i * s.B + b) * images;
        for (int64_t n = 0; offsets && n < 2 * taps; ++n)
          offsets[n] = first ? from[n] : offsets[n] + from[n];
        for (int64_t n = 0; masks && n < taps; ++n)
          masks[n] = first ? from[2 * taps + n] : masks[n] + from[2 * taps + n];
        first = false;
      }
    }
  });
}

Status backward(const abi::KernelContext&, const TensorIn& gy, const DeformConvInputs& in,
                const DeformConvGradients& out) {
  Sizes s;
  if (Status st = check(in, gy, s); st.code) return st;
  auto fits = [](const TensorOut& t, const TensorIn& like) {
    return !t.data || (t.dtype == DType::Float32 && t.contiguous() && t.numel() == like.numel());
  };
  if (!fits(out.x, in.x) || !fits(out.offset, in.offset) ||
      !fits(out.mask, in.mask.data ? in.mask : in.offset) || !fits(out.weight, in.weight))
    return abi::failed("deform_conv2d: a gradient does not fit");
  if (gy.numel() == 0 || in.x.numel() == 0) {
    out.tensors([](const TensorOut& t) {
      if (t.data) std::fill_n(t.as<float>(), t.numel(), 0.0f);
    });
    return abi::ok();
  }
  Backward pass(s, gy, in, out);
  parallel_for(pass.count() * pass.shares, 1, [&](int64_t u, int64_t end) {
    for (; u < end; ++u) pass.block_over_share(u / pass.shares, u % pass.shares);
  });
  if (out.weight.data) pass.add_weights();
  if (pass.images) pass.add_moves();
  return abi::ok();
}

}  // namespace

void provide_deform_cpu(abi::KernelTable& t) {
  t.provide<deform_conv2d_forward>(&forward);
  t.provide<deform_conv2d_backward>(&backward);
}

}  // namespace dropin::kernels
#endif
