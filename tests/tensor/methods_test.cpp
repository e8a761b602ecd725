// Methods and small functions of torch, against torch 2.15's numbers.
#include <limits>

#include "dropin/ops/ops.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using Row = std::vector<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor slope(const Tensor& y, const Tensor& x) { return grad({y.sum()}, {x})[0]; }

TEST(Methods, SayWhatTheFunctionsSay) {
  const Tensor x = tensor({3, 1, 2, 6, 5, 4}, {2, 3});
  EXPECT_EQ(x.max().item(), 6);
  EXPECT_EQ(x.min().item(), 1);
  expect_values(x.max(1).values, {3, 6});
  expect_values(x.min(0).indices, {0, 0, 0});
  EXPECT_EQ(x.argmax().item<int64_t>(), 3);
  EXPECT_EQ(x.argmin().item<int64_t>(), 1);
  expect_values(x.argmax(1), {0, 0});
  expect_values(x.sum(0), {9, 6, 6});
  expect_values(x.amax(-1), {3, 6});
  EXPECT_EQ(x.mean({0, 1}, true).sizes(), (Shape{1, 1}));
  expect_values(sum(x, 1), {6, 15});
  expect_values(x.t(), {3, 6, 1, 5, 2, 4});
  expect_values(x.sort(1).values, {1, 2, 3, 4, 5, 6});
  expect_values(x.topk(2, 1).indices, {0, 2, 0, 1});
  expect_values(x.cumsum(1), {3, 4, 6, 6, 11, 15});
  expect_values(x.roll(1, 1), {2, 3, 1, 4, 6, 5});
  expect_values(x.index_select(1, tensor(std::vector<int64_t>{2, 0})), {2, 3, 4, 6});
  expect_values(x.gather(1, tensor(std::vector<int64_t>{1, 0}, {2, 1})), {1, 6});
  expect_values(x.masked_select(x > 4), {6, 5});
  expect_values(x.where(x > 2, 0), {3, 0, 0, 6, 5, 4});
  expect_values(x.clamp_min(3).clamp_max(5), {3, 3, 3, 5, 5, 4});
  expect_values(x.add(1).mul(2).sub(x).div(2), (x * 0.5 + 1).to_vector());
  expect_values(x.eq(6) | x.lt(2), {0, 1, 0, 1, 0, 0});
  EXPECT_TRUE(x.any().item<bool>() && !(x > 9).any().item<bool>() && x.all().item<bool>());
  EXPECT_TRUE(x.equal(x.clone()) && !x.equal(x.t()) && !x.equal(x + 1));
  EXPECT_EQ(x.unsqueeze(0).unsqueeze(2).squeeze().sizes(), (Shape{2, 3}));
  EXPECT_EQ(x.unflatten(1, {3, -1}).sizes(), (Shape{2, 3, 1}));
  EXPECT_EQ(x.unsqueeze(0).movedim(0, 2).sizes(), (Shape{2, 3, 1}));
  EXPECT_EQ(x.unbind(1).size(), 3U);
  EXPECT_TRUE(x.cpu().device().is_cpu() && x.type_as(ones({1}, kFloat64)).dtype() == kFloat64);
  EXPECT_ERROR(zeros({1, 1, 1}).t(), ShapeError, "at most 2 dimensions");
  EXPECT_ERROR(x.unflatten(1, {2, -1}), ShapeError, "is not [2, -1]");
}

TEST(Methods, OperatorsOfPython) {
  const Tensor a = tensor({5, -5}), m = a > 0;
  expect_values(a % 3, {2, 1});
  expect_values(a % tensor({-3, 3}), {-1, 1});
  expect_values(~m, {0, 1});
  expect_values(m ^ ~m, {1, 1});
  EXPECT_ERROR(~a, DTypeError, "expected bool");
  expect_values(1 < a, {1, 0});
}

TEST(Functions, NormsOfEveryOrder) {
  struct Case {
    double p;
    Row norms, gradient;
  };
  const Case cases[] = {
      {0.5,
       {13.928203582763672, 4.499999523162842},
       {2.154700517654419, -1.866025447845459, 2.999999761581421, 1.4999998807907104}},
      {1, {7, 2.5}, {1, -1, 1, 1}},
      {3,
       {4.497941493988037, 2.0103628635406494},
       {0.4448513388633728, -0.7908468246459961, 0.06185732036828995, 0.9897171258926392}},
      {kInfinity, {4, 2}, {0, -1, 0, 1}},
      {-1,
       {1.7142856121063232, 0.4000000059604645},
       {0.3265305757522583, -0.1836734414100647, 0.64000004529953, 0.04000000283122063}}};
  for (const Case& c : cases) {
    const Tensor x = tensor({3, -4, 0.5, 2}, {2, 2}, kFloat64).requires_grad_();
    const Tensor y = x.norm(c.p, 1);
    expect_values(y.detach(), c.norms, 1e-5);
    expect_values(slope(y, x), c.gradient, 1e-5);
  }
  expect_values(tensor({3, 0, 0}).norm(0), {1});
  EXPECT_EQ(tensor({1e30, 1e30}).norm(3).item(), vector_norm(tensor({1e30, 1e30}), 3).item());
  EXPECT_NEAR(tensor({1e30, 1e30}).norm(3).item() / 1e30, std::cbrt(2), 1e-6);
  const Tensor zero = zeros({2}, kFloat64).requires_grad_();
  expect_values(slope(zero.norm(3), zero), {0, 0});
}

TEST(Functions, OfTorchsNames) {
  const Tensor a = tensor({5.5, -5.5, 5.5, -5.5}, kFloat64),
               b = tensor({2, 2, -2, -2}, kFloat64).requires_grad_();
  const Tensor rest = fmod(a, b);
  expect_values(rest.detach(), {1.5, -1.5, 1.5, -1.5});
  expect_values(slope(rest, b), {-2, 2, 2, -2});
  expect_values(logaddexp(tensor({1, -kInfinity, 2}), tensor({2, -kInfinity, kInfinity})),
                {2.3132617, -kInfinity, kInfinity}, 1e-6);
  const Tensor x = tensor({-1, 0, 1}, kFloat64).requires_grad_();
  expect_values(slope(clamp_min(x, 0), x), {0, 0, 1});
  expect_values(slope(clamp_max(x, 0), x), {1, 0, 0});
  EXPECT_TRUE(std::isnan(clamp_min(tensor({NAN}), 0).item()));
  expect_values(nan_to_num(tensor({NAN, kInfinity, -kInfinity}), 1, 2.0),
                {1, 2, -3.4028234663852886e38});
  expect_values(diag(tensor({1, 2}), 1), {0, 1, 0, 0, 0, 2, 0, 0, 0});
  expect_values(diag(tensor({1, 2}), -1), {0, 0, 0, 1, 0, 0, 0, 2, 0});
  expect_values(diag(eye(2) * 3), {3, 3});
  expect_values(lerp(tensor({0, 10}), tensor({10, 20}), 0.25), {2.5, 12.5});
  expect_values(addcmul(ones({2}), tensor({1, 2}), tensor({3, 4}), 2), {7, 17});
  expect_values(addcdiv(ones({2}), tensor({1, 2}), tensor({4, 4}), 2), {1.5, 2});
  expect_values(outer(tensor({1, 2}), tensor({3, 4})), {3, 4, 6, 8});
  expect_values(addmm(full({1}, NAN), eye(2), eye(2), 0, 2), {2, 0, 0, 2});
  expect_values(mv(eye(2), tensor({1, 2})), {1, 2});
  EXPECT_EQ(dot(tensor({1, 2}), tensor({3, 4})).item(), 11);
  EXPECT_ERROR(mm(ones({2}), ones({2, 2})), ShapeError, "expected 2 and 2 dimensions");
}

}  // namespace
}  // namespace dropin
