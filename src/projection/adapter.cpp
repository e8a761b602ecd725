#include "dropin/projection/adapter.h"

#include <algorithm>

namespace dropin {

FamilyInfo HiddenEdit::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [*, D], positions [B, K] int64 -> y [*, D]";
  f.options = [](int size) {
    const int64_t width = size ? 512 : 8;
    return json_of(
        {{"embed_dim", width}, {"features", width}, {"low_rank_dimension", size ? 16 : 3}});
  };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    return sample_rows(s, option_or(o, {"embed_dim", "features"}, 512));
  };
  f.bad_inputs = [](const Json& o) -> std::vector<BadInput> {
    const Tensor x = zeros({2, 4, option_or(o, {"embed_dim", "features"}, 8)});
    return {{{{"x", zeros({2, 5})}}},
            {{{"x", x}, {"positions", zeros({2, 2})}}},
            {{{"x", x}, {"positions", zeros({3, 2}, kInt64)}}},
            {{{"x", x}, {"positions", full({2, 2}, 4, kInt64)}}},
            {{{"x", x}, {"positions", full({2, 2}, -2, kInt64)}}}};
  };
  return f;
}

namespace {
// The rows b L + t of x [B, L, D] that positions name, each once, in order.
Tensor edited_rows(std::string_view who, const Tensor& x, const Tensor& positions) {
  DROPIN_CHECK(positions.dtype() == kInt64 || positions.dtype() == kInt32, DTypeError, who,
               ": positions are ", positions.dtype(), ", expected int64 or int32");
  DROPIN_CHECK(x.dim() == 3, ShapeError, who, ": x is ", x.sizes(),
               ", expected [B, L, D] because positions are given");
  DROPIN_CHECK(positions.dim() == 2 && positions.size(0) == x.size(0), ShapeError, who,
               ": positions are ", positions.sizes(), ", expected [", x.size(0), ", K]");
  const Tensor at = positions.to(Device{}).to(kInt64).contiguous();
  const int64_t length = x.size(1), k = at.size(1);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < at.numel(); ++i) {
    const int64_t p = at.data<int64_t>()[i];
    DROPIN_CHECK(p >= -1 && p < length, IndexError, who, ": positions hold ", p,
                 ", expected -1 (unused) to ", length - 1);
    if (p >= 0) rows.push_back(i / k * length + p);
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return tensor(rows, kInt64).to(x.device());
}
}  // namespace

Tensor HiddenEdit::forward(const Tensor& x, const Tensor& positions) {
  const int64_t d = width();
  DROPIN_CHECK(x.dim() > 0 && x.size(-1) == d, ShapeError, type(), ": x is ", x.sizes(),
               ", expected [*, ", d, "]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, type(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  if (!positions.defined()) return edit(x);
  const Tensor rows = edited_rows(type(), x, positions);
  if (rows.numel() == 0) return x;
  const Tensor all = x.reshape({-1, d}), fresh = edit(index_select(all, 0, rows));
  return scatter(all, 0, rows.unsqueeze(1).expand({rows.size(0), d}).contiguous(), fresh)
      .reshape(x.sizes());
}

NamedTensors HiddenEdit::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get("x", type()), in.find("positions"))}};
}

void detail::check_activation(std::string_view who, const char* option, const std::string& name) {
  for (const char* known : {"linear", "relu", "gelu", "silu", "tanh"})
    if (name == known) return;
  fail<OptionError>(
      {who, ": ", option, " is \"", name, "\", expected linear, relu, gelu, silu or tanh"});
}
Tensor detail::activated(std::string_view who, const std::string& name, const Tensor& x) {
  if (name == "relu") return relu(x);
  if (name == "gelu") return gelu(x);
  if (name == "silu") return silu(x);
  if (name == "tanh") return tanh(x);
  check_activation(who, "activation", name);
  return x;
}
void detail::check_dropout(std::string_view who, double p) {
  DROPIN_CHECK(p >= 0 && p < 1, OptionError, who, ": dropout is ", p,
               ", expected 0 <= dropout < 1");
}

Adapter::Adapter(const AdapterOptions& o) : Component(o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.bottleneck >= 0, OptionError, who(), ": embed_dim ",
               o.embed_dim, " must be positive and bottleneck ", o.bottleneck, " not negative");
  detail::check_activation(who(), "activation", o.activation);
  detail::check_dropout(who(), o.dropout);
  const int64_t middle = o.bottleneck ? o.bottleneck : std::max<int64_t>(1, o.embed_dim / 8);
  down_ = child<Linear>("down", {.in_features = o.embed_dim, .out_features = middle});
  up_ = child<Linear>("up", {.in_features = middle, .out_features = o.embed_dim});
  no_grad guard;
  up_.as()->weight().zero_();
  up_.as()->bias().zero_();
}

Tensor Adapter::edit(const Tensor& x) {
  const Tensor h = down_(dropout(x, options_.dropout, is_training()));
  return x + up_(detail::activated(who(), options_.activation, h));
}

}  // namespace dropin
