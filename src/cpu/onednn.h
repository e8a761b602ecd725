// oneDNN behind plain pointers; onednn*.cpp and their headers are the only files that include it.
// Every function here runs on the calling thread alone.
#pragma once
#include <cstdint>

#include "src/cpu/gemm.h"

namespace dropin::cpu {

/// False when DROPIN_DISABLE names onednn, or after set_onednn_enabled(false): the library's own
/// kernels run instead.
bool onednn_enabled();
void set_onednn_enabled(bool on);
/// "oneDNN 2.6.3", for the list of what is in use.
const char* onednn_version();

/// Primitives created so far in this process, for tests: a second call with the same shapes creates
/// none.
int64_t onednn_primitives_created();

namespace onednn {

/// Row-major C = op(A) op(B) + beta C, op given by the transpose flags; false when oneDNN refuses.
bool sgemm(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, const float* a, int64_t lda,
           const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

/// One f32 convolution of `batch` images [in, H, W] to [out, H', W'], weights [out, in / groups,
/// kh, kw].
struct Conv {
  int64_t batch = 1, groups = 1, in = 0, out = 0;  ///< channels
  int64_t size[2] = {}, out_size[2] = {}, kernel[2] = {}, stride[2] = {1, 1}, dilation[2] = {1, 1},
          pad_begin[2] = {}, pad_end[2] = {};
  int64_t in_stride = 0,
          out_stride =
              0;  ///< from one image to the next; 0: dense (a slice of the channels has more)
  int64_t weight_stride = 0;  ///< from one output channel to the next; 0: dense
  bool bias = false;
  bool operator==(const Conv&) const = default;
};

/// Weights in the layout the convolution wants; made once per call and shared by the threads.
class ConvWeights;
void destroy(ConvWeights* w);
struct DestroyWeights {
  void operator()(ConvWeights* w) const { destroy(w); }
};

enum class ConvPass { Forward, BackwardInput, BackwardWeight };
/// Whether oneDNN has an implementation better than its reference loop. Creates and keeps it.
bool conv_supported(ConvPass pass, const Conv& c);
/// Null when it is not supported. For Forward and BackwardInput.
ConvWeights* prepare_weights(ConvPass pass, const Conv& c, const float* w);
/// False when not supported. bias is read where c.bias.
bool conv_forward(const Conv& c, const ConvWeights& w, const float* x, const float* bias, float* y);
/// gx from gy; elements that no window reaches become 0.
bool conv_backward_input(const Conv& c, const ConvWeights& w, const float* gy, float* gx);
/// gw, and gb [out] where c.bias, summed over the batch.
bool conv_backward_weight(const Conv& c, const float* x, const float* gy, float* gw, float* gb);

}  // namespace onednn
}  // namespace dropin::cpu
