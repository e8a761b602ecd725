// AllToFirstAttention: every video frame attends to one frame.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct AllToFirstAttentionOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t num_heads = 0;  ///< required
  int64_t num_frames = 0, reference_frame = 0;
  bool qkv_bias = false, out_bias = true, residual = false;
  double rescale_output_factor = 1, dropout = 0;
  static void fields(auto&& f) {
    using O = AllToFirstAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    f("num_heads", &O::num_heads, "H; required");
    f("num_frames", &O::num_frames, "frames of a clip, for x without a dimension of frames");
    f("reference_frame", &O::reference_frame, "the frame that all attend to");
    f("qkv_bias", &O::qkv_bias, "biases of q_proj, k_proj, v_proj");
    f("out_bias", &O::out_bias, "bias of out_proj");
    f("residual", &O::residual, "adds the input");
    f("rescale_output_factor", &O::rescale_output_factor, "the result is divided by it");
    f("dropout", &O::dropout, "after out_proj, when training");
  }
};

/// Spatial self-attention of video in which keys and values come from one frame (Li et al. 2024,
/// Puppet-Master): y[b, f] = softmax(q[b, f] k[b, r]^T / sqrt(e)) v[b, r]. Replaces
/// MultiheadAttention over the patches of a frame. x [B, F, N, D], or [B F, N, D] with the frames
/// of a clip together; key_padding_mask [B, N] bool over the tokens of the reference frame, B
/// clips. Parameters q_proj, k_proj, v_proj, out_proj (.weight, .bias); diffusers' to_q, to_k,
/// to_v, to_out.0 are accepted.
class AllToFirstAttention
    : public Component<AllToFirstAttention, AllToFirstAttentionOptions, ProjectedMixer> {
 public:
  static constexpr const char* kSummary = "attention of every video frame to the first one";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Li et al. 2024 (Puppet-Master), arXiv 2408.04631";
  static constexpr const char* kCall =
      "x [B, F, N, D] or [B F, N, D], key_padding_mask [B, N] bool -> y as x";
  static std::vector<std::string> examples();
  /// MultiheadAttention's bias becomes both of the biases.
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  static double core_flops(const Options& o, const Shape& x) {
    return 4 * static_cast<double>(x[0] * x[1] * x[1]) * static_cast<double>(o.embed_dim);
  }
  explicit AllToFirstAttention(const AllToFirstAttentionOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  /// The same of pictures [B F, D, h, w], whose places are the tokens.
  Tensor forward_pictures(const Tensor& x, const SequenceArgs& args = {});

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;
};

}  // namespace dropin
