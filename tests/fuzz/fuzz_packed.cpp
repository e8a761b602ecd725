// A checkpoint with its config.json: the input's first line is the config, the rest a file of
// safetensors or an index of shards. Packed weights are refused in words, or read as listed.
#include <unistd.h>

#include <filesystem>

#include "dropin/serialize/name_map.h"
#include "fuzz.h"

namespace {

const std::string& scratch_folder() {
  static std::string* folder = nullptr;  // outlives the end of the program
  if (!folder) {
    folder = new std::string("/dev/shm/dropin-fuzz-XXXXXX");
    if (!mkdtemp(folder->data())) dropin::fuzz::broken("no scratch folder");
    std::atexit([] { std::filesystem::remove_all(*folder); });
  }
  return *folder;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  const std::string& folder = scratch_folder();
  const std::string_view all = fuzz::text(data, size);
  const std::size_t line = std::min(all.find('\n'), size);
  fuzz::write_file(folder + "/config.json", data, line);
  const std::size_t rest = std::min(line + 1, size);
  fuzz::write_file(folder + "/m.safetensors", data + rest, size - rest);
  for (const bool ternary : {false, true}) {
    try {
      StateFile f = load_state(folder + "/m.safetensors", {.for_bitlinear = ternary});
      guess_name_map(f);
      for (const StoredTensor& t : f.tensors) {
        if (t.bytes > 1 << 16) continue;
        try {
          const Tensor x = t.read();
          fuzz::expect(x.sizes() == t.shape && x.dtype() == t.dtype,
                       "a tensor is read as it was listed");
        } catch (const Error&) {
        }
      }
      map_names(f, "GPT-2");
    } catch (const Error&) {
    }
  }
  return 0;
}
