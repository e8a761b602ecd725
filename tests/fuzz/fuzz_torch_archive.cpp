// PyTorch's archives (both formats), npz and npy from anywhere: refused in words, or read into
// tensors of the shape and dtype that they were listed with.
#include "dropin/serialize/state_file.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  const std::string& path = fuzz::scratch_file(".pt");
  fuzz::write_file(path, data, size);
  try {
    const StateFile f = load_state(path);
    fuzz::expect(f.metadata.is_object(), "metadata are an object");
    f.metadata.dump();
    for (const StoredTensor& t : f.tensors) {
      fuzz::expect(f.find(t.name) != nullptr, "a listed tensor is found");
      if (t.bytes > 1 << 16) continue;
      try {
        const Tensor x = t.read();
        fuzz::expect(x.sizes() == t.shape && x.dtype() == t.dtype && x.is_contiguous(),
                     "a tensor is read as it was listed");
        fuzz::expect(t.raw().size() == t.bytes, "the stored form has the bytes that were listed");
      } catch (const Error&) {  // a bool of 2, a dtype that is only listed
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
