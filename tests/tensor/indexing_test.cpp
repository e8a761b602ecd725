// Indexing by tensors, writing through it, and drawing by weights; numbers of torch 2.15.
#include <limits>

#include "dropin/autograd/gradcheck.h"
#include "dropin/ops/ops.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::random;

Tensor ids(const std::vector<int64_t>& v) { return tensor(v); }
Tensor cube() { return arange(0.0, 24.0).reshape({2, 3, 4}); }
Tensor mask23() { return tensor(std::vector<bool>{1, 0, 1, 0, 1, 0}, {2, 3}); }

TEST(Indexing, ReadsAsTorch) {
  const Tensor x = cube();
  const Tensor apart = x.index({ids({1, 0}), {}, ids({3, -1})});  // in front: a ":" is between
  EXPECT_EQ(apart.sizes(), (Shape{2, 3}));
  expect_values(apart, {15, 19, 23, 3, 7, 11});
  const Tensor grid = ids({0, 2, 1, 1}).reshape({2, 2});
  EXPECT_EQ(Tensor(x.index({{}, grid})).sizes(), (Shape{2, 2, 2, 4}));
  const Tensor middle = x.index({{}, grid, ids({1, 3})});  // stays at its place
  EXPECT_EQ(middle.sizes(), (Shape{2, 2, 2}));
  expect_values(middle, {1, 11, 5, 7, 13, 23, 17, 19});
  const Tensor rows = x[mask23()];
  EXPECT_EQ(rows.sizes(), (Shape{3, 4}));
  expect_values(rows, {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19});
  expect_values(x[ids({-1})].sum(), {210});
  expect_values(x[x > 21.0], {22, 23});
  EXPECT_EQ(Tensor(x[zeros({0}, kInt64)]).sizes(), (Shape{0, 3, 4}));
}

TEST(Indexing, BadIndicesAreAnsweredInWords) {
  const Tensor x = cube();
  EXPECT_ERROR(x[ids({2})], IndexError, "2 is out of range for dimension 0 of [2, 3, 4]");
  EXPECT_ERROR(x.index({{}, ids({-4})}), IndexError, "-4 is out of range for dimension 1");
  EXPECT_ERROR(x[ones({3}, kBool)], ShapeError, "a mask is [3] at dimension 0");
  EXPECT_ERROR(x[ones({2})], DTypeError, "an index is float32");
  EXPECT_ERROR(x.index(Tensors{{}}), IndexError, "no index is given");
  EXPECT_ERROR(x.index({ids({0}), ids({0}), ids({0}), ids({0})}), IndexError, "4 indices");
  EXPECT_ERROR(x.index({ids({0, 1}), ids({0, 1, 2})}), ShapeError, "index");
}

TEST(Indexing, WritesInPlace) {
  Tensor x = cube();
  x.index_put_({ids({0, 1, 0}), ids({1, 2, 1})}, scalar(1.0), true);  // [0, 1] twice
  expect_values(x[0][1], {6, 7, 8, 9});
  expect_values(x[1][2], {21, 22, 23, 24});
  x.index_put_({ids({0, 0}), ids({0, 0})}, arange(0.0, 8.0).reshape({2, 4}));
  expect_values(x[0][0], {4, 5, 6, 7});  // the last stays
  Tensor y = cube();
  y.index_put_({{}, {}, ids({0, 3})}, tensor({-1, -2}));  // not the first dimension
  expect_values(y[1][2], {-1, 21, 22, -2});
  Tensor t = cube().transpose(0, 2);  // not contiguous
  t.index_put_({ids({3})}, 7);
  expect_values(t[3], {7, 7, 7, 7, 7, 7});
  const std::uint32_t before = y.version();
  EXPECT_ERROR(y.index_put_({ids({0, 9})}, scalar(1.0)), IndexError, "9 is out of range");
  EXPECT_ERROR(y.index_put_({ids({0})}, ones({5})), ShapeError, "index_put");
  EXPECT_ERROR(arange(5).index_put_({ids({0})}, ones({1})), DTypeError, "values are float32");
  EXPECT_EQ(y.version(), before);
}

TEST(Indexing, AssignmentWritesAndANamedHandleDoesNot) {
  Tensor x = cube();
  x[x > 5.0] = 0;
  expect_values(x.sum(), {15});
  x[ids({0, 0})] += 1;  // as in Python: read, add, write, so once
  expect_values(x[0][0], {1, 2, 3, 4});
  x[mask23()] *= tensor({10, 1, 1, 1});
  expect_values(x[0][0], {10, 2, 3, 4});
  x.index({{}, ids({0})}) -= 1.0;
  expect_values(x[0][0], {9, 1, 2, 3});
  const Tensor same = x.clone();
  x[ids({1})] = same[ids({0})];
  expect_values(x[1], x[0].to_vector());
  auto named = x[ids({0})];
  named += 5;
  named = zeros({1, 3, 4});
  EXPECT_TRUE(x[0].equal(same[0]));
}

TEST(Indexing, Gradients) {
  const Tensor x = random({3, 4, 2}, kFloat64, 3).clone().requires_grad_(),
               v = random({3, 3}, kFloat64, 4).clone().requires_grad_();
  EXPECT_EQ(
      gradcheck(
          [](const Tensors& in) {
            return Tensors{index(in[0], {ids({0, 2, 0}), {}, ids({1, 1, 1})}), in[0][in[0] > 0.0]};
          },
          {x}),
      "");
  for (const bool accumulate : {false, true})
    EXPECT_EQ(gradcheck(
                  [&](const Tensors& in) {
                    return Tensors{
                        index_put(in[0].select(2, 0), {{}, ids({0, 3, 1})}, in[1], accumulate)};
                  },
                  {x, v}),
              "");
  const Tensor y = x * 1;
  y[ids({1})] = v.sum();  // recorded in place
  y.sum().backward();
  expect_values(x.grad().sum({1, 2}), {8, 0, 8});
  expect_values(v.grad(), std::vector<double>(9, 8));
}

TEST(Multinomial, DrawsByWeight) {
  Generator g(7);
  const Tensor w = tensor({1, 0, 3, 6, 2, 2, 0, 0}, {2, 4}, kFloat64);
  const Tensor y = multinomial(w, 20000, true, &g);
  EXPECT_EQ(y.sizes(), (Shape{2, 20000}));
  for (int64_t row = 0; row < 2; ++row)
    for (int64_t k = 0; k < 4; ++k) {
      const double share = (y[row] == k).to(kFloat64).mean().item(),
                   want = w[row][k].item() / w[row].sum().item();
      EXPECT_NEAR(share, want, 0.015) << row << " " << k;
    }
  const Tensor first = tensor({1, 3}, kFloat64), once = multinomial(first.expand({20000, 2}), 1);
  EXPECT_NEAR(once.to(kFloat64).mean().item(), 0.75, 0.015) << "without replacement too";
}

TEST(Multinomial, WithoutReplacementNothingComesTwice) {
  const Tensor w = tensor({1, 0, 5, 2, 0.5});
  for (int i = 0; i < 50; ++i) {
    const Tensor y = w.multinomial(4).sort().values;
    expect_values(y, {0, 2, 3, 4});
  }
  Generator a(3), b(3);
  EXPECT_TRUE(w.multinomial(3, false, &a).equal(w.multinomial(3, false, &b)));
  EXPECT_ERROR(w.multinomial(5), OptionError, "5 samples without replacement of 4 weights");
  EXPECT_ERROR(multinomial(tensor({1, -1}), 1), OptionError, "weight 1 is -1");
  EXPECT_ERROR(multinomial(tensor({1, NAN}), 1), OptionError, "weight 1 is");
  EXPECT_ERROR(multinomial(zeros({2}), 1, true), OptionError, "all weights of a row are 0");
  EXPECT_ERROR(multinomial(zeros({2, 2, 2}), 1), ShapeError, "[rows, n]");
  EXPECT_ERROR(multinomial(w, 0), OptionError, "num_samples is 0");
}

TEST(Bernoulli, DrawsByProbability) {
  Generator g(1);
  const Tensor p = tensor({0, 0.25, 1}).expand({10000, 3}), y = bernoulli(p, &g);
  const Tensor share = y.mean(0);
  EXPECT_EQ(share[0].item(), 0);
  EXPECT_NEAR(share[1].item(), 0.25, 0.02);
  EXPECT_EQ(share[2].item(), 1);
  EXPECT_ERROR(bernoulli(tensor({1.5})), OptionError, "not in 0 to 1");
}

}  // namespace
}  // namespace dropin
