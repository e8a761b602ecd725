// JSON text: refused with its position, or a value whose text reads back as the same value.
#include "dropin/core/json.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  try {
    const Json j = Json::parse(fuzz::text(data, size));
    for (const int indent : {-1, 2})
      fuzz::expect(Json::parse(j.dump(indent)) == j, "a value reads back as itself");
  } catch (const OptionError&) {
  }
  return 0;
}
