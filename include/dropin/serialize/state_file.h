// State files: the tensors of a checkpoint, whatever format it is in, behind one function.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dropin/core/json.h"
#include "dropin/module/named_tensors.h"

namespace dropin {

/// Where the values of one stored tensor come from; each container has its own. Made once, used
/// from any thread.
class TensorContent {
 public:
  virtual ~TensorContent() = default;
  /// The values, new memory on the CPU, contiguous, of the shape and dtype that StoredTensor says.
  virtual Tensor read() const = 0;
  /// The bytes [begin, begin + count) of the stored form; FileError when they cannot be read.
  virtual void raw(std::uint64_t begin, std::uint64_t count, void* out) const = 0;
};

/// One tensor of a file. Of the file only headers have been read until read() or raw() is called.
struct StoredTensor {
  std::string name;
  /// How it is stored: safetensors' dtypes (F32, BF16, I16, U64, C64, F8_E4M3, F4, ...), GGUF's
  /// types (Q8_0, Q4_K, MXFP4, ...), or a packed layout by its library (bitsandbytes.NF4,
  /// bitnet.TERNARY, ...).
  std::string format;
  Shape shape;              ///< in elements; of C64 with a last axis of 2, real and imaginary
  DType dtype = kFloat32;   ///< of read(): the format's own, or the least that holds its values
  std::uint64_t bytes = 0;  ///< of the stored form
  std::shared_ptr<const TensorContent> content;

  /// The values on the CPU, contiguous; numbers that no Tensor has are converted exactly: 4- to
  /// 8-bit floats and quantized blocks to float32 (or the dtype that their file names), U16 to
  /// int32, U32 and U64 to int64. FileError for a U64 beyond int64, and when the file cannot be
  /// read.
  Tensor read() const;
  /// The same converted to a dtype, as Tensor::to.
  Tensor read(DType dtype) const;
  /// The stored bytes, little-endian.
  std::string raw() const;
};

/// What load_state() found: tensors in the file's order, and what the file says beside them. It
/// keeps the file open.
struct StateFile {
  std::string path;
  std::string container;  ///< "safetensors", "gguf", "pt", "npz" or "npy"
  std::vector<StoredTensor> tensors;
  /// An object. safetensors: texts, of an index its numbers too; GGUF: every value; pt: everything
  /// that is no tensor, nested as it was saved, of a list the entries under "0", "1", ...; sets,
  /// tuples and bytes are arrays, a tensor is the text "<tensor NAME>".
  Json metadata = Json::object();
  std::string model_type;  ///< as config.json beside the file calls it: "bert", "gpt2"; or empty
  /// Names that the file says are another tensor's (tied weights): name, kept name.
  std::vector<std::pair<std::string, std::string>> aliases;

  /// The tensor of that name, of an alias the one that it stands for; null if there is none.
  const StoredTensor* find(std::string_view name) const;
  /// The same; FileError naming the nearest names if there is none.
  const StoredTensor& at(std::string_view name) const;
  /// The values of one tensor: at(name).read().
  Tensor get(std::string_view name) const { return at(name).read(); }
  Tensor get(std::string_view name, DType dtype) const { return at(name).read(dtype); }
  /// All of them by name, aliases too (these share memory with what they stand for).
  StateDict state_dict() const;
  /// The same with floating-point values of that dtype.
  StateDict state_dict(DType floating) const;
};

struct LoadStateOptions {
  /// Tensors that belong together as a packed layout (BitNet, MXFP4 blocks and scales,
  /// compressed-tensors, bitsandbytes, torchao, weight_scale_inv) become the weight they stand
  /// for; false leaves each as the file has it.
  bool unpack = true;
  /// BitNet's ternary weights as BitLinear keeps them (variant "b1.58"): NAME.weight_packed and
  /// NAME.weight_scale, norm.weight for its rms_norm.weight, and the bias times the scale where the
  /// layer multiplies that too ("autobitlinear"); load(model, file) then fills BitLinear layers.
  bool for_bitlinear = false;
};

/// Opens a checkpoint, of a folder model.safetensors.index.json, model.safetensors or
/// pytorch_model.bin in it, by what it begins with: safetensors or an index of its shards
/// (*.safetensors.index.json), GGUF (of split files any one), PyTorch's archives (.pt, .pth, .bin;
/// zip or the older format; read by a pickle reader that can build nothing but tensors, dicts,
/// lists, numbers and strings), NumPy's .npz and .npy. Headers are checked whole now, values are
/// read when asked for. FileError naming file, tensor and the rule that it breaks; an archive that
/// asks for code is refused by the name of what it asks for.
StateFile load_state(const std::string& path, const LoadStateOptions& options = {});

}  // namespace dropin
