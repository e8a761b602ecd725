// What step() is told: wrong steps, positions, global tokens.
#include "dropin/sequence/longformer_attention.h"
#include "sequence/mixers.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;
using testing::random;

TEST_P(States, WrongStepsAreRefusedInWordsAndChangeNothing) {
  Box<SequenceState> s = state(2), want = state(2);
  const Tensor x = tokens(2, 4);
  EXPECT_ERROR(step(tokens(3, 4), *s), ShapeError, "x_t has batch 3, the state 2");
  EXPECT_ERROR(step(zeros({2, 4, 7}), *s), ShapeError, "x_t is [2, 4, 7], expected [B, n, 8]");
  EXPECT_ERROR(step(zeros({2, 4, 8}, kInt64), *s), DTypeError, "x_t is int64");
  EXPECT_ERROR(step(x, *s, {.key_padding_mask = zeros({2, 4})}), DTypeError,
               "key_padding_mask is float32, expected bool");
  EXPECT_ERROR(step(x, *s, {.key_padding_mask = zeros({2, 3}, kBool)}), ShapeError,
               "key_padding_mask is [2, 3]");
  EXPECT_ERROR(mixer().init_state(2, 8, {.keep = -1}), OptionError, "keep is -1");
  struct Other : SequenceState {
    Other() : SequenceState(2) {}
  } other;
  EXPECT_ERROR(step(x, other), StateError, "step() was given the state of another layer type");
  EXPECT_ERROR(other.clone(), StateError, "cannot be copied");
  const Tensor at = zeros({2, 4}, {kInt64, device()});
  if (GetParam().positions) {
    EXPECT_ERROR(step(x, *s, {.positions = zeros({2, 4})}), DTypeError, "positions are float32");
    EXPECT_ERROR(step(x, *s, {.positions = zeros({4}, kInt64)}), ShapeError, "positions are [4]");
  } else {
    EXPECT_ERROR(step(x, *s, {.positions = at}), OptionError,
                 "positions is not supported: nothing here depends on positions");
  }
  if (GetParam().name == "LongformerAttention") {
    EXPECT_ERROR(step(x, *s, {.global_attention_mask = ones({2, 4}, kBool)}), StateError,
                 "the state was made without");
  } else {
    EXPECT_ERROR(step(x, *s, {.global_attention_mask = zeros({2, 4}, kBool)}), OptionError,
                 "global_attention_mask is not supported");
    EXPECT_ERROR(mixer().init_state(2, 8, {.global_tokens = true}), OptionError,
                 "global_tokens is not supported");
  }
  EXPECT_EQ(s->length(), 0);
  EXPECT_EQ(max_difference(step(x, *s), step(x, *want)), 0);
}

TEST_P(States, PositionsAreUsed) {
  if (!GetParam().positions) GTEST_SKIP() << "refused, see above";
  const Tensor x = tokens(2, 12), pad = mask_of({{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
                                                 {1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}});
  auto run = [&](const std::vector<double>& first, const std::vector<double>& second) {
    Box<SequenceState> s = state(2);
    std::vector<double> all = first;
    all.insert(all.end(), second.begin(), second.end());
    const Tensor at = tensor(all, {2, 12}, kInt64).to(device());
    Tensors out;
    for (const int64_t t : {0, 5, 6, 7})
      out.push_back(step(x.narrow(1, t, t ? (t == 7 ? 5 : 1) : 5), *s,
                         {.key_padding_mask = pad.narrow(1, t, t ? (t == 7 ? 5 : 1) : 5),
                          .positions = at.narrow(1, t, t ? (t == 7 ? 5 : 1) : 5)}));
    return concat(out, 1);
  };
  const std::vector<double> counted{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
      real{0, 0, 0, 0, 1, 0, 2, 3, 4, 5, 6, 7}, gap{0, 1, 2, 3, 4, 5, 20, 21, 22, 23, 24, 25},
      far{9, 9, 9, 100, 101, 9, 102, 103, 104, 105, 106, 107};
  Box<SequenceState> s = state(2);
  const Tensor want = step(x, *s, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(run(counted, real), want), kTolerance) << "as step() counts itself";
  const Tensor moved = run(counted, far);  // rotary positions and ALiBi are relative
  EXPECT_LT(max_difference(moved, want), 1e-8);
  EXPECT_GT(max_difference(run(gap, real)[0], want[0]), 1e-6) << "a gap changes distances";
}

// Global tokens in rows of different length: each row as alone, also chosen and taken back.
TEST(StatesOfLongformer, GlobalTokensBelongToTheirRow) {
  no_grad guard;
  manual_seed(3);
  LongformerAttention m(
      {.embed_dim = 8, .num_heads = 2, .window = 2, .causal = true, .rope = "half"});
  m.to(kFloat64);
  m.to(device());
  std::uint64_t seed = 10;
  for (auto& [name, p] : m.named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed), 0.3);
  const Tensor x = tokens(3, 14), wrong = tokens(3, 3, 8);
  Tensor pad = zeros({3, 14}, kBool), global = zeros({3, 14}, kBool);
  const int64_t left[] = {0, 4, 9};
  for (int64_t b = 0; b < 3; ++b) {
    pad[b].narrow(0, 0, left[b]).fill_(1);
    global[b].narrow(0, 3, 1).fill_(1);  // padding wins
    global[b].narrow(0, 10, 2).fill_(1);
  }
  pad = pad.to(device());
  global = global.to(device());
  auto args = [&](int64_t from, int64_t n) {
    return StepArgs{.key_padding_mask = pad.narrow(1, from, n),
                    .global_attention_mask = global.narrow(1, from, n)};
  };
  Box<SequenceState> s = m.init_state(3, 20, {.global_tokens = true});
  Tensors out{m.step(x.narrow(1, 0, 6), *s, args(0, 6))};
  m.step(wrong, *s, {.global_attention_mask = ones({3, 3}, {kBool, device()})});
  s->rollback(3);
  out.push_back(m.step(x.narrow(1, 6, 8), *s, args(6, 8)));
  const Tensor y = concat(out, 1), more = tokens(2, 4, 9);
  const Tensor after = m.step(more, *s->select({2, 1}));
  for (int64_t b = 0; b < 3; ++b) {
    Box<SequenceState> alone = m.init_state(1, 20, {.global_tokens = true});
    auto row = [&](const Tensor& t) { return t.narrow(0, b, 1).narrow(1, left[b], 14 - left[b]); };
    EXPECT_LT(
        max_difference(m.step(row(x), *alone, {.global_attention_mask = row(global)}), row(y)),
        kTolerance)
        << "row " << b;
    if (b == 0) continue;
    EXPECT_LT(max_difference(m.step(more.narrow(0, 2 - b, 1), *alone), after.narrow(0, 2 - b, 1)),
              kTolerance)
        << "row " << b << " chosen";
  }
}

}  // namespace
}  // namespace dropin
