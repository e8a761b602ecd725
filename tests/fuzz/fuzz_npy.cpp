// A .npy file from anywhere.
#include "dropin/serialize/npy.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  try {
    const Tensor t = parse_npy(data, size, "fuzz");
    fuzz::expect(t.is_contiguous(), "an array is contiguous once read");
    fuzz::expect(static_cast<std::size_t>(t.numel() * item_size(t.dtype())) <= size,
                 "an array is no larger than its file");
  } catch (const Error&) {
  }
  return 0;
}
