// A training checkpoint from anywhere: restored whole, or refused with model and optimizer as they
// were.
#include "dropin/ops/ops.h"
#include "dropin/projection/linear.h"
#include "dropin/serialize/checkpoint.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  const std::string& path = fuzz::scratch_file(".safetensors");
  fuzz::write_file(path, data, size);
  manual_seed(1);
  Linear model({.in_features = 3, .out_features = 2});
  AdamW optimizer(model.parameters(), {});
  const auto before = model.weight().to_vector();
  try {
    load_checkpoint(path, model, optimizer);
  } catch (const Error&) {
    const auto now = model.weight().to_vector();
    for (std::size_t i = 0; i < now.size(); ++i)
      fuzz::expect(now[i] == before[i], "a refused checkpoint changes nothing");
  }
  return 0;
}
