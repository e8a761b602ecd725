// What the tiled and the plain attention check alike.
#pragma once
#include "dropin/ops/attention.h"

namespace dropin::ops_detail {

/// Shapes, dtypes and masks of a call.
void check_heads(const char* who, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionParams& p);
/// The same for each pattern of a mixture, whose weights must be those of a softmax.
void check_patterns(const Tensor& q, const Tensor& k, const Tensor& v,
                    const std::vector<AttentionParams>& patterns);
/// Position of query 0 among the keys.
inline int64_t query_offset(const AttentionParams& p, int64_t lq, int64_t lk) {
  return p.causal_offset.value_or(p.causal ? lk - lq : 0);
}

}  // namespace dropin::ops_detail
