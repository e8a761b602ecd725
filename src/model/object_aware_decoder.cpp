#include "dropin/model/object_aware_decoder.h"

namespace dropin {

std::vector<std::string> ObjectAwareDecoder::examples() {
  return {R"({"self_attn_first": false, "return_attention": true, "dropout": 0})"};
}

Sample ObjectAwareDecoder::sample(const Options& o, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : 2;
  return {{{"x", s.normal({batch, o.num_frames, o.patches_per_frame, o.feature_dim})}}};
}

Json ObjectAwareDecoder::options_from(std::string_view, const Json& options, const Json&) {
  const Json* p = options.find("dropout");
  Json r = Json::object();
  r.set("dropout", p ? *p : Json(ObjectAwareDecoderOptions{}.dropout));
  return r;
}

void ObjectAwareDecoder::check(const ObjectAwareDecoderOptions& o) {
  for (const auto& [name, v] : {std::pair{"feature_dim", o.feature_dim},
                                {"hidden_dim", o.hidden_dim},
                                {"num_heads", o.num_heads},
                                {"num_layers", o.num_layers},
                                {"dim_feedforward", o.dim_feedforward},
                                {"num_frames", o.num_frames},
                                {"patches_per_frame", o.patches_per_frame},
                                {"embed_dim", o.embed_dim}})
    DROPIN_CHECK(v > 0, OptionError, who(), ": ", name, " is ", v, ", expected a positive number");
  DROPIN_CHECK(o.hidden_dim % o.num_heads == 0, OptionError, who(), ": hidden_dim ", o.hidden_dim,
               " is not divisible by num_heads ", o.num_heads);
  DROPIN_CHECK(o.num_hands >= 0 && o.num_queries > o.num_hands, OptionError, who(),
               ": num_queries is ", o.num_queries,
               ", expected more than num_hands = ", o.num_hands);
  DROPIN_CHECK(o.dropout >= 0 && o.dropout < 1, OptionError, who(), ": dropout is ", o.dropout,
               ", expected 0 <= dropout < 1");
}

ObjectAwareDecoder::ObjectAwareDecoder(const ObjectAwareDecoderOptions& o) : Component(o) {
  check(o);
  const int64_t c = o.hidden_dim;
  auto straight = [](auto& parent, const char* name, int64_t in, int64_t out, bool bias = true) {
    auto layer = parent.template child<Linear>(
        name, LinearOptions{.in_features = in, .out_features = out, .bias = bias});
    no_grad guard;
    layer.as()->weight().copy_(init::xavier_uniform({out, in}, in, out));
    if (bias) layer.as()->bias().zero_();
    return layer;
  };
  auto rows = [&](const char* name, int64_t count) {
    return &child<Parameters>(name).as()->add("weight", init::normal({count, c}, 1));
  };
  pos_ = &parameter("pos_embed", init::trunc_normal({1, o.patches_per_frame + 1, c}, 0.02));
  temporal_ = &parameter("temporal_embed", init::trunc_normal({1, o.num_frames, c}, 0.02));
  proj_ = child<Linear>("proj", {.in_features = o.feature_dim, .out_features = c, .bias = false});
  {
    no_grad guard;
    proj_.as()->weight().copy_(init::xavier_uniform({c, o.feature_dim}, o.feature_dim, c));
  }
  const LayerNormOptions wide{.normalized_shape = std::vector<int64_t>{c}};
  pre_norm_ = child<LayerNorm>("pre_norm", wide);
  queries_ = rows("query_embed", o.num_queries);
  Parameters& layers = *child<Parameters>("layers").as();
  for (int64_t i = 0; i < o.num_layers; ++i) {
    Parameters& l = layers.bundle(std::to_string(i));
    const MultiheadAttentionOptions attention{
        .embed_dim = c, .num_heads = o.num_heads, .dropout = o.dropout};
    MultiheadAttentionOptions seen = attention;
    seen.need_weights = o.return_attention;
    blocks_.push_back({l.child<MultiheadAttention>("self_attn", attention),
                       l.child<MultiheadAttention>("cross_attn", seen),
                       l.child<LayerNorm>("norm1", wide), l.child<LayerNorm>("norm2", wide),
                       l.child<LayerNorm>("norm3", wide),
                       straight(l, "linear1", c, o.dim_feedforward),
                       straight(l, "linear2", o.dim_feedforward, c)});
  }
  norm_ = child<LayerNorm>("norm", wide);
  frames_ = rows("frame_index", o.num_frames);
  Parameters& own = *child<Parameters>("bbox_embed").as();
  Parameters& box = own.bundle("layers");
  box1_ = straight(box, "0", c, c);
  box2_ = straight(box, "1", c, c);
  box3_ = straight(box, "2", c, 4);
  Parameters& object = *child<Parameters>("obj_proj").as();
  obj1_ = straight(object, "0", c, c);
  obj2_ = straight(object, "2", c, o.embed_dim);
  frame_proj_ = child<Linear>("frame_proj", {.in_features = 2 * c, .out_features = c});
}

Tensor ObjectAwareDecoder::block(const Block& l, const Tensor& target, const Tensor& memory,
                                 const Tensor& keys, Tensor& attention) const {
  const auto& o = options_;
  auto dropped = [&](const Tensor& t) { return dropout(t, o.dropout, is_training()); };
  auto attended = [&](const Child<MultiheadAttention>& by, const Tensor& q, const Tensor& k,
                      const Tensor& v) {
    auto* layer = by.as();
    DROPIN_CHECK(layer, StateError, who(),
                 ": an attention is no MultiheadAttention any more; only that fits here");
    return layer->attend(q, k, v);
  };
  Tensor t = target;
  for (const bool first : {true, false}) {
    const Tensor z = (first ? l.norm1 : l.norm2)(t), q = z + *queries_;
    if (first == o.self_attn_first) {
      t = t + dropped(attended(l.self, q, q, z).y);
    } else {
      const MultiheadAttention::Result r = attended(l.cross, q, keys, memory);
      attention = r.weights;
      t = t + dropped(r.y);
    }
  }
  return t + dropped(l.linear2(dropped(relu(l.linear1(l.norm3(t))))));
}

// [B, T, Q, 4] of hidden [B, Q, C]: frame_proj of both halves, never their concatenation.
Tensor ObjectAwareDecoder::boxes(const Tensor& hidden) const {
  const int64_t c = options_.hidden_dim;
  auto* layer = frame_proj_.as();
  DROPIN_CHECK(layer, StateError, who(), ": frame_proj is no Linear any more");
  const Tensor& w = layer->weight();
  const Tensor own = linear(hidden, w.narrow(1, 0, c), layer->bias()),
               time = linear(*frames_, w.narrow(1, c, c));
  const Tensor at = own.unsqueeze(1) + time.unsqueeze(1);  // [B, T, Q, C]
  return sigmoid(box3_(relu(box2_(relu(box1_(at))))));
}

ObjectAware ObjectAwareDecoder::decode(const Tensor& x) {
  const auto& o = options_;
  const Shape want{x.dim() ? x.size(0) : 0, o.num_frames, o.patches_per_frame, o.feature_dim};
  DROPIN_CHECK(x.sizes() == want, ShapeError, who(), ": x is ", x.sizes(), ", expected [B, ",
               o.num_frames, ", ", o.patches_per_frame, ", ", o.feature_dim, "]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const int64_t b = x.size(0), c = o.hidden_dim, n = o.num_frames * o.patches_per_frame;
  const Tensor memory = pre_norm_(proj_(x)).reshape({b, n, c}),
               place = (pos_->narrow(1, 1, o.patches_per_frame) + temporal_->transpose(0, 1))
                           .reshape({1, n, c}),
               keys = memory + place;
  Tensor t = zeros({b, o.num_queries, c}, x.options());
  Tensors all, maps;
  ObjectAware r;
  for (const Block& l : blocks_) {
    Tensor attention;
    t = block(l, t, memory, keys, attention);
    r.hidden = norm_(t);
    all.push_back(boxes(r.hidden));
    if (o.return_attention) maps.push_back(attention);
  }
  r.boxes = stack(all);
  const Tensor embeds = obj2_(relu(obj1_(r.hidden)));
  r.object_embeds = embeds.narrow(1, 0, o.num_queries - 1);
  r.video_embed = embeds.select(1, o.num_queries - 1);
  if (o.return_attention) r.attention = stack(maps);
  return r;
}

NamedTensors ObjectAwareDecoder::call(const NamedTensors& in) {
  ObjectAware r;
  const Tensor video_embed = with_hooks(in.get("x", who()), [&](const Tensor& x) {
    r = decode(x);
    return r.video_embed;
  });
  NamedTensors out{{"video_embed", video_embed},
                   {"boxes", r.boxes},
                   {"hidden", r.hidden},
                   {"object_embeds", r.object_embeds}};
  if (r.attention.defined()) out.set("attention", r.attention);
  return out;
}

}  // namespace dropin
