#include "dropin/model/transformer_decoder.h"

#include <limits>

#include "dropin/module/state_names.h"

namespace dropin {

FamilyInfo TransformerDecoderLayer::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "tgt [B, T, D], memory [B, S, D] -> y [B, T, D]";
  f.options = [](int size) {
    return json_of({{"embed_dim", size ? 512 : 8},
                    {"num_heads", size ? 8 : 2},
                    {"hidden_dim", size ? 2048 : 16}});
  };
  f.inputs = [](const Json& o, const SampleSpec& s) -> Sample {
    static constexpr int64_t kLengths[] = {5, 16, 128, 512};
    const int64_t batch = s.batch >= 0 ? s.batch : 2, width = option_or(o, {"embed_dim"}, 8),
                  length = s.length >= 0 ? s.length : s.of(kLengths);
    SampleSpec other = s;
    other.seed += 1;
    return {{{"tgt", s.normal({batch, length, width})},
             {"memory", other.normal({batch, s.of(kLengths) + 1, width})}}};
  };
  f.bad_inputs = [](const Json& o) -> std::vector<BadInput> {
    const int64_t d = option_or(o, {"embed_dim"}, 8);
    return {{{{"tgt", zeros({2, 3, d + 1})}, {"memory", zeros({2, 3, d})}}},
            {{{"tgt", zeros({2, 3, d})}, {"memory", zeros({2, 3, d + 1})}}},
            {{{"tgt", zeros({2, 3, d})}, {"memory", zeros({3, 3, d})}}}};
  };
  return f;
}

TransformerDecoderLayer::TransformerDecoderLayer(const TransformerDecoderLayerOptions& o)
    : Component(o) {
  DROPIN_CHECK(o.hidden_dim > 0, OptionError, who(), ": hidden_dim is ", o.hidden_dim,
               ", expected a positive number");
  const MultiheadAttentionOptions attention{
      .embed_dim = o.embed_dim, .num_heads = o.num_heads, .dropout = o.dropout};
  const LayerNormOptions norm{.normalized_shape = {o.embed_dim}, .eps = o.layer_norm_eps};
  self_attn_ = child<MultiheadAttention>("self_attn", attention);
  multihead_attn_ = child<MultiheadAttention>("multihead_attn", attention);
  ff_ = child<MLP>("ff", {.embed_dim = o.embed_dim,
                          .hidden_dim = o.hidden_dim,
                          .activation = o.activation,
                          .dropout = o.dropout});
  norm1_ = child<LayerNorm>("norm1", norm);
  norm2_ = child<LayerNorm>("norm2", norm);
  norm3_ = child<LayerNorm>("norm3", norm);
}

namespace {

/// tgt_mask with what lies after each position forbidden too.
Tensor causal_beside(const Tensor& mask, int64_t length, const Device& device) {
  const Tensor later = triu(ones({length, length}, {kUInt8, device}), 1).to(kBool);
  if (!mask.defined()) return later;
  return mask.dtype() == kBool ? mask | later
                               : masked_fill(mask, later, -std::numeric_limits<double>::infinity());
}

}  // namespace

Tensor TransformerDecoderLayer::forward(const Tensor& tgt, const Tensor& memory,
                                        const DecoderArgs& args) {
  const int64_t d = options_.embed_dim;
  DROPIN_CHECK(tgt.dim() == 3 && tgt.size(2) == d, ShapeError, who(), ": tgt is ", tgt.sizes(),
               ", expected [B, T, ", d, "]");
  DROPIN_CHECK(memory.dim() == 3 && memory.size(2) == d && memory.size(0) == tgt.size(0),
               ShapeError, who(), ": memory is ", memory.sizes(), ", expected [", tgt.size(0),
               ", S, ", d, "]");
  auto* across = multihead_attn_.as();
  DROPIN_CHECK(across, StateError, who(), ": multihead_attn is a ", multihead_attn_->type(),
               ", expected a MultiheadAttention, which reads the memory");
  SequenceArgs own{.key_padding_mask = args.tgt_key_padding_mask, .attn_mask = args.tgt_mask};
  if (args.tgt_is_causal) own.attn_mask = causal_beside(own.attn_mask, tgt.size(1), tgt.device());
  const SequenceArgs other{.key_padding_mask = args.memory_key_padding_mask,
                           .attn_mask = args.memory_mask};
  auto drop = [&](const Tensor& t) { return dropout(t, options_.dropout, is_training()); };
  auto seen = [&](const Tensor& q) { return drop(across->attend(q, memory, memory, other).y); };
  if (options_.norm_first) {
    const Tensor a = tgt + drop(self_attn_(norm1_(tgt), own)), b = a + seen(norm2_(a));
    return b + drop(ff_(norm3_(b)));
  }
  const Tensor a = norm1_(tgt + drop(self_attn_(tgt, own))), b = norm2_(a + seen(a));
  return norm3_(b + drop(ff_(b)));
}

NamedTensors TransformerDecoderLayer::call(const NamedTensors& in) {
  const DecoderArgs args{.tgt_mask = in.find("tgt_mask"),
                         .memory_mask = in.find("memory_mask"),
                         .tgt_key_padding_mask = in.find("tgt_key_padding_mask"),
                         .memory_key_padding_mask = in.find("memory_key_padding_mask")};
  return {{"y", (*this)(in.get("tgt", who()), in.get("memory", who()), args)}};
}

void TransformerDecoderLayer::translate_state(StateDict& state, const std::string& prefix,
                                              std::vector<std::string>& renamed) const {
  detail::rename_prefixes(state, prefix, {{"linear1.", "ff.fc1."}, {"linear2.", "ff.fc2."}},
                          renamed);
}

}  // namespace dropin
