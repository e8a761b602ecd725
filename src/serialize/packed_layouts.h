// Layouts in which several stored tensors stand for one weight.
#pragma once
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "dropin/serialize/state_file.h"

namespace dropin::serialize_detail {

/// The config.json beside a file; null where there is none.
struct ModelConfig {
  std::string path;
  Json json;
  std::string error;  ///< why it could not be read; raised by those who need it

  /// The value at a path of keys, or null.
  const Json* find(std::initializer_list<std::string_view> keys) const;
  std::string text(std::initializer_list<std::string_view> keys) const;
};
ModelConfig read_model_config(const std::string& beside);

/// Names that config or metadata say are another tensor's.
void find_aliases(StateFile& file, const ModelConfig& config);

/// The tensors of a file by name, while layouts are recognised: what belongs to one is taken out.
class TensorGroups {
 public:
  explicit TensorGroups(StateFile& file);
  /// The tensor of that name unless it has been taken; null.
  const StoredTensor* find(const std::string& name) const;
  /// The same; FileError saying that `of` needs it.
  const StoredTensor& need(const std::string& name, const std::string& of) const;
  /// Puts `packed` where its first part stood, and takes out all parts.
  void replace(const std::vector<std::string>& parts, StoredTensor packed);
  /// The names that end in `suffix`, in the file's order, without it.
  std::vector<std::string> ending(std::string_view suffix) const;
  void finish();
  StateFile& file() { return file_; }

 private:
  StateFile& file_;
  std::unordered_map<std::string, std::size_t> where_;
  std::vector<bool> gone_;
};

/// A packed tensor: the stored form is that of `codes`.
StoredTensor packed_tensor(std::string name, std::string format, Shape shape, DType dtype,
                           const StoredTensor& codes, std::function<Tensor()> read);
/// FileError: "FILE: tensor NAME: ...".
[[noreturn]] void bad_layout(const StateFile& file, const std::string& name,
                             std::initializer_list<Part> why);
/// The least number of blocks of `size` that hold n.
inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Each recognises its layouts.
void unpack_bitsandbytes(TensorGroups& groups);
void unpack_gpt_oss(TensorGroups& groups);
void unpack_bitnet(TensorGroups& groups, const ModelConfig& config);
void unpack_compressed_tensors(TensorGroups& groups, const ModelConfig& config);
void unpack_scaled(TensorGroups& groups, const ModelConfig& config);
void unpack_torchao(TensorGroups& groups);
void bitnet_for_bitlinear(TensorGroups& groups, const ModelConfig& config);
void unpack_layouts(StateFile& file, const ModelConfig& config, const LoadStateOptions& options);

}  // namespace dropin::serialize_detail
