#include "dropin/sequence/all_to_first_attention.h"

#include <cmath>

namespace dropin {

std::vector<std::string> AllToFirstAttention::examples() {
  return {R"({"qkv_bias": true, "residual": true, "rescale_output_factor": 1.5})",
          R"({"out_bias": false})"};
}

Json AllToFirstAttention::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  for (const char* same : {"embed_dim", "num_heads", "num_frames"})
    if (const Json* v = options.find(same)) r.set(same, *v);
  if (const Json* bias = options.find("bias")) {
    r.set("qkv_bias", *bias);
    r.set("out_bias", *bias);
  }
  return r;
}

AllToFirstAttention::AllToFirstAttention(const AllToFirstAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, "none", o.dropout);
  DROPIN_CHECK(o.num_frames >= 0, OptionError, who(), ": num_frames is ", o.num_frames,
               ", expected 0 (x says it) or a number of frames");
  DROPIN_CHECK(o.reference_frame >= 0 && (o.num_frames == 0 || o.reference_frame < o.num_frames),
               OptionError, who(), ": reference_frame is ", o.reference_frame,
               ", expected one of the frames of a clip, from 0 on; num_frames is ", o.num_frames);
  DROPIN_CHECK(o.rescale_output_factor != 0 && std::isfinite(o.rescale_output_factor), OptionError,
               who(), ": rescale_output_factor is ", o.rescale_output_factor,
               ", expected a number other than 0");
  add_projections(o.embed_dim, o.qkv_bias, o.out_bias);
}

namespace {
// [clips, F, N, D] of x [B, F, N, D] or [B F, N, D].
Tensor clips_of(std::string_view who, const Tensor& x, const AllToFirstAttentionOptions& o) {
  DROPIN_CHECK((x.dim() == 3 || x.dim() == 4) && x.size(-1) == o.embed_dim, ShapeError, who,
               ": x is ", x.sizes(), ", expected [B, F, N, ", o.embed_dim, "] or [B * F, N, ",
               o.embed_dim, "] because embed_dim = ", o.embed_dim);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who, ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  if (x.dim() == 4) return x;
  DROPIN_CHECK(o.num_frames > 0, OptionError, who, ": x is ", x.sizes(),
               ", expected [B, F, N, D], or num_frames given for [B * F, N, D]");
  DROPIN_CHECK(x.size(0) % o.num_frames == 0, ShapeError, who, ": x is ", x.sizes(),
               ", expected a first size divisible by num_frames = ", o.num_frames);
  return x.reshape({x.size(0) / o.num_frames, o.num_frames, x.size(1), x.size(2)});
}
}  // namespace

Tensor AllToFirstAttention::forward(const Tensor& x_in, const SequenceArgs& args) {
  const auto& o = options_;
  const Tensor x = clips_of(who(), x_in, o);
  const int64_t b = x.size(0), f = x.size(1), n = x.size(2), d = x.size(3), h = o.num_heads;
  detail::check_mask(who(), "key_padding_mask", args.key_padding_mask,
                     detail::broadcast_to(zeros({1, 1}), {b, n}));
  detail::refuse(who(), "attn_mask", args.attn_mask, "frames see the whole reference frame");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  DROPIN_CHECK(f == 0 || o.reference_frame < f, ShapeError, who(), ": x has ", f,
               " frames, expected more because reference_frame = ", o.reference_frame);
  if (f == 0 || n == 0) return zeros(x_in.sizes(), x_in.options());
  const Tensor first = x.select(1, o.reference_frame);
  const Tensor heads =
      attention(split_heads(q_proj_(x.reshape({b, f * n, d})), h), split_heads(k_proj_(first), h),
                split_heads(v_proj_(first), h), {.key_padding_mask = args.key_padding_mask});
  Tensor y = dropout(out_proj_(merge_heads(heads)), o.dropout, is_training());
  y = y.reshape(x_in.sizes());
  if (o.residual) y = y + x_in;
  return o.rescale_output_factor == 1 ? y : y * (1 / o.rescale_output_factor);
}

Tensor AllToFirstAttention::forward_pictures(const Tensor& x, const SequenceArgs& args) {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.embed_dim, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B * F, ", options_.embed_dim, ", h, w]");
  return forward(x.flatten(2).mT(), args).mT().reshape(x.sizes());
}

void AllToFirstAttention::translate_state(StateDict& state, const std::string& prefix,
                                          std::vector<std::string>& renamed) const {
  for (const char* kind : {"weight", "bias"}) {  // diffusers' names
    for (const auto& [theirs, ours] :
         {std::pair{"to_q.", "q_proj."}, {"to_k.", "k_proj."}, {"to_v.", "v_proj."}})
      detail::rename_state(state, prefix + theirs + kind, prefix + ours + kind, renamed);
    detail::rename_state(state, prefix + "to_out.0." + kind, prefix + "out_proj." + kind, renamed);
  }
  ProjectedMixer::translate_state(state, prefix, renamed);
}

}  // namespace dropin
