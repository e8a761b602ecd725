// The skeleton kernel's test: counts from 0 to beyond two vectors, misaligned, with guard zones;
// then what dispatch must refuse.
#include <gtest/gtest.h>

#include "kernels/arrays.h"
#include "kernels/example/kernel.h"
#include "support.h"

namespace dropin::testing {
namespace {

// n values of `in` from its element `skip` on: misaligned where skip is odd.
template <class T>
T from(const T& in, int64_t skip, int64_t n) {
  T view = in;
  view.data = static_cast<const float*>(in.data) + skip;
  view.sizes[0] = n;
  return view;
}

TEST(Example, EveryCountMisalignedWithinGuards) {
  for (int64_t n = 0; n <= 3 * 16 + 2; ++n)  // past two vectors of every instruction set
    for (const int64_t skip : {0, 1, 3}) {
      Array<float> x({n + skip}), z({n + skip}), y({n + skip});
      x.random(1);
      z.random(2);
      y.fill(7);
      run<kernels::example_scaled_sum>(
          kCPU, kernels::ExampleInputs{from(x.in(), skip, n), from(z.in(), skip, n), 2.0, -0.5},
          from(y.out(), skip, n));
      for (int64_t i = 0; i < skip; ++i) ASSERT_EQ(y.data()[i], 7) << "before the array";
      for (int64_t i = skip; i < n + skip; ++i)
        ASSERT_NEAR(y.data()[i], 2.0 * x.data()[i] - 0.5 * z.data()[i], 1e-6) << n << " at " << i;
      ASSERT_TRUE(y.guarded()) << n;
    }
}

TEST(Example, ManyValuesOnTwoThreads) {
  const WithThreads two(2);
  const int64_t n = 100'003;
  Array<float> x({n}), z({n}), y({n});
  x.random(1);
  z.random(2);
  run<kernels::example_scaled_sum>(kCPU, kernels::ExampleInputs{x.in(), z.in(), 1.0, 1.0}, y.out());
  for (int64_t i = 0; i < n; ++i) ASSERT_EQ(y.data()[i], x.data()[i] + z.data()[i]) << i;
}

TEST(Example, RefusesOtherSizesAndTypes) {
  Array<float> x({4}), z({5}), y({4});
  Array<double> wide({4});
  EXPECT_ERROR(
      run<kernels::example_scaled_sum>(kCPU, kernels::ExampleInputs{x.in(), z.in()}, y.out()),
      Error, "contiguous float32 and alike");
  EXPECT_ERROR(
      run<kernels::example_scaled_sum>(kCPU, kernels::ExampleInputs{x.in(), wide.in()}, y.out()),
      Error, "contiguous float32 and alike");
}

TEST(Dispatch, SeesTheDevicesOfArraysInStructs) {
  Array<float> x({4}), z({4}), y({4});
  abi::TensorIn elsewhere = z.in();
  elsewhere.device = DeviceType::CUDA;
  EXPECT_ERROR(
      run<kernels::example_scaled_sum>(kCPU, kernels::ExampleInputs{x.in(), elsewhere}, y.out()),
      DeviceError, "tensors on cpu and cuda:0");
}

}  // namespace
}  // namespace dropin::testing
