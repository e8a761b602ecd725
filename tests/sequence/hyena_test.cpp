#include <numbers>

#include "dropin/model/transformer.h"
#include "dropin/registry/registry.h"
#include "dropin/sequence/hyena.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(HyenaOperator, EqualsTheFormulasStepByStep) {
  for (const char* layout : {"channel_major", "order_major"}) {
    const int64_t d = 3, n = 4, l = 50;
    HyenaOperator h({.d_model = d,
                     .l_max = 64,
                     .order = n,
                     .filter_order = 8,
                     .emb_dim = 5,
                     .w = 3,
                     .shift = 0.1,
                     .activation = "gelu",
                     .filter_layout = layout});
    const StateDict s = h.state_dict();
    const Tensor x = random({2, l, d}, kFloat32);
    no_grad guard;
    const Tensor u = linear(x, s.find("in_proj.weight"), s.find("in_proj.bias"));
    const Tensor z =
        plain::causal_depthwise_conv(u, s.find("short_filter.weight"), s.find("short_filter.bias"))
            .transpose(1, 2);
    auto* filter = dynamic_cast<HyenaFilter*>(h.children()[3].second);
    ASSERT_NE(filter, nullptr);
    const Tensor taps = filter->filter(l), bias = s.find("filter_fn.bias");
    Tensor v = z.narrow(1, n * d, d);
    for (int64_t o = 0; o < n - 1; ++o) {
      Tensor k = empty({d, l}), skip = empty({d});
      for (int64_t c = 0; c < d; ++c) {
        const int64_t at = std::string(layout) == "order_major" ? o * d + c : c * (n - 1) + o;
        k[c].copy_(taps.select(1, at));
        skip[c].copy_(bias[at]);
      }
      v = plain::fft_conv(v * z.narrow(1, (n - 1 - o) * d, d), k, skip);
    }
    const Tensor want = linear(gelu((v * z.narrow(1, 0, d)).transpose(1, 2)),
                               s.find("out_proj.weight"), s.find("out_proj.bias"));
    EXPECT_LT(max_difference(h(x), want), 2e-5) << layout;
  }
}

TEST(HyenaOperator, StepsEqualForwardHoweverTheTokensCome) {
  for (const int64_t l : {1, 31, 32, 33, 150, 300}) {
    manual_seed(3);
    HyenaOperator h({.d_model = 5,
                     .l_max = 320,
                     .order = 3,
                     .filter_order = 8,
                     .emb_dim = 5,
                     .w = 6,
                     .short_filter_order = 4});
    h.to(kFloat64);
    h.eval();
    const Tensor x = random({2, l, 5}), y = h(x).detach();
    for (const int64_t first : {int64_t{1}, l / 3, l}) {
      if (first < 1) continue;
      for (const int64_t chunk : {1, 7}) {
        auto state = h.init_state(2, l);
        Tensors out{h.step(x.narrow(1, 0, first), *state)};
        for (int64_t t = first; t < l; t += chunk)
          out.push_back(h.step(x.narrow(1, t, std::min(chunk, l - t)), *state));
        EXPECT_LT(max_difference(concat(out, 1), y), 1e-11)
            << "L " << l << " first " << first << " chunk " << chunk;
        EXPECT_ERROR(h.step(x.narrow(1, 0, 1), *state), StateError, "the state is full");
      }
    }
    auto state = h.init_state(2, 320);  // room to spare
    EXPECT_LT(max_difference(h.step(x, *state), y), 1e-11);
  }
  HyenaOperator h({.d_model = 16, .l_max = 700});
  const Tensor x = random({1, 700, 16}, kFloat32), y = h(x).detach();
  auto state = h.init_state(1, 700);
  for (int64_t t = 0; t < 700; ++t)
    ASSERT_LT(max_difference(h.step(x.narrow(1, t, 1), *state), y.narrow(1, t, 1)), 1e-4) << t;
}

TEST(HyenaOperator, PaddingOnTheLeftIsAShift) {
  HyenaOperator h({.d_model = 4, .l_max = 16, .order = 3, .filter_order = 6, .w = 4});
  h.to(kFloat64);
  const Tensor x = random({1, 6, 4}), y = h(x);
  Tensor padded = random({1, 10, 4}, kFloat64, 8);
  padded.narrow(1, 4, 6).copy_(x);
  const Tensor mask = tensor({1, 1, 1, 1, 0, 0, 0, 0, 0, 0}, {1, 10}, kBool);
  EXPECT_LT(max_difference(h.forward(padded, {.key_padding_mask = mask}).narrow(1, 4, 6), y),
            1e-12);
}

TEST(HyenaOperator, TakesThePlaceOfAttention) {
  Transformer m({.vocab_size = 10,
                 .embed_dim = 16,
                 .num_layers = 2,
                 .num_heads = 4,
                 .max_len = 24,
                 .dropout = 0.25});
  const SwapReport r =
      swap(m, "MultiheadAttention", "HyenaOperator", Json::parse(R"({"order": 3})"));
  ASSERT_EQ(r.instances.size(), 2u);
  EXPECT_EQ(r.instances[0].carried, (std::vector<std::string>{"out_proj.weight", "out_proj.bias"}));
  m.apply([](const std::string&, Module& c) {
    auto* h = dynamic_cast<HyenaOperator*>(&c);
    if (!h) return;
    EXPECT_EQ(h->options().d_model, 16);
    EXPECT_EQ(h->options().l_max, 24);
    EXPECT_EQ(h->options().order, 3);
    EXPECT_EQ(h->options().dropout, 0.25);
    EXPECT_TRUE(h->options().bias);
  });
  const Tensor ids = randint(0, 10, {2, 24});
  EXPECT_EQ(m(ids).sizes(), (Shape{2, 24, 10}));
  m.eval();
  auto state = m.init_state(2);
  const Tensor y = m(ids).detach();
  for (int64_t t = 0; t < 24; ++t)
    EXPECT_LT(max_difference(m.step(ids.narrow(1, t, 1), state), y.narrow(1, t, 1)), 1e-4);
  swap(m, "HyenaOperator", "GRU");  // and back to another: d_model is GRU's embed_dim
  EXPECT_EQ(m(ids).sizes(), (Shape{2, 24, 10}));
  HyenaOperator alone({.d_model = 4, .l_max = 8});
  swap(alone, "HyenaFilter", "Conv1d",
       Json::parse(R"({"in_channels": 4, "out_channels": 4, "kernel_size": 3})"));
  EXPECT_ERROR(alone(zeros({1, 8, 4})), StateError, "filter_fn is no HyenaFilter any more");
  Transformer bare({.embed_dim = 16, .num_heads = 4, .max_len = 24});
  EXPECT_ERROR(
      swap(bare, "MultiheadAttention", "HyenaOperator", Json::parse(R"({"num_heads": 4})")),
      OptionError, "num_heads 4");
}

TEST(HyenaOperator, RefusesBadOptionsAndInputs) {
  auto with = [](const char* changes) {
    Json o = Json::parse(R"({"d_model": 4, "l_max": 8})");
    const Json c = Json::parse(changes);
    for (const auto& [k, v] : c.items()) o.set(k, v);
    return make("HyenaOperator", o);
  };
  EXPECT_ERROR(with(R"({"emb_dim": 4})"), OptionError,
               "emb_dim is 4, expected an odd number of at least 3");
  EXPECT_ERROR(with(R"({"emb_dim": 1})"), OptionError, "emb_dim is 1");
  EXPECT_ERROR(with(R"({"order": 1})"), OptionError, "order is 1, expected at least 2");
  EXPECT_ERROR(with(R"({"num_heads": 2})"), OptionError, "num_heads 2");
  EXPECT_ERROR(with(R"({"num_blocks": 2})"), OptionError, "num_blocks 2");
  EXPECT_ERROR(with(R"({"l_max": 0})"), OptionError, "l_max is 0");
  EXPECT_ERROR(with(R"({"d_model": 0})"), OptionError, "d_model is 0");
  EXPECT_ERROR(with(R"({"activation": "relu"})"), OptionError,
               "activation is \"relu\", expected id or gelu");
  EXPECT_ERROR(with(R"({"filter_layout": "x"})"), OptionError, "filter_layout is \"x\"");
  EXPECT_ERROR(with(R"({"dropout": 1})"), OptionError, "dropout is 1");
  EXPECT_ERROR(with(R"({"short_filter_order": 0})"), OptionError, "short_filter_order is 0");
  EXPECT_ERROR(with(R"({"target": 0})"), OptionError, "target is 0");
  EXPECT_ERROR(with(R"({"fast_decay_pct": 0})"), OptionError, "fast_decay_pct");
  HyenaOperator h({.d_model = 4, .l_max = 8});
  EXPECT_ERROR(h(zeros({1, 9, 4})), ShapeError, "x is [1, 9, 4], expected 1 <= L <= l_max = 8");
  EXPECT_ERROR(h(zeros({1, 0, 4})), ShapeError, "expected 1 <= L");
  EXPECT_ERROR(h(zeros({1, 8, 5})), ShapeError,
               "x is [1, 8, 5], expected [B, L, 4] because d_model = 4");
  EXPECT_ERROR(h.forward(zeros({1, 8, 4}), {.attn_mask = zeros({8, 8}, kBool)}), OptionError,
               "attn_mask");
  EXPECT_ERROR(h.init_state(1, 9), OptionError, "max_len is 9, expected at most l_max = 8");
  HyenaFilter f({.d_model = 4, .l_max = 8});
  EXPECT_ERROR(f(zeros({1, 4, 9})), ShapeError, "length 9, expected 1 to l_max = 8");
  EXPECT_ERROR(f(zeros({1, 4, 0})), ShapeError, "length 0");
  EXPECT_ERROR(f(zeros({1, 5, 8})), ShapeError, "x is [1, 5, 8], expected [B, 4, L]");
  EXPECT_ERROR(fft_conv_spectrum(zeros({4, 9}), 8), ShapeError,
               "expected [C, Lk] with 1 <= Lk <= length = 8");
}

TEST(HyenaOperator, DropoutIsOnTheConvolutionsInput) {
  HyenaOperator h({.d_model = 4, .l_max = 40, .order = 3, .dropout = 0.5});
  const Tensor x = random({1, 40, 4}, kFloat32);
  EXPECT_GT(max_difference(h(x).detach(), h(x).detach()), 0);
  h.eval();
  EXPECT_EQ(max_difference(h(x).detach(), h(x).detach()), 0);
}

}  // namespace
}  // namespace dropin
