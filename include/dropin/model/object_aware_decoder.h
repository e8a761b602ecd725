// ObjectAwareDecoder: queries that read a video's features for hands, objects and the whole.
#pragma once
#include <vector>

#include "dropin/model/contract.h"
#include "dropin/module/parameters.h"
#include "dropin/norm/norm.h"
#include "dropin/sequence/multihead_attention.h"

namespace dropin {

struct ObjectAwareDecoderOptions {
  int64_t feature_dim = 1024, hidden_dim = 512, num_heads = 8, num_layers = 6,
          dim_feedforward = 2048;
  int64_t num_queries = 13, num_hands = 2, num_frames = 4, patches_per_frame = 256, embed_dim = 256;
  double dropout = 0.1;
  bool self_attn_first = true, return_attention = false;
  static void fields(auto&& f) {
    using O = ObjectAwareDecoderOptions;
    f("feature_dim", &O::feature_dim, "F, width of the patches' features");
    f("hidden_dim", &O::hidden_dim, "C, width of the queries");
    f("num_heads", &O::num_heads, "of both attentions");
    f("num_layers", &O::num_layers, "layers");
    f("dim_feedforward", &O::dim_feedforward, "width within the layers' MLPs");
    f("num_queries", &O::num_queries, "Q: hands, then objects, and the video as the last");
    f("num_hands", &O::num_hands, "queries that are hands");
    f("num_frames", &O::num_frames, "T");
    f("patches_per_frame", &O::patches_per_frame, "N");
    f("embed_dim", &O::embed_dim, "E, width shared with texts");
    f("dropout", &O::dropout, "in training");
    f("self_attn_first", &O::self_attn_first, "queries look at each other before the video");
    f("return_attention", &O::return_attention, "also returns where the queries look");
  }
};

struct ObjectAware {
  Tensor boxes;          ///< [layers, B, T, Q, 4]: centre x, y, width, height
  Tensor hidden;         ///< [B, Q, C]
  Tensor object_embeds;  ///< [B, Q - 1, E]
  Tensor video_embed;    ///< [B, E]
  Tensor attention;      ///< [layers, B, Q, T N], with return_attention
};

/// Layers of attention among learned queries and from them to a video's patches (Zhang et al.
/// 2023, section 3): each query follows a hand or an object through the frames, the last one is
/// the video. x [B, T, N, F]. Replaces a pooled head; as a Model it gives video_embed. Parameters
/// proj.weight, pre_norm, pos_embed [1, N + 1, C] (row 0 is not used), temporal_embed [1, T, C],
/// query_embed.weight [Q, C], layers.<i>.self_attn and cross_attn (q_proj, k_proj, v_proj,
/// out_proj), layers.<i>.norm1 to norm3, linear1, linear2, norm, frame_index.weight [T, C],
/// frame_proj, bbox_embed.layers.0 to 2, obj_proj.0, obj_proj.2.
class ObjectAwareDecoder : public Component<ObjectAwareDecoder, ObjectAwareDecoderOptions, Model> {
 public:
  static constexpr const char* kSummary = "queries for the hands and objects of a video";
  static constexpr const char* kPaper = "Zhang et al. 2023 (Helping Hands), arXiv 2308.07918";
  static constexpr const char* kCall =
      "x [B, T, N, F] -> boxes [layers, B, T, Q, 4], hidden [B, Q, C], object_embeds [B, Q - 1, "
      "E], video_embed [B, E]";
  static constexpr const char* kSample =
      R"({"feature_dim": 5, "hidden_dim": 8, "num_heads": 2, "num_layers": 2, "dim_feedforward": 6,
          "num_queries": 4, "num_frames": 2, "patches_per_frame": 4, "embed_dim": 3})";
  static std::vector<std::string> examples();
  static void traits(const Options& o, Traits& t) { t.random_in_training = o.dropout > 0; }
  static Sample sample(const Options& o, const SampleSpec& s);
  /// Widths mean something else in other models; only dropout carries over.
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit ObjectAwareDecoder(const ObjectAwareDecoderOptions& o);
  Tensor forward(const Tensor& x) override { return decode(x).video_embed; }
  ObjectAware decode(const Tensor& x);
  NamedTensors call(const NamedTensors& in) override;

 private:
  static void check(const ObjectAwareDecoderOptions& o);
  struct Block {
    Child<MultiheadAttention> self, cross;
    Child<LayerNorm> norm1, norm2, norm3;
    Child<Linear> linear1, linear2;
  };
  Tensor block(const Block& l, const Tensor& target, const Tensor& memory, const Tensor& keys,
               Tensor& attention) const;
  Tensor boxes(const Tensor& hidden) const;
  Child<Linear> proj_, frame_proj_, box1_, box2_, box3_, obj1_, obj2_;
  Child<LayerNorm> pre_norm_, norm_;
  Tensor *pos_, *temporal_, *queries_, *frames_;
  std::vector<Block> blocks_;
};

}  // namespace dropin
