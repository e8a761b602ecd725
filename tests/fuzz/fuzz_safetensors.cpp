// A safetensors file from anywhere: refused in words, or read into tensors that own their memory
// and survive a round trip.
#include <cstring>

#include "dropin/serialize/safetensors.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  try {
    const SafetensorsFile f = parse_safetensors(data, size, "fuzz");
    std::size_t bytes = 0;
    for (const auto& [name, t] : f.tensors) {
      fuzz::expect(t.is_contiguous(), "a tensor read from a file is contiguous");
      bytes += static_cast<std::size_t>(t.numel() * item_size(t.dtype()));
    }
    fuzz::expect(bytes <= size, "tensors are no larger than their file");
    if (size < 4096) {
      const std::string& path = fuzz::scratch_file(".safetensors");
      save_safetensors(path, f.tensors, f.metadata);
      const SafetensorsFile again = load_safetensors(path);
      fuzz::expect(
          again.tensors.size() == f.tensors.size() && again.metadata.size() == f.metadata.size(),
          "what was read is written whole");
      for (const auto& [name, t] : f.tensors) {
        bool found = false;
        for (const auto& [n, u] : again.tensors)
          if (n == name) {
            found = u.sizes() == t.sizes() && u.dtype() == t.dtype() &&
                    (t.numel() == 0 ||
                     std::memcmp(u.data_ptr(), t.data_ptr(),
                                 static_cast<std::size_t>(t.numel() * item_size(t.dtype()))) == 0);
          }
        fuzz::expect(found, "a tensor comes back bit for bit");
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
