// An IDX container from anywhere, gzipped or not.
#include "dropin/data/fashion_mnist.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  try {
    fuzz::expect(parse_idx(data, size, "fuzz").is_contiguous(), "an array is contiguous once read");
  } catch (const Error&) {
  }
  return 0;
}
