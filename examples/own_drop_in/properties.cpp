// The library's property tests over the outsiders' components.
#include <gtest/gtest.h>

#include "low_rank_linear.h"
#include "sequence_pooling.h"

int main(int argc, char** argv) {
  dropin::registry().add<outside::LowRankLinear>();  // before the tests are listed
  outside::register_pooling(dropin::registry());
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
