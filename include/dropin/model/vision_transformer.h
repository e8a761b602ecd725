// VisionTransformer: pictures as sequences of patches, on TransformerEncoder.
#pragma once
#include "dropin/convolution/conv.h"
#include "dropin/model/transformer_encoder.h"

namespace dropin {

struct VisionTransformerOptions {
  Size2 image_size = 224, patch_size = 16;
  int64_t in_channels = 3;
  int64_t num_classes = 1000;
  int64_t embed_dim = 768;
  int64_t num_layers = 12;
  int64_t num_heads = 12;
  int64_t hidden_dim = 0;
  std::string activation = "gelu";
  double layer_norm_eps = 1e-6;
  double dropout = 0;
  bool class_token = true;
  std::string pooling = "token";
  static void fields(auto&& f) {
    using O = VisionTransformerOptions;
    f("image_size", &O::image_size, "the size that the learned positions are for");
    f("patch_size", &O::patch_size, "sides of a patch");
    f("in_channels", &O::in_channels, "channels of the pictures");
    f("num_classes", &O::num_classes, "classes; 0: the pooled features themselves");
    f("embed_dim", &O::embed_dim, "D");
    f("num_layers", &O::num_layers, "layers");
    f("num_heads", &O::num_heads, "attention heads");
    f("hidden_dim", &O::hidden_dim, "width inside the feed-forward; 0: 4 embed_dim");
    f("activation", &O::activation, "gelu, gelu_tanh, relu, silu, sigmoid or tanh");
    f("layer_norm_eps", &O::layer_norm_eps, "of every norm");
    f("dropout", &O::dropout, "on embeddings, attention, feed-forward and residuals, in training");
    f("class_token", &O::class_token, "a learned token before the patches");
    f("pooling", &O::pooling, "token: the class token; mean: over the patches; none: every token");
  }
};

/// Image classifier (Dosovitskiy et al. 2021): pictures [B, C, H, W], H and W multiples of the
/// patch -> logits [B, num_classes] (or features). z = [class; patches W] + positions, pre-norm
/// layers, norm, head (equations 1 to 4). Another picture size than image_size interpolates the
/// positions bicubically. Parameters patch_embed, class_token, positions, encoder.layer<i>,
/// encoder.norm, head. Names of Hugging Face's ViT, timm and torchvision are understood when
/// loading.
class VisionTransformer : public Component<VisionTransformer, VisionTransformerOptions, Model> {
 public:
  static constexpr const char* kSummary = "image classifier on patches, of swappable parts";
  static constexpr const char* kPaper = "Dosovitskiy et al. 2021, arXiv 2010.11929";
  static constexpr const char* kSample =
      R"({"image_size": 8, "patch_size": 4, "in_channels": 2, "num_classes": 3, "embed_dim": 8,
          "num_layers": 1, "num_heads": 2})";
  static std::vector<std::string> examples();
  static Work work(const Workload& w);
  explicit VisionTransformer(const VisionTransformerOptions& o);
  Tensor forward(const Tensor& x) override;
  /// Positions [1 + h w, D] (without a class token [h w, D]) for a grid of h x w patches: the
  /// learned ones, or their bicubic interpolation (a = -0.75, pixel centres), differentiable.
  Tensor positions(int64_t h, int64_t w) const;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  int64_t prefix_tokens() const { return options_.class_token ? 1 : 0; }
  Child<Conv2d> patch_embed_;
  Tensor *class_token_, *positions_;
  Child<TransformerEncoder> encoder_;
  Child<Linear> head_;
};

}  // namespace dropin
