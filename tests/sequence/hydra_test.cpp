#include "dropin/sequence/hydra.h"

#include "dropin/registry/registry.h"
#include "dropin/sequence/mamba2.h"
#include "kernels/hd.h"
#include "sequence/state_space_blocks.h"
#include "support.h"

namespace dropin {
namespace {

using testing::Block;
using testing::in_double;
using testing::max_difference;
using testing::quasiseparable;
using testing::random;

TEST(HydraMixer, EqualsItsMatrixEntryByEntry) {
  no_grad guard;
  const int64_t l = 10, e = 12, h = 3, p = 4, n = 2, gn = 6;
  auto m = in_double<HydraMixer>(HydraMixerOptions{.d_model = 6,
                                                   .d_state = n,
                                                   .headdim = p,
                                                   .ngroups = 3,
                                                   .dt_limit = Json::parse("[0.02, 0.9]"),
                                                   .bias = true,
                                                   .chunk_size = 4});
  const Tensor x = random({2, l, 6});
  const Block block(*m, x, e, e + 4 * gn);
  const Tensors of = split(silu(block.mixed), Shape{e, gn, gn, gn, gn}, 2);
  auto steps = [&](int64_t from) {
    return clamp(softplus(block.rest.narrow(2, from, h) + block.s.find("dt_bias")), 0.02, 0.9);
  };
  const Tensor dtf = steps(0), dtb = steps(h), a = -exp(block.s.find("A_log")),
               diagonal = block.s.find("D") + linear(of[0], block.s.find("fc_D.weight"));
  Tensor y = zeros({2, l, e}, kFloat64);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t k = 0; k < h; ++k) {
      auto keys = [&](int i) { return of[at(i)][b].narrow(1, k * n, n); };
      auto head = [&](const Tensor& t) { return t[b].select(1, k); };
      y[b].narrow(1, k * p, p)
          .copy_(matmul(quasiseparable(head(dtf), head(dtb), a[k].item(), keys(1), keys(2), keys(3),
                                       keys(4), head(diagonal)),
                        of[0][b].narrow(1, k * p, p)));
    }
  EXPECT_LT(max_difference((*m)(x), block.end(y)), 1e-10);
}

TEST(HydraMixer, PaddedRowsEqualUnpaddedOnes) {
  no_grad guard;
  for (const bool learned : {false, true}) {
    auto m = in_double<HydraMixer>(HydraMixerOptions{.d_model = 6,
                                                     .d_state = 4,
                                                     .headdim = 4,
                                                     .learnable_init_states = learned,
                                                     .bias = true,
                                                     .chunk_size = 4});
    const Tensor x = random({2, 11, 6});
    Tensor pad = zeros({2, 11}, kBool);
    pad[0].narrow(0, 0, 4).fill_(1);
    pad[1].narrow(0, 8, 3).fill_(1);
    const Tensor y = (*m)(x, {.key_padding_mask = pad});
    EXPECT_LT(max_difference(y[0].narrow(0, 4, 7), (*m)(x[0].narrow(0, 4, 7).unsqueeze(0))[0]),
              1e-12);
    EXPECT_LT(max_difference(y[1].narrow(0, 0, 8), (*m)(x[1].narrow(0, 0, 8).unsqueeze(0))[0]),
              1e-12);
    EXPECT_EQ(amax(abs(y[0].narrow(0, 0, 4))).item(), 0);
    EXPECT_EQ(amax(abs(y[1].narrow(0, 8, 3))).item(), 0);
  }
}

TEST(HydraMixer, PaddingAloneGivesZerosAndNoGradient) {
  auto m = in_double<HydraMixer>(HydraMixerOptions{.d_model = 6, .d_state = 4, .headdim = 4});
  Tensor x = full({1, 5, 6}, std::nan(""), kFloat64).requires_grad_();
  const Tensor y = (*m)(x, {.key_padding_mask = ones({1, 5}, kBool)});
  EXPECT_EQ(amax(abs(y)).item(), 0);
  sum(y).backward();
  for (auto& [name, p] : m->named_parameters())
    if (p.grad().defined()) {
      EXPECT_EQ(amax(abs(p.grad())).item(), 0) << name;
    }
}

TEST(HydraMixer, EveryTokenReachesEveryOther) {
  no_grad guard;
  auto m = in_double<HydraMixer>(HydraMixerOptions{.d_model = 6, .d_state = 4, .headdim = 4});
  const Tensor x = random({1, 24, 6});
  Tensor changed = x.clone();
  changed[0][11].fill_(0.3);
  const Tensor moved = amax(abs((*m)(changed) - (*m)(x)), {0, 2});
  EXPECT_GT(amin(moved).item(), 1e-9);
}

TEST(HydraMixer, RefusesWhatDoesNotFitInWords) {
  auto make = [](const char* options) { return dropin::make("HydraMixer", Json::parse(options)); };
  EXPECT_ERROR(make(R"({"d_model": 6, "headdim": 5})"), OptionError,
               "expand d_model = 12 is not divisible by headdim 5");
  EXPECT_ERROR(make(R"({"d_model": 6, "headdim": 4, "ngroups": 2})"), OptionError,
               "3 heads are not divisible by ngroups 2");
  EXPECT_ERROR(make(R"({"d_model": 6, "headdim": 4, "d_conv": 4})"), OptionError, "d_conv is 4");
  for (const char* limit : {"[0.5, 0.1]", "[0]", "3", "[null, 1]", "[-1, 2]"})
    EXPECT_ERROR(
        make((std::string(R"({"d_model": 6, "headdim": 4, "dt_limit": )") + limit + "}").c_str()),
        OptionError, "dt_limit");
  auto m = make(R"({"d_model": 6, "headdim": 4})");
  EXPECT_ERROR(m->call({{"x", zeros({1, 4, 6})}, {"seq_idx", zeros({1, 4}, kInt64)}}), OptionError,
               "seq_idx is not supported");
  EXPECT_ERROR(m->call({{"x", zeros({1, 4, 5})}}), ShapeError, "because d_model = 6");
}

TEST(HydraMixer, ItsGroupsLeaveStatesWithoutDecay) {
  const HydraMixer m({.d_model = 6, .headdim = 4, .learnable_init_states = true});
  const std::vector<ParameterHint> groups = m.param_groups();
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].params.size(), 4u);
  EXPECT_EQ(groups[0].options.find("weight_decay")->as_double(), 0);
  EXPECT_EQ(groups[0].params.size() + groups[1].params.size(), m.parameters().size());
}

// --- Mamba-2

TEST(Mamba2Mixer, EqualsTheRecurrence) {
  no_grad guard;
  const int64_t l = 9, e = 12, h = 3, p = 4, n = 2;
  auto m = in_double<Mamba2Mixer>(
      Mamba2MixerOptions{.d_model = 6, .d_state = n, .headdim = p, .chunk_size = 4});
  const Tensor x = random({1, l, 6});
  const StateDict s = m->state_dict();
  const Tensors of = split(linear(x, s.find("in_proj.weight")), Shape{e, e + 2 * n, h}, 2);
  const Tensor mixed = silu(plain::causal_depthwise_conv(of[1], s.find("conv1d.weight"),
                                                         s.find("conv1d.bias"))),
               dt = softplus(of[2] + s.find("dt_bias"));
  Tensor y = zeros({1, l, e}, kFloat64);
  for (int64_t k = 0; k < h; ++k) {
    Tensor state = zeros({p, n}, kFloat64);
    const double a = -std::exp(s.find("A_log")[k].item());
    for (int64_t t = 0; t < l; ++t) {
      const Tensor row = mixed[0][t], v = row.narrow(0, k * p, p);
      const double step = dt[0][t][k].item();
      state = state * std::exp(a * step) + v.unsqueeze(1) * row.narrow(0, e, n) * step;
      y[0][t]
          .narrow(0, k * p, p)
          .copy_(matmul(state, row.narrow(0, e + n, n)) + v * s.find("D")[k].item());
    }
  }
  const Tensor want =
      linear(rms_norm(y * silu(of[0]), s.find("norm.weight"), 1e-5), s.find("out_proj.weight"));
  EXPECT_LT(max_difference((*m)(x), want), 1e-11);
}

}  // namespace
}  // namespace dropin
