// What the members of the room share: checks, states of keys and values, initial values, PyTorch's
// packed names.
#pragma once
#include "dropin/module/state_names.h"
#include "dropin/projection/linear.h"
#include "dropin/sequence/contract.h"

namespace dropin {

/// Keys (rotated) and values of the tokens seen so far, [B, Hk, capacity, Dh].
struct KeyValueState : SequenceState {
  Tensor keys, values;
  std::int64_t length = 0;
  /// Appends k and v [B, Hk, n, Dh]; returns all keys and values so far.
  std::pair<Tensor, Tensor> append(const Tensor& k, const Tensor& v);
};

namespace detail {
/// Splits PyTorch's packed in_proj_weight / in_proj_bias under `prefix` into q_proj, k_proj,
/// v_proj, and renames q_proj_weight, ...
void translate_in_proj(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed);
/// The checks of options that all attention layers share.
void check_heads_options(std::string_view who, std::int64_t embed_dim, std::int64_t num_heads,
                         const std::string& rope, double dropout);
/// query [B, Lq, D], key [B, Lk, kdim], value [B, Lk, vdim].
void check_attention_inputs(std::string_view who, const Tensor& query, const Tensor& key,
                            const Tensor& value, std::int64_t embed_dim, std::int64_t kdim,
                            std::int64_t vdim);
/// attn_mask is undefined, [Lq, Lk] or [B, 1 or H, Lq, Lk]; returns it.
Tensor check_attn_mask(std::string_view who, const Tensor& mask, std::int64_t batch,
                       std::int64_t heads, std::int64_t lq, std::int64_t lk);
/// PyTorch's start: weights xavier_uniform (packed: as one [3D, D] matrix), out_proj Linear's
/// default, biases 0.
void init_attention(const Child<Linear>& q, const Child<Linear>& k, const Child<Linear>& v,
                    const Child<Linear>& out, bool packed);
Box<SequenceState> key_value_state(std::string_view who, std::int64_t batch, std::int64_t max_len,
                                   std::int64_t heads, std::int64_t width,
                                   const TensorOptions& like);
/// The checks of step() for layers that keep keys and values.
KeyValueState& check_step(std::string_view who, const Tensor& x_t, SequenceState& state,
                          bool causal, std::int64_t embed_dim);
/// The checks all attention layers share: x is [B, L, D], masks have the right shape and dtype.
void check_sequence(std::string_view who, const Tensor& x, std::int64_t embed_dim,
                    const SequenceArgs& args);
}  // namespace detail

}  // namespace dropin
