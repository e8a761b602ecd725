// The core of DCMHAttention: attention whose heads mix before and after the softmax.
#pragma once
#include "dropin/sequence/dcmh_attention.h"

namespace dropin::detail {

/// q, k, v [B, H, L, e]; factors [B, Lq, 2 (2R + 1) H] of queries and [B, Lk, ..] of keys, for the
/// stage before the softmax and then the one after (w1 [R, H], w2 [R, H], g [H] each); fixed [2, H,
/// H]. The last three are undefined where they do not mix.
struct MixedHeads {
  Tensor q, k, v, of_queries, of_keys, fixed;
};
/// Contexts [B, H, Lq, e]; the last query sees the last key. By tiles that hold all heads where a
/// kernel can take it, else a few queries at a time.
Tensor mixed_heads(const MixedHeads& x, const DCMHAttentionOptions& o, const SequenceArgs& args);
/// Its definition.
Tensor composed_mixed_heads(const MixedHeads& x, const DCMHAttentionOptions& o,
                            const SequenceArgs& args);

}  // namespace dropin::detail
