// A picture from anywhere, in every mode.
#include "dropin/data/image.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const ImageReadMode mode : {ImageReadMode::UNCHANGED, ImageReadMode::GRAY,
                                   ImageReadMode::GRAY_ALPHA, ImageReadMode::RGB_ALPHA}) {
    try {
      const Tensor t = decode_image(bytes, mode, "fuzz", true);
      fuzz::expect(t.dtype() == kUInt8 && t.dim() == 3, "a picture is uint8 [C, H, W]");
      fuzz::expect(t.size(0) >= 1 && t.size(0) <= 4, "a picture has 1 to 4 channels");
    } catch (const Error&) {
      return 0;
    }
  }
  return 0;
}
