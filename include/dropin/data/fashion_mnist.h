// IDX files and the Fashion-MNIST data set (Xiao, Rasul & Vollgraf 2017).
#pragma once
#include <string>

#include "dropin/core/options.h"
#include "dropin/data/tasks.h"

namespace dropin {

/// The array of an IDX container (big-endian; gzip, recognised by its first bytes, with any number
/// of members): u8 gives uint8, i8/i16/i32 int32, f32/f64 float32. FileError naming `label` on a
/// wrong magic, an unknown type, sizes beyond 2^31 elements, missing or excess bytes, corrupt gzip.
Tensor parse_idx(const void* data, std::size_t bytes, const std::string& label);
/// The same from a uint8 tensor [n].
Tensor parse_idx(const Tensor& bytes);
/// The same from a file.
Tensor read_idx(const std::string& path);

/// (pixel / 255 - mean) / std: uint8 [N, 28, 28] -> float32 [N, 1, 28, 28].
Tensor normalize_images(const Tensor& images, double mean = 0.2860, double std = 0.3530);

struct FashionMNISTOptions {
  std::string root;             ///< required
  std::string split = "train";  ///< train, t10k (or test), sprite900
  bool normalize = true, verify = true, flatten = false;
  static void fields(auto&& f) {
    using O = FashionMNISTOptions;
    f("root", &O::root, "folder of the files; required");
    f("split", &O::split, "\"train\", \"t10k\" (or \"test\"), \"sprite900\" (the small real set)");
    f("normalize", &O::normalize,
      "by the training set's mean and standard deviation; otherwise pixel / 255");
    f("verify", &O::verify, "checks counts, sizes, labels, and the MD5 of official files");
    f("flatten", &O::flatten, "[N, 784] instead of [N, 1, 28, 28]");
  }
};

/// 28 x 28 grey pictures of clothing in 10 classes; a drop-in for MNIST. Reads NAME.gz, then NAME,
/// from the folder; downloads nothing. FileError naming the file: missing (with the names looked
/// for), malformed, counts that differ, labels above 9, pictures that are not 28 x 28, a wrong MD5.
class FashionMNIST {
 public:
  explicit FashionMNIST(const FashionMNISTOptions& o);
  int64_t size() const { return labels_.size(0); }
  /// Pictures: float32 [N, 1, 28, 28] or [N, 784].
  Tensor images() const;
  /// int64 [N].
  const Tensor& labels() const { return labels_; }
  struct Example {
    Tensor image;
    int64_t label;
  };
  /// IndexError when i is out of range.
  Example get(int64_t i) const;
  /// "T-shirt/top", "Trouser", ...; IndexError when k is not 0..9.
  static const char* class_name(int64_t k);
  /// Batches by number, loaded in the background: epochs in order, or shuffled by the seed; the
  /// last, smaller batch of an epoch is kept.
  BackgroundLoader loader(int64_t batch_size, bool shuffle = true, std::uint64_t seed = 0) const;
  /// The pixels as they are, uint8 [N, 28, 28].
  const Tensor& pixels() const { return pixels_; }

 private:
  Tensor prepare(const Tensor& pixels) const;
  FashionMNISTOptions options_;
  Tensor pixels_, labels_;
};

}  // namespace dropin
