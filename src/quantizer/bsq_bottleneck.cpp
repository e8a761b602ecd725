#include <tuple>

#include "dropin/module/parameters.h"
#include "dropin/ops/normalize.h"
#include "dropin/quantizer/binary_spherical.h"

namespace dropin {

namespace {
BinarySphericalQuantizerOptions quantizer_options(const BSQBottleneckOptions& o) {
  return {o.embed_dim,
          o.group_size,
          o.beta,
          o.gamma_0,
          o.gamma_1,
          o.input_format,
          o.persample_entropy_compute,
          o.l2_norm,
          o.inv_temperature,
          o.eps,
          o.normalize_input};
}
}  // namespace

BSQBottleneck::BSQBottleneck(const BSQBottleneckOptions& o)
    : Component(o), quantizer_(quantizer_options(o)) {
  DROPIN_CHECK(o.in_dim > 0 && o.out_dim > 0 && o.hidden >= 0 && o.post_hidden >= 0, OptionError,
               who(), ": in_dim ", o.in_dim, " and out_dim ", o.out_dim,
               " must be positive, hidden ", o.hidden, " and post_hidden ", o.post_hidden,
               " at least 0");
  DROPIN_CHECK(o.input_format == "blc", OptionError, who(), ": input_format is \"", o.input_format,
               "\", expected blc");
  auto mlp = [&](const char* name, int64_t in, int64_t hidden, int64_t out) {
    Parameters& p = *child<Parameters>(name).as();
    auto first = p.child<Linear>("c_fc", {.in_features = in, .out_features = hidden});
    auto second = p.child<Linear>("c_proj", {.in_features = hidden, .out_features = out});
    return std::pair{first, second};
  };
  std::tie(embed_fc_, embed_proj_) =
      mlp("quant_embed", o.in_dim, o.hidden ? o.hidden : o.in_dim, o.embed_dim);
  std::tie(post_fc_, post_proj_) =
      mlp("quant_embed_post", o.embed_dim, o.post_hidden ? o.post_hidden : o.out_dim, o.out_dim);
}

Tensor BSQBottleneck::projected(const Tensor& x) {
  DROPIN_CHECK(x.dim() >= 1 && x.size(-1) == options_.in_dim, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [..., ", options_.in_dim,
               "] because in_dim = ", options_.in_dim);
  return normalize(embed_proj_(gelu(embed_fc_(x))));
}
Tensor BSQBottleneck::lifted(const Tensor& code) { return post_proj_(gelu(post_fc_(code))); }

Quantized BSQBottleneck::forward(const Tensor& x, const Tensor& lengths) {
  DROPIN_CHECK(!lengths.defined(), OptionError, who(), ": lengths is not supported");
  Quantized q = quantizer_.forward(projected(x));
  q.y = lifted(q.y);
  return q;
}

NamedTensors BSQBottleneck::call(const NamedTensors& in) {
  const Quantized q = forward(in.get("x", who()), in.find("lengths"));
  NamedTensors out{{"y", q.y}, {"loss", q.loss}};
  if (q.indices.defined()) out.set("indices", q.indices);
  return out;
}

Tensor BSQBottleneck::encode(const Tensor& x) {
  no_grad guard;
  return quantizer_.codes_to_indices(quantizer_.codes(projected(x)).y);
}
Tensor BSQBottleneck::decode(const Tensor& indices) {
  no_grad guard;
  return lifted(quantizer_.indices_to_codes(indices).to(post_fc_.as()->weight().dtype()));
}

}  // namespace dropin
