// Depthwise convolution where channels lie side by side ([H, W, C]), by rows of outputs. One
// thread.
#pragma once
#include <cstdint>

#include "kernels/conv/plane.h"
#include "kernels/hd.h"

namespace dropin::cpu {

/// Elements from one row, and one column, of an image to the next; channels stand side by side.
struct RowStrides {
  int64_t row, column;
};

/// Rows worked on at once, before dilation: pictures are often 7 2^k high, and small kernels like
/// multiples of four.
inline int64_t row_block(int64_t rows, int64_t kernel) {
  return ceil_div(rows, 8) * 8 < ceil_div(rows, 7) * 7 + (kernel <= 3) ? 8 : 7;
}
/// Floats from one tap's sums of a weight gradient to the next.
inline int64_t sums_pitch(int64_t channels) { return (channels + 31) / 16 * 16; }

/// Rows [p0, p1) of one image's y[p, q, c] = bias[c] + sum of w[i, j, c] x[p s + i d - pad, q s + j
/// d - pad, c]. w [kh, kw, w_tap]; bias or null; x, y at the first of `channels` channels.
void rows_forward(const PlaneConv& c, int64_t channels, const float* x, const RowStrides& sx,
                  const float* w, int64_t w_tap, const float* bias, float* y, const RowStrides& sy,
                  int64_t p0, int64_t p1);

/// Rows [h0, h1) of one image's gx.
void rows_backward_input(const PlaneConv& c, int64_t channels, const float* gy,
                         const RowStrides& sy, const float* w, int64_t w_tap, float* gx,
                         const RowStrides& sx, int64_t h0, int64_t h1);

/// Adds what rows [p0, p1) of one image's gy give to the weights' gradient: sums [kh kw (+ 1: the
/// bias's)][sums_pitch].
void rows_backward_weight(const PlaneConv& c, int64_t channels, const float* gy,
                          const RowStrides& sy, const float* x, const RowStrides& sx, float* sums,
                          bool bias, int64_t p0, int64_t p1);
/// gw [channels, kh, kw] and gb [channels] (or null) from added sums.
void rows_finish(const PlaneConv& c, int64_t channels, const float* sums, float* gw, float* gb);

}  // namespace dropin::cpu
