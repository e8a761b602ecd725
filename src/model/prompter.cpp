#include "dropin/model/prompter.h"

#include <cmath>
#include <numbers>

namespace dropin {

FamilyInfo Prompter::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call =
      "image_features [B, P, C], boxes [B, M, 4] or text_features [B, M, T] -> y [B, M, E], "
      "hidden [B, M, C]";
  f.options = [](int size) {
    return json_of({{"embed_dim", size ? 512 : 12}, {"text_dim", size ? 512 : 5}});
  };
  f.bad_inputs = [](const Json& o) -> std::vector<BadInput> {
    const int64_t c = option_or(o, {"embed_dim"}, 12);
    const bool text = o.find("prompt") && *o.find("prompt") == Json("text");
    const char* name = text ? "text_features" : "boxes";
    return {{{{"image_features", zeros({2, 3, c + 1})}, {name, zeros({2, 1, text ? 5 : 4})}}},
            {{{"image_features", zeros({2, 3, c})}, {name, zeros({2, 1, 9})}}},
            {{{"image_features", zeros({2, 3, c})}, {name, zeros({3, 1, text ? 5 : 4})}}}};
  };
  return f;
}

std::vector<std::string> Prompter::examples() {
  return {R"({"prompt": "text", "num_heads": 3, "out_dim": 7})",
          R"({"prompt": "both", "num_freqs": 2, "mlp_ratio": 1})"};
}

Sample Prompter::sample(const PrompterOptions& o, const SampleSpec& s) {
  static constexpr int64_t kTokens[] = {6, 49, 196, 1024};
  const int64_t batch = s.batch >= 0 ? s.batch : 2, regions = s.size ? 16 : 3,
                tokens = s.length >= 0 ? s.length : s.of(kTokens);
  const Tensor image = s.normal({batch, tokens, o.embed_dim});
  SampleSpec other = s;
  other.seed += 1;
  if (o.prompt == "text")
    return {
        {{"image_features", image}, {"text_features", other.normal({batch, regions, o.text_dim})}}};
  const Tensor corners = sigmoid(other.normal({batch, regions, 4})) * 0.4;
  return {{{"image_features", image},
           {"boxes", concat({corners.narrow(2, 0, 2), corners.narrow(2, 2, 2) + 0.5}, 2)}}};
}

Prompter::Prompter(const PrompterOptions& o) : Component(o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.num_heads > 0 && o.embed_dim % o.num_heads == 0, OptionError,
               who(), ": embed_dim ", o.embed_dim, " with num_heads ", o.num_heads,
               ", expected positive numbers and heads that divide it");
  DROPIN_CHECK(o.out_dim >= 0 && o.mlp_ratio > 0, OptionError, who(), ": out_dim ", o.out_dim,
               " and mlp_ratio ", o.mlp_ratio, ", expected 0 or more and a positive number");
  DROPIN_CHECK(o.prompt == "box" || o.prompt == "text" || o.prompt == "both", OptionError, who(),
               ": prompt is \"", o.prompt, "\", expected box, text or both");
  const int64_t c = o.embed_dim;
  auto linear = [this](const char* name, int64_t in, int64_t out, bool bias = true) {
    Child<Linear> r = child<Linear>(name, {.in_features = in, .out_features = out, .bias = bias});
    no_grad guard;
    r.as()->weight().copy_(init::xavier_uniform({out, in}, in, out));
    if (bias) r.as()->bias().zero_();
    return r;
  };
  if (o.prompt != "text") {
    DROPIN_CHECK(o.num_freqs > 0, OptionError, who(), ": num_freqs is ", o.num_freqs,
                 ", expected a positive number");
    box_proj_ = linear("box_proj", 8 * o.num_freqs, c);
    box_embed_ = &parameter("box_embed", init::normal({c}, 0.02));
  }
  if (o.prompt != "box") {
    DROPIN_CHECK(o.text_dim > 0, OptionError, who(), ": text_dim is ", o.text_dim,
                 ", expected the width of text prompts");
    text_proj_ = linear("text_proj", o.text_dim, c);
    text_embed_ = &parameter("text_embed", init::normal({c}, 0.02));
  }
  q_ = linear("q_proj", c, c);
  k_ = linear("k_proj", c, c);
  v_ = linear("v_proj", c, c);
  out_ = linear("out_proj", c, c);
  mlp_ = child<MLP>("mlp", {.embed_dim = c, .hidden_dim = c * o.mlp_ratio});
  const int64_t hidden = c * o.mlp_ratio;
  for (auto& [name, p] : mlp_->named_parameters()) {
    no_grad guard;
    p.copy_(p.dim() == 2 ? init::xavier_uniform(p.sizes(), c, hidden) : zeros_like(p));
  }
  norm1_ = child<LayerNorm>("norm1", {.normalized_shape = c});
  norm2_ = child<LayerNorm>("norm2", {.normalized_shape = c});
  norm3_ = child<LayerNorm>("norm3", {.normalized_shape = c});
  proj_ = linear("proj", c, o.out_dim ? o.out_dim : c, false);
}

// [B, L, C] -> [B, heads, L, C / heads]
Tensor Prompter::heads(const Tensor& x) const {
  const int64_t h = options_.num_heads;
  return x.reshape({x.size(0), x.size(1), h, options_.embed_dim / h}).transpose(1, 2);
}

Prompter::Cache Prompter::cache(const Tensor& image_features) {
  DROPIN_CHECK(image_features.dim() == 3 && image_features.size(2) == options_.embed_dim,
               ShapeError, who(), ": image_features is ", image_features.sizes(),
               ", expected [B, P, ", options_.embed_dim,
               "] because embed_dim = ", options_.embed_dim);
  DROPIN_CHECK(is_floating(image_features.dtype()), DTypeError, who(), ": image_features is ",
               image_features.dtype(), ", expected a floating-point tensor");
  const Tensor x = norm1_(image_features);
  return {heads(k_(x)), heads(v_(x))};
}

// For each coordinate sin(2^k pi c), then cos(2^k pi c).
Tensor Prompter::embedded_boxes(const Tensor& boxes, int64_t batch) {
  DROPIN_CHECK(box_embed_, OptionError, who(), ": boxes were given, but prompt is \"",
               options_.prompt, "\", expected box or both");
  DROPIN_CHECK(boxes.dim() == 3 && boxes.size(0) == batch && boxes.size(2) == 4, ShapeError, who(),
               ": boxes is ", boxes.sizes(), ", expected [", batch, ", M, 4]");
  DROPIN_CHECK(is_floating(boxes.dtype()), DTypeError, who(), ": boxes is ", boxes.dtype(),
               ", expected a floating-point tensor");
  const std::vector<double> all = boxes.detach().to_vector();
  for (std::size_t i = 0; i < all.size(); ++i) {
    DROPIN_CHECK(all[i] >= -1e-6 && all[i] <= 1 + 1e-6, Error, who(), ": boxes reach ", all[i],
                 ", expected corners from 0 to 1");
    DROPIN_CHECK(i % 4 < 2 || all[i] >= all[i - 2], Error, who(), ": a box runs from ", all[i - 2],
                 " to ", all[i], ", expected x1 <= x2 and y1 <= y2");
  }
  std::vector<double> rates;
  for (int64_t k = 0; k < options_.num_freqs; ++k)
    rates.push_back(std::ldexp(std::numbers::pi, static_cast<int>(k)));
  const Tensor angles =
      boxes.unsqueeze(3) * tensor(rates, {boxes.dtype(), boxes.device()});  // [B, M, 4, F]
  return box_proj_(concat({sin(angles), cos(angles)}, 3)
                       .reshape({batch, boxes.size(1), 8 * options_.num_freqs})) +
         *box_embed_;
}

Tensor Prompter::embedded_texts(const Tensor& text, int64_t batch) {
  DROPIN_CHECK(text_embed_, OptionError, who(), ": text_features were given, but prompt is \"",
               options_.prompt, "\", expected text or both");
  DROPIN_CHECK(text.dim() == 3 && text.size(0) == batch && text.size(2) == options_.text_dim,
               ShapeError, who(), ": text_features is ", text.sizes(), ", expected [", batch,
               ", M, ", options_.text_dim, "]");
  DROPIN_CHECK(is_floating(text.dtype()), DTypeError, who(), ": text_features is ", text.dtype(),
               ", expected a floating-point tensor");
  return text_proj_(text) + *text_embed_;
}

Prompter::Result Prompter::forward(const Cache& image, const Tensor& boxes,
                                   const Tensor& text_features) {
  DROPIN_CHECK(boxes.defined() != text_features.defined(), StateError, who(),
               ": expected either boxes or text_features");
  const int64_t batch = image.k.size(0), c = options_.embed_dim;
  const Tensor e =
      boxes.defined() ? embedded_boxes(boxes, batch) : embedded_texts(text_features, batch);
  const int64_t prompts = e.size(1), tokens = image.k.size(2);
  const Tensor own = norm1_(e), q = heads(q_(own)), k = heads(k_(own)), v = heads(v_(own));
  // each prompt's own key is one more column beside the image's
  const Tensor scores = concat({matmul(q, image.k.mT()), sum(q * k, {3}, true)}, 3) *
                        std::sqrt(static_cast<double>(options_.num_heads) / static_cast<double>(c));
  const Tensor a = softmax(scores, 3);
  const Tensor seen = matmul(a.narrow(3, 0, tokens), image.v) + a.narrow(3, tokens, 1) * v;
  Tensor u = e + out_(seen.transpose(1, 2).reshape({batch, prompts, c}));
  u = u + mlp_(norm2_(u));
  const Tensor hidden = norm3_(u);
  return {proj_(hidden), hidden};
}

NamedTensors Prompter::call(const NamedTensors& in) {
  const Tensor image = in.get("image_features", type()), boxes = in.find("boxes"),
               text = in.find("text_features");
  Result r;
  const Tensor y = with_hooks(image, [&](const Tensor& x) {
    r = forward(x, boxes, text);
    return r.y;
  });
  return {{"y", y}, {"hidden", r.hidden}};
}

}  // namespace dropin
