// Numbers that a tensor's type may not hold: refused or converted as torch does.
#include <cmath>

#include "support.h"

namespace dropin {
namespace {

struct Row {
  DType dtype;
  Scalar number;
  bool taken;
  Scalar result;
};
const Row kRows[] = {
#include "number_fits.inc"
};

std::string text(const Row& r) {
  return std::string(name(r.dtype)) + " of " +
         (r.number.is_floating() ? std::to_string(r.number.to_double())
                                 : std::to_string(r.number.to_int64()));
}

void expect_element(const Row& r, const Tensor& y, const std::string& what) {
  ASSERT_EQ(y.dtype(), r.dtype) << what;
  if (!is_floating(r.dtype))
    EXPECT_EQ(y.item<int64_t>(), r.result.to_int64()) << what;
  else if (std::isnan(r.result.to_double()))
    EXPECT_TRUE(std::isnan(y.item<double>())) << what;
  else
    EXPECT_EQ(y.item<double>(), r.result.to_double()) << what;
}

TEST(NumberFits, FullFillAndMaskedFillAsTorch) {
  const Tensor yes = ones({1}, kBool);
  for (const Row& r : kRows) {
    const Tensor x = zeros({1}, r.dtype);
    Tensor y = zeros({1}, r.dtype);
    const std::string what = text(r);
    EXPECT_EQ(r.number.fits(r.dtype), r.taken) << what;
    if (r.taken) {
      expect_element(r, full({1}, r.number, r.dtype), "full " + what);
      expect_element(r, masked_fill(x, yes, r.number), "masked_fill " + what);
      expect_element(r, y.fill_(r.number), "fill_ " + what);
    } else {
      EXPECT_THROW(full({1}, r.number, r.dtype), DTypeError) << what;
      EXPECT_THROW(masked_fill(x, yes, r.number), DTypeError) << what;
      EXPECT_THROW(y.fill_(r.number), DTypeError) << what;
      EXPECT_EQ(y.item(), 0) << what;
    }
  }
}

// item<T>() follows the same rule: never another number without a word.
template <class T>
void expect_items() {
  const DType dtype = dtype_of<T>::value;
  for (const Row& r : kRows) {
    if (r.dtype != dtype) continue;
    const Tensor x = full({1}, r.number, r.number.is_floating() ? kFloat64 : kInt64);
    if (r.taken)
      expect_element(r, tensor({static_cast<double>(x.item<T>())}, r.dtype), text(r));
    else
      EXPECT_THROW(x.item<T>(), DTypeError) << text(r);
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      if (!r.taken) {
        EXPECT_THROW(x.to_vector<T>(), DTypeError) << text(r);
      }
    }
  }
}
TEST(NumberFits, ItemAndToVectorRefuse) {
  expect_items<std::uint8_t>();
  expect_items<std::int8_t>();
  expect_items<std::int32_t>();
  expect_items<float>();
}

TEST(NumberFits, WhereTakesAScalarOfItsType) {
  const Tensor no = zeros({1}, kBool), x = zeros({1}, kUInt8);
  EXPECT_EQ(where(no, x, -1).item(), 255);  // as torch
  EXPECT_EQ(where(no, x, 1.5).item(), 1.5);
  EXPECT_THROW(where(no, x, 300), DTypeError);
  EXPECT_THROW(where(no, x.to(kFloat16), 1e6), DTypeError);
}
TEST(NumberFits, AnIntegerBesideAnIntegerTensorWrapsRound) {
  const Tensor x = tensor({0, 1, 255}, kUInt8), z = tensor({-128, 127}, kInt8);
  auto row = [](const Tensor& y) { return y.to_vector(); };
  using V = std::vector<double>;
  EXPECT_EQ(row(x + -1), (V{255, 0, 254}));
  EXPECT_EQ(row(x + 300), (V{44, 45, 43}));
  EXPECT_EQ(row(x * -1), (V{0, 255, 1}));
  EXPECT_EQ(row(1 - x), (V{1, 0, 2}));
  EXPECT_EQ(row(z + 200), (V{72, 71}));
  EXPECT_EQ(row(z * 2), (V{0, -2}));
  EXPECT_EQ(row(floor_divide(x, -1)), (V{0, 0, 1}));
  EXPECT_EQ(row(tensor({0, 1, 255}, kUInt8).add_(-1)), (V{255, 0, 254}));
  EXPECT_EQ(row(tensor({-128, 127}, kInt8).mul_(2)), (V{0, -2}));
}
TEST(NumberFits, AGradientOfAnotherTypeIsRefused) {
  const Tensor w = ones({2}).requires_grad_();
  EXPECT_THROW(w.set_grad(ones({2}, kFloat64)), DTypeError);
  EXPECT_FALSE(w.grad().defined());
}

}  // namespace
}  // namespace dropin
