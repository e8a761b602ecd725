// Composed attention a few queries at a time, so that no Lq x Lk array stands in memory.
#pragma once
#include <functional>

#include "dropin/sequence/common.h"

namespace dropin::detail {

/// Queries [first, first + count) of `of`.
struct QueryPart {
  int64_t first, count, of;
};

/// f(inputs, part), [B, H, count, *], over parts of n queries, one after the other: as many queries
/// at a time as half a million numbers allow, of which one needs `numbers`. With gradients, each of
/// several parts is computed again in backward, so that the memory is that of one part (second
/// derivatives keep all). Random numbers are the same again. inputs: all
/// tensors but parameters that f reads and that want a gradient; undefined ones stay undefined.
Tensor in_query_parts(int64_t n, int64_t numbers, const Tensors& inputs,
                      const std::function<Tensor(const Tensors&, const QueryPart&)>& f);
/// Their rows of an attn_mask [Lq, Lk] or [B, 1 or H, Lq, Lk].
Tensor rows_of_mask(const Tensor& attn_mask, const QueryPart& part);
/// Pairs that are forbidden, [B or 1, H or 1, count, Lk] bool: later keys when causal (the last of
/// all queries sees them all), padding, and what attn_mask forbids. Undefined: none.
Tensor forbidden_pairs(const SequenceArgs& args, bool causal, const QueryPart& part, int64_t lk,
                       const Device& device);
/// Scores [B, H, count, Lk] with a part's rows of a floating attn_mask added.
Tensor with_mask_added(const Tensor& scores, const Tensor& rows);

}  // namespace dropin::detail
