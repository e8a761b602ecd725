// Convolutions as oneDNN has them ready, by shape.
#pragma once
#include <memory>

#include "src/cpu/onednn_common.h"

namespace dropin::cpu::onednn {

/// What one pass over one set of shapes needs: the primitive, its layouts, and the reorders from
/// and to plain NCHW (null when none is needed).
struct Entry {
  dnnl::primitive run, weights_in, weights_out, src_in, dst_in, src_out,
      dst_out;  // src: the input image, dst: the output image (or its gradient)
  dnnl::memory::desc src, weights, bias, dst, plain_src, plain_weights, plain_dst, scratchpad;
};

/// Made at the first call with this pass and these sizes; null where oneDNN has nothing better than
/// its reference loop.
std::shared_ptr<const Entry> primitive_of(ConvPass pass, const Conv& c);
dnnl::engine& engine();

}  // namespace dropin::cpu::onednn
