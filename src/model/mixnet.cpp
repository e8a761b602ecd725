#include "dropin/model/mixnet.h"

#include <cmath>

#include "dropin/module/state_names.h"

namespace dropin {

namespace {

Tensor activate(const std::string& act, const Tensor& x) {
  return act == "relu" ? relu(x) : silu(x);
}
void check_act(std::string_view who, const std::string& act) {
  DROPIN_CHECK(act == "relu" || act == "swish", OptionError, who, ": act is \"", act,
               "\", expected relu or swish");
}

}  // namespace

SqueezeExcite::SqueezeExcite(const SqueezeExciteOptions& o) : Component(o) {
  check_act(who(), o.act);
  auto conv = [&](const char* name, int64_t in, int64_t out) {
    Child<Conv2d> c =
        child<Conv2d>(name, {.in_channels = in, .out_channels = out, .kernel_size = 1});
    no_grad guard;
    c->parameters()[0].normal_(0, std::sqrt(2 / static_cast<double>(out)));
    c->parameters()[1].zero_();
    return c;
  };
  conv_reduce_ = conv("conv_reduce", o.channels, o.reduced);
  conv_expand_ = conv("conv_expand", o.reduced, o.channels);
}

Tensor SqueezeExcite::forward(const Tensor& x) {
  return x * sigmoid(conv_expand_(activate(options_.act, conv_reduce_(mean(x, {2, 3}, true)))));
}

std::vector<std::string> MixNetBlock::examples() {
  return {
      R"({"expand_ratio": 2, "expand_kernel_size": [1, 1], "dw_kernel_size": [3, 5, 7], "project_kernel_size": [1, 1], "se_ratio": 0.5, "act": "swish", "padding": "same"})",
      R"({"expand_ratio": 3, "dw_kernel_size": [3, 5], "stride": 2, "se_ratio": 0.25, "padding": "symmetric"})"};
}

MixNetBlock::MixNetBlock(const MixNetBlockOptions& o) : Component(o) {
  DROPIN_CHECK(o.in_channels > 0 && o.out_channels > 0 && o.expand_ratio > 0, OptionError, who(),
               ": in_channels ", o.in_channels, ", out_channels ", o.out_channels,
               " and expand_ratio ", o.expand_ratio, " must be positive");
  DROPIN_CHECK(o.se_ratio >= 0, OptionError, who(), ": se_ratio is ", o.se_ratio,
               ", expected 0 (none) or more");
  check_act(who(), o.act);
  const int64_t inner = o.in_channels * o.expand_ratio;
  auto norm = [&](const char* name, int64_t c) {
    return child<BatchNorm2d>(name,
                              {.num_features = c, .eps = o.bn_eps, .momentum = o.bn_momentum});
  };
  if (o.expand_ratio != 1) {
    conv_pw_ = child<MixConv2d>("conv_pw", {.in_channels = o.in_channels,
                                            .out_channels = inner,
                                            .kernel_size = o.expand_kernel_size,
                                            .padding = o.padding,
                                            .depthwise = false});
    bn1_ = norm("bn1", inner);
  }
  conv_dw_ = child<MixConv2d>("conv_dw", {.in_channels = inner,
                                          .kernel_size = o.dw_kernel_size,
                                          .stride = o.stride,
                                          .padding = o.padding});
  bn2_ = norm("bn2", inner);
  if (o.se_ratio > 0)
    se_ = child<SqueezeExcite>(
        "se", {.channels = inner,
               .reduced = std::max<int64_t>(
                   1, static_cast<int64_t>(static_cast<double>(o.in_channels) * o.se_ratio)),
               .act = o.act});
  conv_pwl_ = child<MixConv2d>("conv_pwl", {.in_channels = inner,
                                            .out_channels = o.out_channels,
                                            .kernel_size = o.project_kernel_size,
                                            .padding = o.padding,
                                            .depthwise = false});
  bn3_ = norm("bn3", o.out_channels);
}

Tensor MixNetBlock::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == o.in_channels, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, ", o.in_channels, ", H, W]");
  Tensor h = conv_pw_ ? activate(o.act, bn1_(conv_pw_(x))) : x;
  h = activate(o.act, bn2_(conv_dw_(h)));
  if (se_) h = se_(h);
  const Tensor y = bn3_(conv_pwl_(h));
  return o.stride == 1 && o.in_channels == o.out_channels && !o.noskip ? y + x : y;
}

void MixNetBlock::translate_state(StateDict& state, const std::string& prefix,
                                  std::vector<std::string>& renamed) const {
  if (options_.expand_ratio != 1) return;
  // conv_dw, bn1, conv_pw, bn2 -> conv_dw, bn2, conv_pwl, bn3; last ones first
  std::vector<std::string> names;
  for (const auto& [name, t] : state) names.push_back(name);
  auto is = [&](const std::string& name, const char* part) {
    return name.rfind(prefix + part + ".", 0) == 0;
  };
  bool port = false;
  for (const std::string& n : names) port = port || is(n, "bn1");
  if (!port) return;
  const char* moves[][2] = {{"conv_pw", "conv_pwl"}, {"bn2", "bn3"}, {"bn1", "bn2"}};
  for (const auto& [from, to] : moves)
    for (const std::string& n : names)
      if (is(n, from))
        detail::rename_state(state, n,
                             prefix + to + n.substr(prefix.size() + std::string_view(from).size()),
                             renamed);
}

namespace {

struct Row {
  int64_t repeats, stage;
  std::vector<int64_t> dw;
  int64_t expand_groups, project_groups, stride, expand, in, out;
  double se;
};
// Figure 5 of the paper; relu in the first stages, swish once there is squeeze and excitation.
const std::vector<Row> kSmall = {{1, 0, {3}, 1, 1, 1, 1, 16, 16, 0},
                                 {1, 1, {3}, 2, 2, 2, 6, 16, 24, 0},
                                 {1, 1, {3}, 2, 2, 1, 3, 24, 24, 0},
                                 {1, 2, {3, 5, 7}, 1, 1, 2, 6, 24, 40, .5},
                                 {3, 2, {3, 5}, 2, 2, 1, 6, 40, 40, .5},
                                 {1, 3, {3, 5, 7}, 1, 2, 2, 6, 40, 80, .25},
                                 {2, 3, {3, 5}, 1, 2, 1, 6, 80, 80, .25},
                                 {1, 4, {3, 5, 7}, 2, 2, 1, 6, 80, 120, .5},
                                 {2, 4, {3, 5, 7, 9}, 2, 2, 1, 3, 120, 120, .5},
                                 {1, 5, {3, 5, 7, 9, 11}, 1, 1, 2, 6, 120, 200, .5},
                                 {2, 5, {3, 5, 7, 9}, 1, 2, 1, 6, 200, 200, .5}};
const std::vector<Row> kMedium = {{1, 0, {3}, 1, 1, 1, 1, 24, 24, 0},
                                  {1, 1, {3, 5, 7}, 2, 2, 2, 6, 24, 32, 0},
                                  {1, 1, {3}, 2, 2, 1, 3, 32, 32, 0},
                                  {1, 2, {3, 5, 7, 9}, 1, 1, 2, 6, 32, 40, .5},
                                  {3, 2, {3, 5}, 2, 2, 1, 6, 40, 40, .5},
                                  {1, 3, {3, 5, 7}, 1, 1, 2, 6, 40, 80, .25},
                                  {3, 3, {3, 5, 7, 9}, 2, 2, 1, 6, 80, 80, .25},
                                  {1, 4, {3}, 1, 1, 1, 6, 80, 120, .5},
                                  {3, 4, {3, 5, 7, 9}, 2, 2, 1, 3, 120, 120, .5},
                                  {1, 5, {3, 5, 7, 9}, 1, 1, 2, 6, 120, 200, .5},
                                  {3, 5, {3, 5, 7, 9}, 1, 2, 1, 6, 200, 200, .5}};

}  // namespace

MixNet::MixNet(const MixNetOptions& o) : Component(o) {
  DROPIN_CHECK(o.variant == "s" || o.variant == "m" || o.variant == "l", OptionError, who(),
               ": variant is \"", o.variant, "\", expected s, m or l");
  DROPIN_CHECK(o.num_classes > 0 && o.in_channels > 0, OptionError, who(), ": num_classes ",
               o.num_classes, " and in_channels ", o.in_channels, " must be positive");
  DROPIN_CHECK(o.width_multiplier >= 0, OptionError, who(), ": width_multiplier is ",
               o.width_multiplier, ", expected 0 (the variant's) or a positive factor");
  dropout_ = o.dropout.value_or(o.variant == "s" ? 0.2 : 0.25);
  DROPIN_CHECK(dropout_ >= 0 && dropout_ < 1, OptionError, who(), ": dropout is ", dropout_,
               ", expected 0 to below 1");
  const double factor = o.width_multiplier > 0 ? o.width_multiplier : o.variant == "l" ? 1.3 : 1;
  auto width = [&](int64_t c) -> int64_t {
    if (factor == 1) return c;
    const double want = static_cast<double>(c) * factor;
    const int64_t r = std::max<int64_t>(8, static_cast<int64_t>(want + 4) / 8 * 8);
    return static_cast<double>(r) < 0.9 * want ? r + 8 : r;
  };
  auto ones_of = [](int64_t n) { return std::vector<int64_t>(static_cast<std::size_t>(n), 1); };
  const std::vector<Row>& rows = o.variant == "s" ? kSmall : kMedium;
  auto conv = [&](const char* name, int64_t in, int64_t out, int64_t kernel, int64_t stride) {
    return child<MixConv2d>(name, {.in_channels = in,
                                   .out_channels = out,
                                   .kernel_size = kernel,
                                   .stride = stride,
                                   .depthwise = false});
  };
  const int64_t stem = width(rows[0].in), last = width(rows.back().out), head = 1536;
  conv_stem_ = conv("conv_stem", o.in_channels, stem, 3, 2);
  bn1_ = child<BatchNorm2d>("bn1", {.num_features = stem, .eps = 1e-3, .momentum = 0.01});
  stages_ = child<Sequential>("blocks");
  int64_t at = -1;
  for (const Row& r : rows) {
    if (r.stage != at) {
      at = r.stage;
      stages_->add(Box<Module>(new Sequential));
    }
    auto& list = static_cast<Sequential&>(*stages_->children().back().second);
    for (int64_t i = 0; i < r.repeats; ++i)
      list.add(Box<Module>(new MixNetBlock({.in_channels = width(i ? r.out : r.in),
                                            .out_channels = width(r.out),
                                            .expand_ratio = r.expand,
                                            .expand_kernel_size = ones_of(r.expand_groups),
                                            .dw_kernel_size = r.dw,
                                            .project_kernel_size = ones_of(r.project_groups),
                                            .stride = i ? 1 : r.stride,
                                            .se_ratio = r.se,
                                            .act = r.stage < 2 ? "relu" : "swish"})));
  }
  conv_head_ = conv("conv_head", last, head, 1, 1);
  bn2_ = child<BatchNorm2d>("bn2", {.num_features = head, .eps = 1e-3, .momentum = 0.01});
  classifier_ = child<Linear>("classifier", {.in_features = head, .out_features = o.num_classes});
  no_grad guard;
  classifier_->parameters()[0].copy_(init::default_uniform({o.num_classes, head}, o.num_classes));
  classifier_->parameters()[1].zero_();
}

Tensor MixNet::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", options_.in_channels, ", H, W]");
  Tensor h = (*stages_)(relu(bn1_(conv_stem_(x))));
  h = mean(relu(bn2_(conv_head_(h))), {2, 3});
  return classifier_(dropout(h, dropout_, is_training()));
}

}  // namespace dropin
