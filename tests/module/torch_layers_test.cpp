// Layers against torch 2.15: results, gradients and buffers from values of a pattern.
#include "dropin/dropin.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;

/// The values that torch_layers.py uses.
Tensor pattern(const Shape& sizes, int64_t seed) {
  std::vector<double> v;
  for (int64_t i = 0; i < sizes.numel(); ++i)
    v.push_back(static_cast<double>((i * 37 + seed * 101 + (i * i % 17) * 13) % 97) / 97 - 0.5);
  return tensor(v, sizes, kFloat64);
}

struct LayerCase {
  const char *component, *options;
  int steps;
  bool eval_after;
  std::vector<std::pair<std::string, Shape>> state;
  std::vector<Shape> inputs;
  Shape y_sizes;
  std::vector<double> y, x_gradient;
  std::vector<double> slopes;  ///< of each parameter along a pattern
  std::vector<std::vector<double>> buffers;
};
struct PackedCase {
  const char* component;
  bool with_state;
  std::vector<double> y, h_n, c_n, x_gradient;
};
#include "torch_layers.inc"

constexpr double kClose = 2e-9;

/// The layer's names of its main inputs: x, or those of a decoder.
Tensor called(Module& m, const Tensors& in) {
  return in.size() == 1 ? m.call({{"x", in[0]}}).get("y", m.type())
                        : m.call({{"tgt", in[0]}, {"memory", in[1]}}).get("y", m.type());
}

TEST(TorchLayers, GiveTorchsResultsAndGradients) {
  for (const LayerCase& c : kLayerCases) {
    SCOPED_TRACE(std::string(c.component) + c.options);
    Box<Module> m = make(c.component, Json::parse(c.options));
    m->to(kFloat64);
    StateDict state;
    int64_t seed = 0;
    for (const auto& [name, sizes] : c.state) state.set(name, pattern(sizes, ++seed));
    m->load_state_dict(state, false);
    Tensors in;
    for (const Shape& s : c.inputs)
      in.push_back(pattern(s, 100 + static_cast<int64_t>(in.size())).requires_grad_());
    Tensor y;
    for (int i = 0; i < c.steps; ++i) y = called(*m, in);
    if (c.eval_after) {
      m->eval();
      y = called(*m, in);
    }
    ASSERT_EQ(y.sizes(), c.y_sizes);
    expect_values(y.detach(), c.y, kClose);
    sum(y * pattern(y.sizes(), 200)).backward();
    expect_values(in[0].grad(), c.x_gradient, kClose);
    const StateDict mine = m->state_dict();
    for (std::size_t i = 0; i < c.state.size(); ++i) {
      if (!mine.contains(c.state[i].first)) continue;  // torch packs it otherwise
      const Tensor g = m->get_parameter(c.state[i].first).grad();
      EXPECT_NEAR(sum(g * pattern(g.sizes(), 300 + static_cast<int64_t>(i))).item(), c.slopes[i],
                  1e-8)
          << c.state[i].first;
    }
    const auto buffers = m->named_buffers();
    ASSERT_EQ(buffers.size(), c.buffers.size());
    for (std::size_t i = 0; i < buffers.size(); ++i)
      expect_values(buffers[i].second, c.buffers[i], kClose);
  }
}

Box<Module> recurrent(const char* name) {
  Box<Module> m = make(name, Json::parse(R"({"input_size": 3, "hidden_size": 2, "num_layers": 2,
                                             "bidirectional": true})"));
  m->to(kFloat64);
  no_grad guard;
  int64_t seed = 0;
  for (Tensor& p : m->parameters()) p.copy_(pattern(p.sizes(), ++seed));
  return m;
}

TEST(TorchLayers, RecurrentLayersTakePackedLengthsAndStates) {
  for (const PackedCase& c : kPackedCases) {
    SCOPED_TRACE(c.component);
    Box<Module> m = recurrent(c.component);
    auto& layer = dynamic_cast<detail::RecurrentLayer&>(*m);
    const Tensor x = pattern({3, 4, 3}, 100).requires_grad_(),
                 lengths = tensor(std::vector<int64_t>{2, 4, 1});
    RecurrentArgs args{.lengths = lengths};
    if (c.with_state) args.h_0 = pattern({4, 3, 2}, 101);
    if (c.with_state && !c.c_n.empty()) args.c_0 = pattern({4, 3, 2}, 102);
    const RecurrentResult r = layer.unroll(x, args);
    expect_values(r.y.detach(), c.y, kClose);
    expect_values(r.h_n.detach(), c.h_n, kClose);
    EXPECT_EQ(r.c_n.defined(), !c.c_n.empty());
    if (r.c_n.defined()) expect_values(r.c_n.detach(), c.c_n, kClose);
    sum(r.y * pattern(r.y.sizes(), 200)).backward();
    expect_values(x.grad(), c.x_gradient, kClose);
    args.lengths = {};
    args.key_padding_mask = padding_of_lengths(lengths, 4);
    EXPECT_TRUE(layer.unroll(x, args).y.equal(r.y)) << "lengths are a padding mask";
  }
}

TEST(TorchLayers, RecurrentLayersAnswerBadArgumentsInWords) {
  LSTM m({.input_size = 3, .hidden_size = 2, .bidirectional = true});
  const Tensor x = zeros({2, 4, 3});
  EXPECT_ERROR(m.init_state(2, 4), OptionError, "needs bidirectional = false");
  EXPECT_FALSE(m.causal());
  EXPECT_ERROR(m.unroll(x, {.h_0 = zeros({1, 2, 2})}), ShapeError,
               "h_0 is [1, 2, 2], expected [2, 2, 2]");
  EXPECT_ERROR(m.unroll(x, {.lengths = tensor(std::vector<int64_t>{5, 1})}), OptionError,
               "a length is 5, expected 0 to 4");
  EXPECT_ERROR(m.unroll(x, {.lengths = tensor(std::vector<int64_t>{1})}), ShapeError,
               "lengths is [1], expected [2]");
  EXPECT_ERROR(GRU({.input_size = 3, .hidden_size = 2}).unroll(x, {.c_0 = zeros({1, 2, 2})}),
               ShapeError, "c_0 is [1, 2, 2], expected none");
  EXPECT_ERROR(LSTM({.input_size = 3, .hidden_size = 2, .dropout = 2}), OptionError,
               "dropout is 2");
}

TEST(TorchLayers, DropoutStandsBetweenRecurrentLayers) {
  LSTM m({.input_size = 3, .hidden_size = 2, .num_layers = 2, .dropout = 0.5});
  const Tensor x = ones({2, 5, 3});
  EXPECT_GT(testing::max_difference(m(x), m(x)), 0);
  m.eval();
  EXPECT_EQ(testing::max_difference(m(x), m(x)), 0);
}

TEST(TorchLayers, DecoderKeepsCausesAndPaddingApart) {
  TransformerDecoderLayer m({.embed_dim = 8, .num_heads = 2, .hidden_dim = 16, .dropout = 0});
  const Tensor tgt = testing::random({2, 4, 8}, kFloat32, 1),
               memory = testing::random({2, 3, 8}, kFloat32, 2);
  Tensor later = tgt.clone(), other = memory.clone();
  later.narrow(1, 3, 1).fill_(5);
  const DecoderArgs causal{.tgt_is_causal = true};
  EXPECT_EQ(testing::max_difference(m(tgt, memory, causal).narrow(1, 0, 3),
                                    m(later, memory, causal).narrow(1, 0, 3)),
            0);
  EXPECT_GT(
      testing::max_difference(m(tgt, memory).narrow(1, 0, 3), m(later, memory).narrow(1, 0, 3)),
      1e-3);
  const Tensor forbidden = triu(ones({4, 4}, kUInt8), 1).to(kBool);
  EXPECT_EQ(
      testing::max_difference(m(tgt, memory, causal), m(tgt, memory, {.tgt_mask = forbidden})), 0);
  other.narrow(1, 2, 1).fill_(7);
  const Tensor padding = tensor(std::vector<bool>{0, 0, 1, 0, 0, 1}, {2, 3});
  EXPECT_EQ(testing::max_difference(m(tgt, memory, {.memory_key_padding_mask = padding}),
                                    m(tgt, other, {.memory_key_padding_mask = padding})),
            0);
  EXPECT_ERROR(m(tgt, zeros({1, 3, 8})), ShapeError, "memory is [1, 3, 8], expected [2, S, 8]");
}

TEST(TorchLayers, BadOptionsAndInputsAreAnsweredInWords) {
  EXPECT_ERROR(interpolate(zeros({1, 1, 2, 2}), {.size = {3, 3}, .mode = "cubic"}), OptionError,
               "mode is \"cubic\"");
  EXPECT_ERROR(interpolate(zeros({1, 1, 2}), {.size = {3}, .mode = "bilinear"}), ShapeError,
               "expected [B, C, H, W] for mode bilinear");
  EXPECT_ERROR(interpolate(zeros({1, 1, 2}), {}), OptionError,
               "expected one of size and scale_factor");
  EXPECT_ERROR(interpolate(zeros({1, 1, 2}), {.size = {1, 2}}), OptionError, "2 numbers");
  EXPECT_ERROR(interpolate(zeros({1, 1, 2}), {.scale_factor = {0.1}}), ShapeError,
               "2 cells would become 0");
  EXPECT_ERROR(interpolate(zeros({1, 1, 2}), {.size = {3}, .align_corners = true}), OptionError,
               "align_corners");
  EXPECT_ERROR(make("Upsample"), OptionError, "expected one of size and scale_factor");
  const ConvTranspose2dOptions o{
      .in_channels = 2, .out_channels = 2, .kernel_size = 3, .output_padding = 1};
  EXPECT_ERROR(ConvTranspose2d{o}, OptionError,
               "output_padding 1 is not below stride 1 or dilation 1");
  ConvTranspose2d m({.in_channels = 2, .out_channels = 2, .kernel_size = 1, .padding = 1});
  EXPECT_ERROR(m(zeros({1, 3, 2, 2})), ShapeError, "expected [B, 2, H, W]");
  EXPECT_ERROR(m(zeros({1, 2, 2, 2})), ShapeError, "would be empty");
  EXPECT_ERROR(conv_transpose2d(zeros({1, 2, 2, 2}), zeros({3, 1, 1, 1})), ShapeError,
               "expected [2, O / groups");
  EXPECT_ERROR(PReLU({.num_parameters = 3})(zeros({2, 2})), ShapeError, "prelu: weight is [3]");
  InstanceNorm1d norm({.num_features = 2});
  EXPECT_ERROR(norm(zeros({2, 2, 1})), ShapeError, "more than 1 value per channel of a sample");
  EXPECT_ERROR(norm(zeros({2, 2})), ShapeError, "expected [B, 2, L]");
  BatchNorm1d rows({.num_features = 2});
  EXPECT_ERROR(rows(zeros({1, 2})), ShapeError, "more than 1 value per channel when training");
  EXPECT_ERROR(rows(zeros({2, 2, 2, 2})), ShapeError, "expected [B, 2] or [B, C, L]");
}

}  // namespace
}  // namespace dropin
