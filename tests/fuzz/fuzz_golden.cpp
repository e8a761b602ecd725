// A golden case from anywhere: a malformed file is refused, a component's error is a failed case,
// and nothing else happens.
#include "dropin/registry/conform.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  const std::string& path = fuzz::scratch_file(".safetensors");
  fuzz::write_file(path, data, size);
  try {
    const CaseResult r = conform(path);
    fuzz::expect(r.passed || r.skipped || !r.error.empty() || !r.checks.empty(),
                 "a failed case says why");
  } catch (const Error&) {
  }
  return 0;
}
