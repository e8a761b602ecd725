// How a transform of length n is cut into passes, where its elements lie, and the twiddles.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace dropin::kernels {

/// Up to this length a convolution is summed directly.
inline constexpr int64_t kDirectLength = 32;

/// The transform X[k] = sum_t x[t] exp(-2 pi i t (k - 1/4) / n): the shift by a quarter of a
/// frequency is the weight exp(i pi t / (2 n)) of the right-angle convolution, folded into the
/// first pass. A product of two such spectra is the spectrum of their linear convolution: going
/// back, the real part holds lags 0 ... n - 1 and the imaginary part lags n ... 2n - 1.
///
/// Decimation in frequency: the first pass takes x[q + j m], j < R, to rows k < R of m elements
/// each, and so on within each row. Elements are a vector of real parts and one of imaginary parts;
/// a row of 32 elements or more has one element of padding after it, so that the rows of a pass do
/// not meet in one cache set.
struct ConvPlan {
  struct Level {
    int64_t radix = 1, length = 1, m = 1;  ///< length = radix m
    int64_t row = 1;                       ///< elements from row to row, padding included
    std::vector<float> twiddles;  ///< pairs: level 0 [m][radix] with the shift, others [m][radix -
                                  ///< 1] (k >= 1), the last none
  };
  int64_t n = 0, storage = 0;  ///< elements in all, padding included
  std::vector<Level> levels;  ///< at least 2; the first has radix 4 or 16, the others 2, 3, 4, 5 or
                              ///< 8, the last m = 1
  int64_t run = 1;            ///< elements of a row that lie side by side
  std::vector<int64_t> offsets;  ///< of each run of a row of level 0
};

/// For sequences of `length` > kDirectLength: a plan with n >= length, kept for next time.
std::shared_ptr<const ConvPlan> conv_plan(int64_t length);

}  // namespace dropin::kernels
