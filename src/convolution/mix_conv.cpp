#include "dropin/convolution/mix_conv.h"

#include <cmath>

#include "dropin/module/state_names.h"

namespace dropin {

namespace {
// Weight and bias of one group, as a child so that their names are <i>.weight and <i>.bias.
struct GroupParameters : Module {
  GroupParameters(Tensor w, Tensor b)
      : weight(&parameter("weight", std::move(w))), bias(&parameter("bias", std::move(b))) {}
  Tensor *weight, *bias;
};
}  // namespace

std::vector<std::string> MixConv2d::examples() {
  return {
      R"({"in_channels": 4, "kernel_size": [3, 5, 7], "stride": 2})",
      R"({"in_channels": 4, "kernel_size": [1, 4], "bias": true, "partition": "exponential"})",
      R"({"in_channels": 4, "kernel_size": [3, 5, 9], "dilated": true, "padding": "symmetric"})",
      R"({"in_channels": 4, "out_channels": 6, "kernel_size": [1, 3], "depthwise": false, "bias": true})"};
}

std::vector<int64_t> MixConv2d::split(std::string_view who, int64_t channels, int64_t groups,
                                      std::string_view partition) {
  std::vector<int64_t> r;
  int64_t used = 0;
  for (int64_t i = 0; i < groups; ++i) {
    const int64_t halvings = std::min<int64_t>(i < groups - 1 ? i + 1 : i, 62);
    r.push_back(partition == "equal" ? channels / groups : channels >> halvings);
    used += r.back();
  }
  r[0] += channels - used;
  for (const int64_t c : r)
    DROPIN_CHECK(c > 0, OptionError, who, ": kernel_size has ", groups, " entries, too many for ",
                 channels, " channels with partition \"", partition, "\": a group would be empty");
  return r;
}

MixConv2d::MixConv2d(const MixConv2dOptions& o) : Component(o) {
  const int64_t out = o.out_channels.value_or(o.in_channels),
                n = static_cast<int64_t>(o.kernel_size.values.size());
  DROPIN_CHECK(o.in_channels > 0 && out > 0, OptionError, who(), ": in_channels ", o.in_channels,
               " and out_channels ", out, " must be positive");
  DROPIN_CHECK(n > 0, OptionError, who(),
               ": kernel_size is empty, expected a size or a list of sizes");
  DROPIN_CHECK(o.stride > 0, OptionError, who(), ": stride is ", o.stride,
               ", expected a positive number");
  DROPIN_CHECK(o.padding == "same" || o.padding == "symmetric", OptionError, who(),
               ": padding is \"", o.padding, "\", expected same or symmetric");
  DROPIN_CHECK(o.partition == "equal" || o.partition == "exponential", OptionError, who(),
               ": partition is \"", o.partition, "\", expected equal or exponential");
  DROPIN_CHECK(!o.depthwise || out == o.in_channels, OptionError, who(), ": out_channels is ", out,
               ", expected in_channels = ", o.in_channels, " because depthwise = true");
  for (const int64_t k : o.kernel_size.values) {
    DROPIN_CHECK(k > 0, OptionError, who(), ": kernel_size holds ", k, ", expected positive sizes");
    DROPIN_CHECK(o.padding == "same" || k % 2 == 1, OptionError, who(), ": kernel_size holds ", k,
                 ", expected odd sizes because padding = \"symmetric\"");
  }
  const auto ins = split(who(), o.in_channels, n, o.partition),
             outs = split(who(), out, n, o.partition);
  for (std::size_t i = 0; i < ins.size(); ++i) {
    Group g{ins[i], outs[i], o.kernel_size.values[i], 1, nullptr, nullptr};
    if (o.dilated && o.stride == 1) {
      g.dilation =
          std::max<int64_t>(1, (g.kernel - 1) / 2);  // a kernel of 1 or 2 becomes an ordinary 3x3
      g.kernel = 3;
    }
    const double fan_out = static_cast<double>(g.kernel * g.kernel * (o.depthwise ? 1 : g.out));
    const Tensor weight = init::normal({g.out, o.depthwise ? 1 : g.in, g.kernel, g.kernel},
                                       std::sqrt(2 / fan_out)),
                 bias = o.bias ? zeros({g.out}) : Tensor();
    if (n == 1) {
      g.weight = &parameter("weight", weight);
      g.bias = &parameter("bias", bias);
    } else {
      const GroupParameters* part = child<GroupParameters>(std::to_string(i), weight, bias).as();
      g.weight = part->weight;
      g.bias = part->bias;
    }
    groups_.push_back(g);
  }
}

Tensor MixConv2d::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == options_.in_channels, ShapeError, who(), ": x is ",
               x.sizes(), ", expected [B, ", options_.in_channels, ", H, W]");
  DROPIN_CHECK(x.size(2) > 0 && x.size(3) > 0, ShapeError, who(), ": x is ", x.sizes(),
               ", expected at least one pixel");
  const int64_t s = options_.stride;
  auto padding = [&](const Group& g, int64_t n) -> Pair {
    const int64_t half = g.dilation * (g.kernel - 1) / 2;
    return options_.padding == "same" ? tf_same_padding(n, g.kernel, s, g.dilation)
                                      : Pair{half, half};
  };
  std::vector<DepthwiseGroup> depthwise;
  Tensors dense;
  int64_t at = 0;
  for (const Group& g : groups_) {
    const Pair rows = padding(g, x.size(2)), columns = padding(g, x.size(3)),
               begin{rows[0], columns[0]}, end{rows[1], columns[1]},
               dilation{g.dilation, g.dilation};
    if (options_.depthwise)
      depthwise.push_back({*g.weight, *g.bias, begin, end, dilation});
    else
      dense.push_back(
          conv2d(x.narrow(1, at, g.in), *g.weight, *g.bias,
                 {.stride = {s, s}, .pad_begin = begin, .pad_end = end, .dilation = dilation}));
    at += g.in;
  }
  if (options_.depthwise) return mixed_depthwise_conv2d(x, depthwise, {s, s});
  return dense.size() == 1 ? dense[0] : concat(dense, 1);
}

Json MixConv2d::options_from(std::string_view component, const Json& old, const Json&) {
  const std::string who_from = "MixConv2d in place of " + std::string(component);
  Json r = Json::object();
  int64_t kernel = 0;
  Conv2dOptions o;
  if (component == "DepthwiseConv2d") {
    const auto d = options_from_json<DepthwiseConv2dOptions>(old, component);
    DROPIN_CHECK(d.multiplier == 1, OptionError, who_from, ": multiplier is ", d.multiplier,
                 ", expected 1");
    o = {.in_channels = d.channels,
         .out_channels = d.channels,
         .kernel_size = d.kernel_size,
         .stride = d.stride,
         .padding = d.padding,
         .dilation = d.dilation,
         .groups = d.channels,
         .bias = d.bias};
  } else if (component == "Conv2d") {
    o = options_from_json<Conv2dOptions>(old, component);
    DROPIN_CHECK(o.groups == 1 || (o.groups == o.in_channels && o.out_channels == o.in_channels),
                 OptionError, who_from, ": groups is ", o.groups,
                 ", expected 1 or one per channel");
  } else {
    return r;
  }
  kernel = o.kernel_size.h;
  DROPIN_CHECK(
      o.kernel_size.h == o.kernel_size.w && o.stride.h == o.stride.w && o.dilation == Size2(1),
      OptionError, who_from,
      ": kernel_size and stride must be the same in both directions, and dilation 1");
  const bool depthwise = o.groups == o.in_channels && o.groups == o.out_channels;
  std::vector<int64_t> kernels{kernel};
  if (depthwise && kernel > 1)
    for (int64_t i = 1; i < std::min<int64_t>(3, o.in_channels); ++i)
      kernels.push_back(kernel + 2 * i);
  if (o.padding.mode.empty()) {
    DROPIN_CHECK(kernel % 2 == 1 && o.padding.size == Size2((kernel - 1) / 2), OptionError,
                 who_from, ": padding is ", o.padding.size.h, ", expected (kernel_size - 1) / 2");
    r.set("padding", "symmetric");
  } else {
    r.set("padding", "same");
  }
  r.set("in_channels", o.in_channels);
  r.set("out_channels", o.out_channels);
  r.set("kernel_size", detail::field_to_json(OneOrMany(kernels)));
  r.set("stride", o.stride.h);
  r.set("depthwise", depthwise);
  r.set("bias", o.bias);
  return r;
}

void MixConv2d::translate_state(StateDict& state, const std::string& prefix,
                                std::vector<std::string>& renamed) const {
  if (groups_.size() != 1) return;
  for (const char* kind : {"weight", "bias"})
    detail::rename_state(state, prefix + "0." + kind, prefix + kind, renamed);
}

}  // namespace dropin
