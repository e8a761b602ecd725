#include "dropin/data/fashion_mnist.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "files/temporary.h"

namespace dropin {
namespace {

using testing::TemporaryFolder;

std::string idx(const std::vector<std::uint32_t>& sizes, const std::string& data, int code = 8) {
  std::string s{'\0', '\0', static_cast<char>(code), static_cast<char>(sizes.size())};
  for (const std::uint32_t n : sizes)
    for (int shift = 24; shift >= 0; shift -= 8) s += static_cast<char>(n >> shift);
  return s + data;
}

// A folder with a plain "train" split of n pictures: picture i is filled with i, its label is i
// % 10.
struct Data {
  TemporaryFolder folder;
  FashionMNISTOptions options{.root = folder / "", .verify = false};
  explicit Data(std::uint32_t n) {
    std::string pixels, labels;
    for (std::uint32_t i = 0; i < n; ++i) {
      pixels += std::string(784, static_cast<char>(i));
      labels += static_cast<char>(i % 10);
    }
    images(idx({n, 28, 28}, pixels));
    this->labels(idx({n}, labels));
  }
  void images(const std::string& bytes) {
    testing::write(folder / "train-images-idx3-ubyte", bytes);
  }
  void labels(const std::string& bytes) {
    testing::write(folder / "train-labels-idx1-ubyte", bytes);
  }
};

TEST(NormalizeImages, ScalesShiftsAndAddsTheChannel) {
  Tensor x = empty({2, 3, 4}, kUInt8);
  for (int i = 0; i < 24; ++i) x.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i * 11);
  const Tensor y = normalize_images(x), z = normalize_images(x.transpose(1, 2), 0.5, 0.25);
  EXPECT_EQ(y.sizes(), (Shape{2, 1, 3, 4}));
  EXPECT_EQ(z.sizes(), (Shape{2, 1, 4, 3}));
  for (int i = 0; i < 24; ++i)
    EXPECT_NEAR(y.data<float>()[i], (i * 11 / 255.0 - 0.2860) / 0.3530, 5e-7);
  EXPECT_NEAR(z[1][0][3][2].item(), (23 * 11 / 255.0 - 0.5) / 0.25, 5e-7);
  EXPECT_EQ(normalize_images(empty({0, 28, 28}, kUInt8)).sizes(), (Shape{0, 1, 28, 28}));
}

TEST(NormalizeImages, RefusesWhatIsNotPictures) {
  EXPECT_ERROR(normalize_images(zeros({1, 28, 28})), ShapeError, "expected [N, H, W] uint8");
  EXPECT_ERROR(normalize_images(zeros({28, 28}, kUInt8)), ShapeError, "expected [N, H, W] uint8");
  for (const double std : {0.0, -1.0, std::nan("")})
    EXPECT_ERROR(normalize_images(zeros({1, 2, 2}, kUInt8), 0, std), OptionError, "std is ");
}

TEST(FashionMNIST, GivesPicturesAndLabels) {
  const Data d(12);
  const FashionMNIST set(d.options);
  EXPECT_EQ(set.size(), 12);
  EXPECT_EQ(set.images().sizes(), (Shape{12, 1, 28, 28}));
  EXPECT_EQ(set.labels().dtype(), kInt64);
  EXPECT_EQ(set.labels()[11].item<int>(), 1);
  const auto [image, label] = set.get(7);
  EXPECT_EQ(image.sizes(), (Shape{1, 28, 28}));
  EXPECT_NEAR(image[0][27][27].item(), (7 / 255.0 - 0.2860) / 0.3530, 5e-7);
  EXPECT_EQ(label, 7);
  EXPECT_ERROR(set.get(12), IndexError, "item 12 of 12");
  EXPECT_ERROR(set.get(-1), IndexError, "item -1");
  EXPECT_STREQ(FashionMNIST::class_name(9), "Ankle boot");
  EXPECT_ERROR(FashionMNIST::class_name(10), IndexError, "class 10");
}

TEST(FashionMNIST, FlattensAndLeavesPixelsUnscaledWhenAsked) {
  Data d(3);
  d.options.normalize = false;
  d.options.flatten = true;
  const Tensor x = FashionMNIST(d.options).images();
  EXPECT_EQ(x.sizes(), (Shape{3, 784}));
  EXPECT_FLOAT_EQ(x[2][100].item<float>(), 2 / 255.f);
}

TEST(FashionMNIST, LoadsEveryPictureOnceAnEpoch) {
  const Data d(10);
  const FashionMNIST set(d.options);
  BackgroundLoader in_order = set.loader(4, false), shuffled = set.loader(4, true, 5),
                   again = set.loader(4, true, 5);
  std::vector<std::vector<int>> epochs;
  for (int epoch = 0; epoch < 2; ++epoch) {
    std::vector<int> seen;
    for (const int expected : {4, 4, 2}) {
      const Batch plain = in_order.next(), b = shuffled.next(), c = again.next();
      EXPECT_EQ(plain.x.sizes(), (Shape{expected, 1, 28, 28}));
      EXPECT_EQ(plain.y[0].item<int>(), static_cast<int>(seen.size()))
          << "unshuffled: in the file's order";
      EXPECT_EQ(b.y.sizes(), (Shape{expected}));
      EXPECT_EQ(b.y.to_vector<int>(), c.y.to_vector<int>()) << "the seed says the order";
      for (int i = 0; i < expected; ++i) {
        const int label = b.y[i].item<int>();
        EXPECT_NEAR(b.x[i][0][5][5].item(), (label / 255.0 - 0.2860) / 0.3530, 5e-7)
            << "picture and label stay together";
        seen.push_back(label);
      }
    }
    epochs.push_back(seen);
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  }
  EXPECT_NE(epochs[0], epochs[1]) << "each epoch has its own order";
  EXPECT_ERROR(set.loader(0), OptionError, "batch_size is 0");
}

TEST(FashionMNIST, TakesABatchLargerThanTheSet) {
  const Data d(3);
  EXPECT_EQ(
      FashionMNIST(d.options).loader(std::numeric_limits<int64_t>::max(), false).next().x.size(0),
      3);
}

TEST(FashionMNIST, RefusesEachBadFileInItsOwnWords) {
  {
    const TemporaryFolder nothing;
    EXPECT_ERROR(FashionMNIST({.root = nothing / ""}), FileError,
                 " has no file train-images-idx3-ubyte (or .gz)");
    EXPECT_ERROR(FashionMNIST({.root = nothing / "none", .split = "test"}), FileError,
                 "none is no folder with t10k-images-idx3-ubyte (or .gz)");
  }
  EXPECT_ERROR(FashionMNIST({.root = "x", .split = "validation"}), OptionError,
               "split is \"validation\"");
  EXPECT_ERROR(FashionMNIST({}), OptionError, "root is required");
  Data d(2);
  const auto refused = [&](const char* why) {
    EXPECT_ERROR(FashionMNIST(d.options), FileError, why);
  };
  const std::string two(2 * 784, '\1');
  d.images("\1\2\3\4");
  refused("train-images-idx3-ubyte: wrong magic");
  d.images(idx({2, 28, 28}, two + "x"));
  refused("train-images-idx3-ubyte: more data than its sizes");
  d.images(idx({2, 28, 28}, two.substr(1)));
  refused("train-images-idx3-ubyte: truncated");
  d.images(idx({2, 14, 56}, two));
  refused("images are [2, 14, 56] uint8, expected [N, 28, 28] uint8");
  d.images(idx({2, 28, 28}, two, 9));
  refused("images are [2, 28, 28] int32");
  d.images(idx({2, 28, 28}, two));
  d.labels(idx({3}, "\1\2\3"));
  refused("2 images but 3 labels");
  d.labels(idx({2, 1}, "\1\2"));
  refused("labels are [2, 1] uint8, expected [N] uint8");
  d.images(idx({0, 28, 28}, ""));
  d.labels(idx({0}, ""));
  refused("no images");
  std::filesystem::remove(d.folder / "train-labels-idx1-ubyte");
  refused(" has no file train-labels-idx1-ubyte (or .gz)");
}

TEST(FashionMNIST, VerifiesLabelsCountsAndSums) {
  Data d(2);
  d.options.verify = true;
  EXPECT_ERROR(FashionMNIST(d.options), FileError, "2 images, expected 60000");
  d.labels(idx({2}, "\x01\x0a"));
  EXPECT_ERROR(FashionMNIST(d.options), FileError,
               "train-labels-idx1-ubyte: a label is 10, expected 0 to 9");
  testing::write(d.folder / "train-images-idx3-ubyte.gz",
                 "\x1f\x8b");  // comes before the plain file
  EXPECT_ERROR(FashionMNIST(d.options), FileError,
               "the published file has 8d4fb7e6c68d591d4c3dfef9ec88bf0d");
  d.options.verify = false;
  EXPECT_ERROR(FashionMNIST(d.options), FileError,
               "train-images-idx3-ubyte.gz: the gzip data is truncated");
}

}  // namespace
}  // namespace dropin
