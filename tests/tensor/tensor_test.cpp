// Tensors: factories, views, broadcasting, promotion, in-place writes, printing, memory.
#include <limits>
#include <thread>

#include "dropin/core/parallel.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

TEST(Tensor, Factories) {
  expect_values(arange(0, 5, 2), {0, 2, 4});
  expect_values(linspace(0, 1, 5), {0, 0.25, 0.5, 0.75, 1});
  expect_values(eye(2, 3), {1, 0, 0, 0, 1, 0});
  EXPECT_EQ(zeros({2, 0, 3}).numel(), 0);
  EXPECT_EQ(scalar(3).dim(), 0);
  EXPECT_ERROR(tensor({1, 2, 3}, {2, 2}), ShapeError, "3 values for the shape [2, 2]");
  EXPECT_ERROR(zeros({-1}), ShapeError, "negative size");
  EXPECT_ERROR(zeros({int64_t{1} << 40, int64_t{1} << 40}), OutOfMemoryError,
               "more bytes than can be counted");
  EXPECT_ERROR(Tensor().sizes(), Error, "undefined");
}

TEST(Tensor, ViewsShareData) {
  Tensor x = arange(0, 12).reshape({3, 4});
  expect_values(x.slice(1, 1, kEnd, 2), {1, 3, 5, 7, 9, 11});
  expect_values(x.transpose(0, 1).select(0, -1), {3, 7, 11});
  expect_values(x.unfold(1, 2, 2)[1], {4, 5, 6, 7});
  expect_values(x.diagonal(1), {1, 6, 11});
  x.select(0, 0).fill_(9);
  expect_values(x[0], {9, 9, 9, 9});
  EXPECT_ERROR(x.transpose(0, 1).view({12}), ShapeError, "without a copy");
  EXPECT_ERROR(x.reshape({5, -1}), ShapeError, "[3, 4] cannot become [5, -1]");
  EXPECT_ERROR(x.select(0, 3), IndexError, "index 3 is out of range");
  EXPECT_ERROR(x.narrow(1, 2, 3), IndexError, "3 elements from 2");
  EXPECT_ERROR(x.permute({0, 0}), ShapeError, "repeat");
  EXPECT_ERROR(x.size(2), IndexError, "dimension 2");
  EXPECT_ERROR(x.expand({2, 4}), ShapeError, "[3, 4] cannot become [2, 4]");
}

TEST(Tensor, ViewOfStridedTensors) {
  const Tensor x = arange(0, 24).reshape({2, 3, 4}), t = x.transpose(0, 1);
  EXPECT_EQ(t.view({3, 2, 2, 2}).strides(), (Shape{4, 12, 2, 1}));
  EXPECT_EQ(max_difference(t.view({3, 2, 2, 2}), t.contiguous().view({3, 2, 2, 2})), 0);
  const Tensor e = arange(0, 3).unsqueeze(1).expand({3, 4});
  EXPECT_EQ(max_difference(e.view({3, 2, 2}), e.contiguous().view({3, 2, 2})), 0);
  EXPECT_EQ(max_difference(e.reshape({12}), e.contiguous().view({12})), 0);
  EXPECT_EQ(x.slice(1, 0, 1).view({2, 4}).strides(), (Shape{12, 1}));
}

TEST(Tensor, BroadcastingAndPromotion) {
  expect_values(tensor({1, 2}, {2, 1}) + tensor({10, 20, 30}), {11, 21, 31, 12, 22, 32});
  EXPECT_EQ((arange(0, 2) + 1.5).dtype(), kFloat32);
  EXPECT_EQ((arange(0, 2) * 2).dtype(), kInt64);
  EXPECT_EQ((arange(0, 2) / arange(1, 3)).dtype(), kFloat32);
  EXPECT_EQ((tensor({1}, kFloat64) * scalar(2)).dtype(), kFloat64);
  EXPECT_EQ((tensor({1}) * scalar(2, kFloat64)).dtype(), kFloat32)
      << "a scalar does not widen a tensor";
  EXPECT_EQ((tensor({1}, kBFloat16) + tensor({1}, kFloat16)).dtype(), kFloat32);
  EXPECT_EQ((tensor({1}, kBool) + tensor({1}, kInt32)).dtype(), kInt32);
  EXPECT_ERROR(add(zeros({2}), zeros({3})), ShapeError, "shapes [2] and [3] do not broadcast");
  EXPECT_EQ((arange(0, 3) < 1.5).dtype(), kBool);
  expect_values(floor_divide(tensor({-7, 7}, kInt64), tensor({2, -2}, kInt64)), {-4, -4});
  expect_values(remainder(tensor({-7, 7}, kInt64), tensor({3, -3}, kInt64)), {2, -2});
}

TEST(Tensor, EmptyTensorsPassThrough) {
  const Tensor x = zeros({0, 4});
  EXPECT_EQ(sum(x).item(), 0);
  EXPECT_EQ(matmul(x, zeros({4, 3})).sizes(), (Shape{0, 3}));
  EXPECT_EQ(matmul(zeros({2, 0}), zeros({0, 3})).sum().item(), 0);
  EXPECT_EQ(softmax(x, -1).sizes(), (Shape{0, 4}));
  EXPECT_EQ(concat({x, zeros({2, 4})}).sizes(), (Shape{2, 4}));
  EXPECT_EQ(layer_norm(x, {4}).sizes(), (Shape{0, 4}));
  EXPECT_EQ(conv2d(zeros({0, 2, 5, 5}), zeros({3, 2, 3, 3}), {}).sizes(), (Shape{0, 3, 3, 3}));
  EXPECT_EQ(x.str(), "tensor([], size=(0, 4))");
  EXPECT_ERROR(amax(x), ShapeError, "nothing to reduce");
}

TEST(Tensor, NonFiniteValuesPassThrough) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const Tensor x = tensor({1, inf, -inf, nan});
  expect_values(maximum(x, tensor({0, 0, 0, 0})), {1, inf, 0, nan});
  expect_values(relu(x), {1, inf, 0, nan});
  expect_values(sort(x).values, {-inf, 1, inf, nan});
  EXPECT_TRUE(std::isnan(sum(x).item()));
  EXPECT_TRUE(std::isnan(amax(x).item()));
  EXPECT_EQ(argmax(x, 0).item(), 3);
  EXPECT_EQ(logsumexp(tensor({-inf, -inf}), {0}).item(), -inf);
}

TEST(Tensor, SixteenBitTypesRoundToNearestEven) {
  expect_values(tensor({1.00390625, 1.01171875, 3e38}).to(kBFloat16), {1, 1.015625, 3e38}, 2e36);
  expect_values(tensor({1 + 1.0 / 2048, 65504, 65520, 6e-8, 1e-9}).to(kFloat16),
                {1, 65504, INFINITY, 5.9604645e-08, 0}, 1e-12);
  EXPECT_TRUE(std::isnan(tensor({std::nan("")}).to(kFloat16).item()));
  expect_values(tensor({1.7, -1.7, 300, std::nan("")}).to(kUInt8), {1, 0, 255, 0});
  expect_values(tensor({0.5, 0, std::nan("")}).to(kBool), {1, 0, 1});
}

TEST(Tensor, InPlaceAdvancesTheVersion) {
  Tensor x = zeros({3});
  const auto v = x.version();
  x.slice(0, 1).add_(2.0);
  EXPECT_GT(x.version(), v);
  expect_values(x, {0, 2, 2});
  x.slice(0, 0, 2).copy_(x.slice(0, 1, 3));  // overlapping
  expect_values(x, {2, 2, 2});
  EXPECT_ERROR(x.copy_(zeros({2})), ShapeError, "copy_");
  EXPECT_ERROR(x.add_(zeros({2, 3})), ShapeError, "add_");
}

TEST(Tensor, FromBlobRunsItsDeleterOnce) {
  static int freed = 0;
  float data[6] = {0, 1, 2, 3, 4, 5};
  {
    Tensor x = from_blob(data, {2, 2}, kFloat32, {3, 1}, [](void*, void*) { ++freed; });
    Tensor y = x.transpose(0, 1);
    x = {};
    expect_values(y, {0, 3, 1, 4});
    EXPECT_EQ(freed, 0);
  }
  EXPECT_EQ(freed, 1);
  EXPECT_ERROR(from_blob(nullptr, {1}), Error, "null data");
}

TEST(Tensor, RandomStreamsRepeat) {
  Generator a(3), b(3);
  const Tensor x = randn({1000}, kFloat32, &a);
  EXPECT_EQ(max_difference(x, randn({1000}, kFloat32, &b)), 0);
  EXPECT_GT(max_difference(x, randn({1000}, kFloat32, &b)), 0.1);
  const int before = get_num_threads();
  Tensor one, many;
  {
    Generator g(9);
    set_num_threads(1);
    one = rand({100'003}, kFloat32, &g);
  }
  {
    Generator g(9);
    set_num_threads(4);
    many = rand({100'003}, kFloat32, &g);
  }
  set_num_threads(before);
  EXPECT_EQ(max_difference(one, many), 0) << "the stream does not depend on the thread count";
  EXPECT_NEAR(mean(one).item(), 0.5, 0.01);
  EXPECT_NEAR(std_dev(randn({100'000})).item(), 1, 0.02);
  expect_values(sort(randperm(7)).values, {0, 1, 2, 3, 4, 5, 6});
}

TEST(Tensor, PrintsAsTorchPrints) {
  EXPECT_EQ(tensor({1, 2, 3, 4}, {2, 2}).str(), "tensor([[1., 2.],\n        [3., 4.]])");
  EXPECT_EQ(tensor({1.5, -2.25, 1000}).str(), "tensor([   1.5000,   -2.2500, 1000.0000])");
  EXPECT_EQ(tensor({1e-5, 1}).str(), "tensor([1.0000e-05, 1.0000e+00])");
  EXPECT_EQ(arange(0, 3).str(), "tensor([0, 1, 2])");
  EXPECT_EQ(tensor({1, 0}, kBool).str(), "tensor([ True, False])");
  EXPECT_EQ(scalar(2.5).str(), "tensor(2.5000)");
  EXPECT_EQ(tensor({1, 2}, kFloat64).str(), "tensor([1., 2.], dtype=float64)");
  EXPECT_EQ(tensor({std::nan(""), 1}).str(), "tensor([nan, 1.])");
  EXPECT_NE(zeros({2000}).str().find("..."), std::string::npos);
}

TEST(Tensor, EinsumRefusesBadEquations) {
  EXPECT_ERROR(einsum("ij,jk->ik", {zeros({2, 3}), zeros({4, 5})}), ShapeError, "'j' is 3");
  EXPECT_ERROR(einsum("ij->ik", {zeros({2, 3})}), OptionError, "'k' of the result");
  EXPECT_ERROR(einsum("ij", {zeros({2})}), ShapeError, "2 dimensions");
  EXPECT_ERROR(einsum("i,j", {zeros({2})}), ShapeError, "more operands");
}

TEST(Tensor, IndexErrorsAreNamedBeforeAnyWork) {
  Tensor x = zeros({3, 2});
  EXPECT_ERROR(index_select(x, 0, tensor({3}, kInt64)), IndexError,
               "index_select: index out of range: 3 at [0], expected 0 to 2");
  EXPECT_ERROR(gather(x, 1, tensor({0, 1, 1, -2}, {2, 2}, kInt64)), IndexError,
               "gather: index out of range: -2 at [1, 1], expected 0 to 1");
  EXPECT_ERROR(scatter_add(x, 0, tensor({0, 5}, {1, 2}, kInt64), zeros({1, 2})), IndexError,
               "index out of range: 5 at [0, 1], expected 0 to 2");
  EXPECT_ERROR(embedding(x, tensor({-1, 2}, kInt64)), IndexError,
               "embedding: index out of range: ids from -1 to 2, expected 0 to");
  EXPECT_ERROR(gather(x, 0, tensor({0}, {1, 1})), DTypeError, "expected int64");
  EXPECT_ERROR(cross_entropy(x, tensor({0, 1, 2}, kInt64)), IndexError,
               "cross_entropy: target out of range: 2 at [2], expected 0 to 1");
  EXPECT_ERROR(matmul(zeros({2, 3}), zeros({2, 3})), ShapeError, "inner sizes 3 and 2 differ");
}

TEST(Memory, FreedBlocksAreReusedAndOutOfMemoryIsSurvived) {
  void* first;
  {
    Tensor x = empty({1 << 20});
    first = x.data_ptr();
  }
  EXPECT_EQ(empty({1 << 20}).data_ptr(), first);
  const int64_t before = memory_stats().allocated;
  EXPECT_ERROR(empty({int64_t{1} << 50}), OutOfMemoryError, "out of memory");
  EXPECT_EQ(memory_stats().allocated, before);
  fail_allocation_after(2);
  EXPECT_ERROR(
      for (;;) { zeros({10}) + zeros({10}); }, OutOfMemoryError, "out of memory");
  fail_allocation_after(-1);
  expect_values(zeros({2}) + ones({2}), {1, 1});
  empty_cache();
}

TEST(Tensor, CornersOfShapeOperations) {
  EXPECT_ERROR(repeat_interleave(scalar(3), 2, 0), ShapeError, "at least one dimension");
  const Tensor whole = ones({2, 2}).to(kInt64);
  EXPECT_EQ(tril(whole, 0).dtype(), kInt64);
  EXPECT_EQ(triu(whole, 0).dtype(), kInt64);
  // 4096 ones into one place: a sum of bfloat16 in bfloat16 stops at 256
  const Tensor many = ones({4096}).to(kBFloat16), at = zeros({4096}).to(kInt64);
  expect_values(scatter_add(zeros({1}).to(kBFloat16), 0, at, many).to(kFloat32), {4096});
}

TEST(Memory, TensorsMoveBetweenThreads) {
  Tensor x;
  std::thread([&] { x = ones({100'000}); }).join();
  EXPECT_EQ(sum(x).item(), 100'000);
}

}  // namespace
}  // namespace dropin
