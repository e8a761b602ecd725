// GGUF from anywhere: refused in words, or read into tensors of the shape and dtype that they were
// listed with, and written again.
#include "dropin/serialize/save_state.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  const std::string& path = fuzz::scratch_file(".gguf");
  fuzz::write_file(path, data, size);
  try {
    const StateFile f = load_state(path);
    f.metadata.dump();
    std::vector<StoredTensor> whole;
    for (const StoredTensor& t : f.tensors) {
      fuzz::expect(f.find(t.name) != nullptr, "a listed tensor is found");
      if (t.bytes > 1 << 16) continue;
      try {
        const Tensor x = t.read();
        fuzz::expect(x.sizes() == t.shape && x.dtype() == t.dtype && x.is_contiguous(),
                     "a tensor is read as it was listed");
        fuzz::expect(t.raw().size() == t.bytes, "the stored form has the bytes that were listed");
        whole.push_back(t);
      } catch (const Error&) {  // a type that is only listed
      }
    }
    SaveStateOptions options;
    options.metadata = f.metadata;
    const std::string again = path + ".again.gguf";
    try {
      save_state(again, whole, options);
      fuzz::expect(load_state(again).tensors.size() == whole.size(), "what is written is read");
    } catch (const OptionError&) {  // names and ranks that GGUF has no room for
    }
    std::remove(again.c_str());
  } catch (const Error&) {
  }
  return 0;
}
