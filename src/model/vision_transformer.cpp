#include "dropin/model/vision_transformer.h"

#include <cmath>

#include "dropin/module/state_names.h"

namespace dropin {

namespace {

// Keys' cubic with a = -0.75, as torch's bicubic.
double cubic(double t) {
  constexpr double a = -0.75;
  t = std::abs(t);
  if (t <= 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? ((a * t - 5 * a) * t + 8 * a) * t - 4 * a : 0;
}

// [to, from]: row i has the weights of the source for target i; pixel centres, borders repeated.
Tensor resize_matrix(int64_t from, int64_t to, const TensorOptions& like) {
  std::vector<double> w(static_cast<std::size_t>(from * to), 0.0);
  for (int64_t i = 0; i < to; ++i) {
    const double at =
        (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    const auto base = static_cast<int64_t>(std::floor(at));
    for (int64_t k = base - 1; k <= base + 2; ++k) {
      const int64_t j = std::clamp<int64_t>(k, 0, from - 1);
      w[static_cast<std::size_t>(i * from + j)] += cubic(at - static_cast<double>(k));
    }
  }
  return tensor(w, {to, from}, {kFloat64, kCPU}).to(like.dtype).to(like.device);
}

}  // namespace

std::vector<std::string> VisionTransformer::examples() {
  return {R"({"image_size": 12, "class_token": false, "pooling": "mean", "num_classes": 0})"};
}

Work VisionTransformer::work(const Workload& w) { return work_of_places(w, 0); }

VisionTransformer::VisionTransformer(const VisionTransformerOptions& o) : Component(o) {
  DROPIN_CHECK(o.patch_size.h > 0 && o.patch_size.w > 0 && o.image_size.h > 0 &&
                   o.image_size.w > 0 && o.image_size.h % o.patch_size.h == 0 &&
                   o.image_size.w % o.patch_size.w == 0,
               OptionError, who(), ": image_size ", o.image_size.h, " x ", o.image_size.w,
               " is not a positive multiple of patch_size ", o.patch_size.h, " x ", o.patch_size.w);
  DROPIN_CHECK(o.num_classes >= 0, OptionError, who(), ": num_classes is ", o.num_classes,
               ", expected at least 0");
  DROPIN_CHECK(o.pooling == "token" || o.pooling == "mean" || o.pooling == "none", OptionError,
               who(), ": pooling is \"", o.pooling, "\", expected token, mean or none");
  DROPIN_CHECK(o.class_token || o.pooling != "token", OptionError, who(),
               ": pooling \"token\" needs class_token = true");
  patch_embed_ = child<Conv2d>("patch_embed", {.in_channels = o.in_channels,
                                               .out_channels = o.embed_dim,
                                               .kernel_size = o.patch_size,
                                               .stride = o.patch_size});
  class_token_ = &parameter("class_token", o.class_token ? zeros({1, 1, o.embed_dim}) : Tensor());
  const int64_t patches = o.image_size.h / o.patch_size.h * (o.image_size.w / o.patch_size.w);
  positions_ =
      &parameter("positions", init::trunc_normal({prefix_tokens() + patches, o.embed_dim}, 0.02));
  encoder_ = child<TransformerEncoder>("encoder", {.embed_dim = o.embed_dim,
                                                   .num_layers = o.num_layers,
                                                   .num_heads = o.num_heads,
                                                   .hidden_dim = o.hidden_dim,
                                                   .max_len = 0,
                                                   .activation = o.activation,
                                                   .norm_first = true,
                                                   .layer_norm_eps = o.layer_norm_eps,
                                                   .dropout = o.dropout});
  if (o.num_classes)
    head_ = child<Linear>("head", {.in_features = o.embed_dim, .out_features = o.num_classes});
}

Tensor VisionTransformer::positions(int64_t h, int64_t w) const {
  const auto& o = options_;
  const int64_t gh = o.image_size.h / o.patch_size.h, gw = o.image_size.w / o.patch_size.w,
                first = prefix_tokens();
  if (h == gh && w == gw) return *positions_;
  const Tensor grid = positions_->narrow(0, first, gh * gw);
  const TensorOptions like = grid.options();
  // rows, then columns: [h, gh] x [gh, gw D], then [w, gw] x [h, gw, D]
  const Tensor rows = matmul(resize_matrix(gh, h, like), grid.reshape({gh, gw * o.embed_dim}));
  const Tensor resized = matmul(resize_matrix(gw, w, like), rows.reshape({h, gw, o.embed_dim}))
                             .reshape({h * w, o.embed_dim});
  return first ? concat({positions_->narrow(0, 0, first), resized}, 0) : resized;
}

Tensor VisionTransformer::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == o.in_channels && x.size(2) > 0 && x.size(3) > 0 &&
                   x.size(2) % o.patch_size.h == 0 && x.size(3) % o.patch_size.w == 0,
               ShapeError, who(), ": x is ", x.sizes(), ", expected [B, ", o.in_channels,
               ", H, W], H and W positive multiples of patch_size ", o.patch_size.h, " x ",
               o.patch_size.w);
  const Tensor p = patch_embed_(x);  // [B, D, h, w]
  const int64_t batch = p.size(0), h = p.size(2), w = p.size(3);
  Tensor z = p.reshape({batch, o.embed_dim, h * w}).transpose(1, 2);
  if (o.class_token) z = concat({class_token_->expand({batch, 1, o.embed_dim}), z}, 1);
  z = encoder_(dropout(z + positions(h, w), o.dropout, is_training()));
  if (o.pooling == "token") z = z.select(1, 0);
  if (o.pooling == "mean") z = mean(z.narrow(1, prefix_tokens(), h * w), {1});
  return head_ ? head_(z) : z;
}

void VisionTransformer::translate_state(StateDict& state, const std::string& prefix,
                                        std::vector<std::string>& renamed) const {
  detail::rename_prefixes(state, prefix,
                          {// Hugging Face
                           {"vit.", ""},
                           {"embeddings.cls_token", "class_token"},
                           {"embeddings.position_embeddings", "positions"},
                           {"embeddings.patch_embeddings.projection.", "patch_embed."},
                           {"encoder.layer.", "encoder.layers."},
                           {"layers.", "encoder.layers."},
                           {"layernorm.", "encoder.norm."},
                           {"classifier.", "head."},
                           // timm
                           {"cls_token", "class_token"},
                           {"pos_embed", "positions"},
                           {"patch_embed.proj.", "patch_embed."},
                           {"blocks.", "encoder.layers."},
                           {"norm.", "encoder.norm."},
                           // torchvision
                           {"conv_proj.", "patch_embed."},
                           {"encoder.pos_embedding", "positions"},
                           {"encoder.layers.encoder_layer_", "encoder.layers."},
                           {"encoder.ln.", "encoder.norm."},
                           {"heads.head.", "head."}},
                          renamed);
  const std::string positions = prefix + "positions";
  const Tensor t = state.find(positions);
  if (t.defined() && t.dim() == 3 && t.size(0) == 1) {  // [1, N, D] elsewhere
    state.take(positions);
    state.set(positions, t.reshape({t.size(1), t.size(2)}));
  }
}

}  // namespace dropin
