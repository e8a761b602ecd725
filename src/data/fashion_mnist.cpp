// Fashion-MNIST from its published files, or from MNIST's of the same form.
#include "dropin/data/fashion_mnist.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "data/md5.h"
#include "dropin/ops/ops.h"
#include "dropin/serialize/safetensors.h"

namespace dropin {

namespace {

// MD5 of the published .gz files, and of MNIST's files of the same names.
struct Known {
  const char *name, *fashion, *mnist;
};
constexpr Known kFiles[] = {{"train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                             "f68b3c2dcbeaaa9fbdd348bbdeb94873"},
                            {"train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe",
                             "d53e105ee54ea40749a09fcbcd1e9432"},
                            {"t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79",
                             "9fb629c4189551a2d022fa330f9573f3"},
                            {"t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310",
                             "ec29112dd5afa0611ce80d1b7f02629c"}};

std::string locate(const std::string& root, const std::string& name) {
  std::error_code unreadable;  // counts as missing
  for (const std::string& tail : {std::string(".gz"), std::string()})
    if (std::filesystem::is_regular_file(root + "/" + name + tail, unreadable))
      return root + "/" + name + tail;
  const bool folder = std::filesystem::is_directory(root, unreadable);
  fail<FileError>({"FashionMNIST: ", root, folder ? " has no file " : " is no folder with ", name,
                   " (or .gz), expected a folder with Fashion-MNIST's "
                   "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte"});
}

Tensor load(const std::string& root, const std::string& name, bool verify) {
  const std::string path = locate(root, name), bytes = read_file(path);
  const bool packed = path.size() > 3 && path.compare(path.size() - 3, 3, ".gz") == 0;
  if (verify && packed)
    for (const Known& k : kFiles)
      if (name == k.name) {
        const std::string sum = detail::md5(bytes.data(), bytes.size());
        if (sum == k.mnist)
          std::fprintf(stderr, "dropin: warning: %s is MNIST's file, not Fashion-MNIST's\n",
                       path.c_str());
        else if (sum != k.fashion)
          fail<FileError>({path, ": MD5 is ", sum, ", the published file has ", k.fashion,
                           "; pass verify = false to read it all the same"});
      }
  return parse_idx(bytes.data(), bytes.size(), path);
}

}  // namespace

FashionMNIST::FashionMNIST(const FashionMNISTOptions& o) : options_(o) {
  const std::string split = o.split == "test" ? "t10k" : o.split;
  if (split != "train" && split != "t10k" && split != "sprite900")
    fail<OptionError>(
        {"FashionMNIST: split is \"", o.split, "\", expected train, t10k (or test) or sprite900"});
  if (o.root.empty()) fail<OptionError>({"FashionMNIST: root is required"});
  const std::string images = split + "-images-idx3-ubyte", labels = split + "-labels-idx1-ubyte";
  locate(o.root, images);
  pixels_ = load(o.root, images, o.verify);
  const Tensor y = load(o.root, labels, o.verify);
  const std::string where = o.root + "/" + images;
  if (pixels_.dtype() != kUInt8 || pixels_.dim() != 3 || pixels_.size(1) != 28 ||
      pixels_.size(2) != 28)
    fail<FileError>({where, ": images are ", pixels_.sizes(), " ", pixels_.dtype(),
                     ", expected [N, 28, 28] uint8"});
  if (y.dtype() != kUInt8 || y.dim() != 1)
    fail<FileError>(
        {o.root, "/", labels, ": labels are ", y.sizes(), " ", y.dtype(), ", expected [N] uint8"});
  if (pixels_.size(0) != y.size(0))
    fail<FileError>({where, ": ", pixels_.size(0), " images but ", y.size(0), " labels"});
  if (pixels_.size(0) == 0) fail<FileError>({where, ": no images"});
  labels_ = y.to(kInt64);
  if (o.verify) {
    const int64_t most = amax(labels_).item<int64_t>();
    if (most > 9)
      fail<FileError>({o.root, "/", labels, ": a label is ", most, ", expected 0 to 9"});
    const int64_t expected = split == "train" ? 60000 : split == "t10k" ? 10000 : 900;
    if (size() != expected)
      fail<FileError>({where, ": ", size(), " images, expected ", expected,
                       "; pass verify = false to read them all the same"});
  }
}

Tensor FashionMNIST::prepare(const Tensor& pixels) const {
  const Tensor x = options_.normalize ? normalize_images(pixels) : normalize_images(pixels, 0, 1);
  return options_.flatten ? x.reshape({x.size(0), 784}) : x;
}
Tensor FashionMNIST::images() const { return prepare(pixels_); }
FashionMNIST::Example FashionMNIST::get(int64_t i) const {
  if (i < 0 || i >= size()) fail<IndexError>({"FashionMNIST: item ", i, " of ", size()});
  return {prepare(pixels_.narrow(0, i, 1))[0], labels_[i].item<int64_t>()};
}
const char* FashionMNIST::class_name(int64_t k) {
  static constexpr const char* names[] = {"T-shirt/top", "Trouser",   "Pullover", "Dress",
                                          "Coat",        "Sandal",    "Shirt",    "Sneaker",
                                          "Bag",         "Ankle boot"};
  if (k < 0 || k > 9) fail<IndexError>({"FashionMNIST: class ", k, ", expected 0 to 9"});
  return names[k];
}
BackgroundLoader FashionMNIST::loader(int64_t batch_size, bool shuffle, std::uint64_t seed) const {
  if (batch_size <= 0)
    fail<OptionError>({"FashionMNIST: batch_size is ", batch_size, ", expected a positive number"});
  const FashionMNIST copy = *this;
  return BackgroundLoader(
      [copy, batch_size, shuffle, seed, order = Tensor(),
       order_epoch = int64_t{-1}](int64_t i) mutable -> Batch {
        const int64_t n = copy.size(), per_epoch = n / batch_size + (n % batch_size != 0),
                      epoch = i / per_epoch;
        const int64_t at = i % per_epoch * batch_size, k = std::min(batch_size, n - at);
        if (!shuffle)
          return {copy.prepare(copy.pixels_.narrow(0, at, k)),
                  copy.labels_.narrow(0, at, k).clone()};
        if (epoch != order_epoch) {  // one order serves its whole epoch
          Generator g(seed);
          g.set_offset(static_cast<std::uint64_t>(epoch) << 32);
          order = randperm(n, &g);
          order_epoch = epoch;
        }
        const Tensor index = order.narrow(0, at, k);
        return {copy.prepare(index_select(copy.pixels_, 0, index)),
                index_select(copy.labels_, 0, index)};
      },
      0);
}

}  // namespace dropin
