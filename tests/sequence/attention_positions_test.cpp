// Learned distances and places on a grid: the tiled kernel against the plain definition in float64.
#include "dropin/ops/ops.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

struct Inputs {
  Tensor q, k, v;
  AttentionParams p;
  Tensors leaves() const {
    Tensors all{q, k, v};
    for (const Tensor& t : {p.relative, p.relative_factors, p.relative_values})
      if (t.defined()) all.push_back(t);
    return all;
  }
};

// The same numbers in float32 and float64, all wanting gradients.
std::pair<Inputs, Inputs> twice(const Inputs& from) {
  Inputs narrow = from, wide = from;
  for (Inputs* in : {&narrow, &wide}) {
    const DType type = in == &narrow ? kFloat32 : kFloat64;
    for (Tensor* t :
         {&in->q, &in->k, &in->v, &in->p.relative, &in->p.relative_factors, &in->p.relative_values})
      if (t->defined()) *t = t->detach().to(kFloat32).to(type).detach().requires_grad_();
  }
  return {narrow, wide};
}

void expect_same(const Inputs& from, double tolerance = 4e-6) {
  const auto [narrow, wide] = twice(from);
  ASSERT_TRUE(attention_is_tiled(narrow.q, narrow.k, narrow.v, narrow.p));
  const Tensor got = attention(narrow.q, narrow.k, narrow.v, narrow.p),
               want = plain::attention(wide.q, wide.k, wide.v, wide.p);
  EXPECT_LT(max_difference(got, want), tolerance);
  const Tensor g = random(want.sizes(), kFloat32, 7);
  const Tensors mine = grad({got}, narrow.leaves(), {g}),
                theirs = grad({want}, wide.leaves(), {g.to(kFloat64)});
  for (std::size_t i = 0; i < mine.size(); ++i) {
    const double top = amax(abs(theirs[i])).item();
    EXPECT_LT(max_difference(mine[i], theirs[i]), 10 * tolerance * std::max(1.0, top)) << i;
  }
}

Inputs tokens(int64_t heads, int64_t key_heads, int64_t lq, int64_t lk, int64_t d, int64_t dv) {
  return {random({2, heads, lq, d}, kFloat32, 1),
          random({2, key_heads, lk, d}, kFloat32, 2),
          random({2, key_heads, lk, dv}, kFloat32, 3),
          {}};
}

TEST(AttentionDistances, TablesAreTheDefinition) {
  for (const int64_t length : {1, 5, 63, 64, 65, 150})
    for (const bool causal : {false, true})
      for (const int64_t reach : {1, 4, 80}) {
        SCOPED_TRACE(std::to_string(length) + (causal ? " causal, reach " : ", reach ") +
                     std::to_string(reach));
        Inputs in = tokens(2, 1, length, length, 12, 20);
        in.p.causal = causal;
        in.p.relative_middle = reach - 1;
        const int64_t rows = 2 * reach - 1;
        in.p.relative = random({rows, 12}, kFloat32, 4);
        expect_same(in);
        in.p.relative_of_keys = true;
        in.p.relative_values = random({rows, 20}, kFloat32, 5);
        expect_same(in);
        in.p.relative_factors = random({rows}, kFloat32, 6);
        expect_same(in);
        in.p.relative = {};
        expect_same(in);
      }
}

TEST(AttentionDistances, OffsetsWindowsAndMasks) {
  Inputs in = tokens(4, 2, 70, 140, 16, 16);
  in.p.relative_middle = 40;
  in.p.relative = random({70, 16}, kFloat32, 4);
  in.p.relative_of_keys = true;
  in.p.relative_values = random({70, 16}, kFloat32, 5);
  expect_same(in);
  in.p.causal = true;  // the last query sees the last key
  expect_same(in);
  in.p.window_left = 30;
  in.p.key_padding_mask = (random({2, 140}, kFloat32, 9) > 0.5);
  expect_same(in);
  in.p.attn_mask = random({70, 140}, kFloat32, 8);
  expect_same(in);
  in.p.attn_mask = (random({70, 140}, kFloat32, 9) > -1.3);  // some see nothing
  expect_same(in);
}

TEST(AttentionDistances, FewQueriesWithManyKeys) {
  Inputs in = tokens(2, 2, 3, 200, 16, 16);
  in.p.causal = true;
  in.p.relative_middle = 9;
  in.p.relative = random({19, 16}, kFloat32, 4);
  in.p.relative_values = random({19, 16}, kFloat32, 5);
  expect_same(in);
}

TEST(AttentionDistances, WhatIsMaskedLeaksNowhere) {
  Inputs in = tokens(2, 2, 100, 100, 8, 8);
  in.p.relative_middle = 5;
  in.p.relative = random({11, 8}, kFloat32, 4);
  in.p.relative_of_keys = true;
  in.p.relative_values = random({11, 8}, kFloat32, 5);
  in.p.relative_factors = random({11}, kFloat32, 5);
  in.p.key_padding_mask = zeros({2, 100}, kBool);
  in.p.key_padding_mask.narrow(1, 40, 30).fill_(1);
  Inputs clean = twice(in).first;
  {
    no_grad guard;
    in.k.narrow(2, 40, 30).fill_(std::nan(""));
    in.v.narrow(2, 45, 20).fill_(INFINITY);
  }
  const Inputs dirty = twice(in).first;
  const Tensor want = attention(clean.q, clean.k, clean.v, clean.p),
               got = attention(dirty.q, dirty.k, dirty.v, dirty.p),
               g = random(want.sizes(), kFloat32);
  EXPECT_LT(max_difference(got, want), 1e-5);
  const Tensors a = grad({want}, clean.leaves(), {g}), b = grad({got}, dirty.leaves(), {g});
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_LT(max_difference(a[i], b[i]), 2e-4) << i;
}

TEST(AttentionDistances, SecondDerivatives) {
  Inputs in = tokens(1, 1, 4, 4, 3, 3);
  in.p.relative_middle = 2;
  in.p.relative = random({5, 3}, kFloat32, 4);
  in.p.relative_of_keys = true;
  in.p.relative_values = random({5, 3}, kFloat32, 5);
  const auto [narrow, wide] = twice(in);
  auto second = [](const Tensor& y, const Inputs& of) {
    Tensor total = zeros({}, y.options());
    for (const Tensor& g : grad({sum(square(y))}, of.leaves(), {}, false, true))
      total = total + sum(square(g));
    return grad({total}, of.leaves());
  };
  const Tensors got = second(attention(narrow.q, narrow.k, narrow.v, narrow.p), narrow),
                want = second(plain::attention(wide.q, wide.k, wide.v, wide.p), wide);
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_LT(max_difference(got[i], want[i]), 1e-4 * (1 + amax(abs(want[i])).item())) << i;
}

// Patches of a grid in squares of 4 by 4, and a bias with blocked offsets.
Inputs on_grid(int64_t height, int64_t width, int64_t more) {
  Inputs in = tokens(3, 1, height * width + more, height * width + more, 16, 16);
  Tensor places = empty({height * width, 2}, kInt64);
  int64_t* at = places.data<int64_t>();
  for (int64_t top = 0; top < height; top += 4)
    for (int64_t left = 0; left < width; left += 4)
      for (int64_t y = top; y < std::min(height, top + 4); ++y)
        for (int64_t x = left; x < std::min(width, left + 4); ++x) *at++ = y, *at++ = x;
  Tensor bias = random({3, 2 * height - 1, 2 * width - 1}, kFloat32, 4);
  for (int64_t dy = 1 - height; dy < height; ++dy)
    for (int64_t dx = 1 - width; dx < width; ++dx) {
      if (dy > 0) bias[0][dy + height - 1][dx + width - 1].fill_(-INFINITY);
      if (dx < 0 || std::abs(dy) > dx) bias[1][dy + height - 1][dx + width - 1].fill_(-INFINITY);
    }
  in.p.grid_bias = bias;
  in.p.grid_places = places;
  return in;
}

TEST(AttentionGrid, PlacesAreTheDefinition) {
  for (const auto& [height, width, more] : {std::tuple<int64_t, int64_t, int64_t>{1, 1, 0},
                                            {3, 5, 1},
                                            {8, 8, 0},
                                            {9, 17, 2},
                                            {16, 16, 3},
                                            {24, 20, 0}}) {
    SCOPED_TRACE(std::to_string(height) + " x " + std::to_string(width));
    Inputs in = on_grid(height, width, more);
    expect_same(in);
    in.p.attn_mask = random({1, 3, 1, height * width + more}, kFloat32, 8);
    expect_same(in);
    in.p.key_padding_mask = (random({2, height * width + more}, kFloat32, 9) > 0.5);
    expect_same(in);
  }
}

TEST(AttentionGrid, BlockedKeysLeakNowhere) {
  Inputs in = on_grid(16, 8, 0);
  Inputs clean = twice(in).first;
  in.k.narrow(2, 96, 32).fill_(std::nan(""));  // the last rows: head 0 looks up only
  const Inputs dirty = twice(in).first;
  const Tensor want = attention(clean.q, clean.k, clean.v, clean.p),
               got = attention(dirty.q, dirty.k, dirty.v, dirty.p);
  EXPECT_EQ(max_difference(got.select(1, 0).narrow(1, 0, 96), want.select(1, 0).narrow(1, 0, 96)),
            0);
  EXPECT_TRUE(any(isnan(got.select(1, 0).narrow(1, 96, 32))).item<bool>());
}

TEST(AttentionPositions, NameWhatDoesNotFit) {
  Inputs in = tokens(2, 2, 6, 6, 8, 8);
  auto call = [&](auto change) {
    AttentionParams p = in.p;
    change(p);
    attention(in.q, in.k, in.v, p);
  };
  EXPECT_ERROR(call([](auto& p) { p.relative = zeros({5, 7}); }), ShapeError, "relative is [5, 7]");
  EXPECT_ERROR(call([](auto& p) { p.relative = zeros({0, 8}); }), ShapeError, "relative is [0, 8]");
  EXPECT_ERROR(call([](auto& p) { p.relative_values = zeros({8}); }), ShapeError,
               "relative_values is [8]");
  EXPECT_ERROR(call([](auto& p) { p.relative_factors = zeros({8}, kInt64); }), DTypeError,
               "floating");
  EXPECT_ERROR(call([](auto& p) {
                 p.relative = zeros({5, 8});
                 p.step = {1, 1};
               }),
               OptionError, "do not go along strands");
  auto grid = [&](const Tensor& bias, const Tensor& places) {
    call([&](auto& p) { p.grid_bias = bias, p.grid_places = places; });
  };
  const Tensor places = zeros({6, 2}, kInt64);
  EXPECT_ERROR(grid(zeros({2, 3, 3}), {}), ShapeError, "grid_places must be");
  EXPECT_ERROR(grid(zeros({2, 3, 4}), places), ShapeError, "grid_bias is [2, 3, 4]");
  EXPECT_ERROR(grid(zeros({2, 3, 3}), zeros({7, 2}, kInt64)), ShapeError, "7 places on a grid");
  Tensor far = places.clone();
  far[3][1].fill_(2);
  EXPECT_ERROR(grid(zeros({2, 3, 3}), far), ShapeError, "lie 2 apart, expected at most 1");
}

}  // namespace
}  // namespace dropin
