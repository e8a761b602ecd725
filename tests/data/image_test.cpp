// Pictures: what is written is read, in other channels as torchvision 0.29 does, and what is broken
// is refused; folders of classes.
#include "dropin/data/image.h"

#include <filesystem>
#include <fstream>

#include "dropin/data/data_loader.h"
#include "dropin/data/image_folder.h"
#include "dropin/serialize/safetensors.h"
#include "support.h"

namespace dropin {
namespace {

namespace fs = std::filesystem;
using testing::expect_values;
using testing::max_difference;

Tensor picture(int64_t channels, int64_t h, int64_t w) {
  return remainder(arange(channels * h * w) * 53, 256).to(kUInt8).reshape({channels, h, w});
}
// Slow changes, as photographs have.
Tensor smooth(int64_t channels, int64_t h, int64_t w) {
  Tensor x = empty({channels, h, w}, kUInt8);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < h * w; ++i)
      x.data<std::uint8_t>()[c * h * w + i] =
          static_cast<std::uint8_t>(40 + 30 * c + 2 * (i / w) + 3 * (i % w));
  return x;
}

// A build without libpng or libjpeg refuses in words, and there is nothing else to test.
bool has_libraries() {
  try {
    encode_png(zeros({1, 1, 1}, kUInt8));
    encode_jpeg(zeros({1, 1, 1}, kUInt8));
    return true;
  } catch (const StateError& e) {
    EXPECT_NE(std::string(e.what()).find("build it again with"), std::string::npos);
    return false;
  }
}
#define NEEDS_LIBRARIES() \
  if (!has_libraries()) GTEST_SKIP() << "this build has no libpng or libjpeg"

struct Folder {
  fs::path path = fs::path(::testing::TempDir()) / "dropin_images";
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
};

TEST(Image, PngGivesBackWhatWasWritten) {
  NEEDS_LIBRARIES();
  for (const int64_t channels : {1, 2, 3, 4})
    for (const int level : {0, 6, 9}) {
      const Tensor x = picture(channels, 5, 7);
      EXPECT_EQ(max_difference(decode_image(encode_png(x, level)), x), 0) << channels;
    }
  const Folder folder;
  const std::string path = (folder.path / "a.png").string();
  write_png(path, picture(3, 2, 3).transpose(1, 2));  // not contiguous
  EXPECT_EQ(max_difference(read_image(path), picture(3, 2, 3).transpose(1, 2)), 0);
}

TEST(Image, JpegIsNear) {
  NEEDS_LIBRARIES();
  for (const int64_t channels : {1, 3}) {
    const Tensor x = smooth(channels, 16, 24), y = decode_image(encode_jpeg(x, 95));
    EXPECT_EQ(y.sizes(), x.sizes());
    EXPECT_LT(max_difference(y.to(kFloat32), x.to(kFloat32)), 6);
    EXPECT_LT(encode_jpeg(x, 20).size(), encode_jpeg(x, 95).size());
  }
}

std::string exif(int orientation, bool little, int tags_before = 0, int type = 3) {
  auto number = [&](std::uint32_t v, int size) {
    std::string r;
    for (int i = 0; i < size; ++i)
      r += static_cast<char>(v >> 8 * (little ? i : size - 1 - i) & 0xFF);
    return r;
  };
  std::string t =
      (little ? "II" : "MM") + number(42, 2) + number(8, 4) + number(tags_before + 1, 2);
  for (int i = 0; i < tags_before; ++i)
    t += number(0x100 + static_cast<std::uint32_t>(i), 2) + number(3, 2) + number(1, 4) +
         number(7, 4);
  t += number(0x112, 2) + number(static_cast<std::uint32_t>(type), 2) + number(1, 4);
  const auto value = static_cast<std::uint32_t>(orientation);
  return t + (type == 3 ? number(value, 2) + number(0, 2) : number(value, 4)) + number(0, 4);
}
std::string app1(const std::string& body) {
  const std::size_t n = body.size() + 2;
  return "\xff\xe1" + std::string{static_cast<char>(n >> 8), static_cast<char>(n & 0xFF)} + body;
}
const std::string kExif("Exif\0\0", 6);

// What torchvision 0.29.2 makes of each orientation.
Tensor turned(const Tensor& x, int orientation) {
  const Tensor t = x.transpose(1, 2);
  switch (orientation) {
    case 2:
      return flip(x, {2});
    case 3:
      return flip(x, {1, 2});
    case 4:
      return flip(x, {1});
    case 5:
      return t;
    case 6:
      return flip(t, {2});
    case 7:
      return flip(t, {1, 2});
    case 8:
      return flip(t, {1});
    default:
      return x;
  }
}

TEST(Image, TurnsUprightWhereItIsTold) {
  NEEDS_LIBRARIES();
  const std::string jpeg = encode_jpeg(smooth(3, 8, 16), 95);
  const Tensor plain = decode_image(jpeg);
  auto with = [&](const std::string& parts) { return jpeg.substr(0, 2) + parts + jpeg.substr(2); };
  auto read = [](const std::string& bytes) {
    return decode_image(bytes, ImageReadMode::UNCHANGED, "image", true);
  };
  for (int o = 0; o <= 10; ++o)
    for (const bool little : {false, true}) {
      const std::string file = with(app1(kExif + exif(o, little)));
      const Tensor y = read(file), want = turned(plain, o);
      ASSERT_EQ(y.sizes(), want.sizes()) << o;
      EXPECT_EQ(max_difference(y, want), 0) << o;
      EXPECT_EQ(max_difference(decode_image(file), plain), 0) << "untold";
      const std::string long_file = with(app1(kExif + exif(o, little, 3, 4)));
      EXPECT_EQ(max_difference(read(long_file), want), 0) << "behind others, 32 bits";
      const std::string second =
          with(app1("http://ns.adobe.com/xap/1.0/") + app1(kExif + exif(o, little)));
      EXPECT_EQ(max_difference(read(second), want), 0) << "behind another APP1";
    }
  EXPECT_EQ(max_difference(read(jpeg), plain), 0) << "no EXIF";
  const std::string whole = kExif + exif(6, true, 2);
  for (std::size_t n = 0; n < whole.size() - 4 - 12; ++n)
    EXPECT_EQ(max_difference(read(with(app1(whole.substr(0, n)))), plain), 0)
        << n << " bytes of it";
  std::string far = whole;
  far.replace(kExif.size() + 4, 4, "\xff\xff\xff\xff");
  EXPECT_EQ(max_difference(read(with(app1(far))), plain), 0) << "an offset past its end";
  const Folder folder;
  const std::string path = (folder.path / "a.jpg").string();
  std::ofstream(path, std::ios::binary) << with(app1(kExif + exif(6, true)));
  EXPECT_EQ(read_image(path, ImageReadMode::RGB, true).sizes(), (Shape{3, 16, 8}));
  EXPECT_EQ(read_image(path).sizes(), (Shape{3, 8, 16}));
}

TEST(Image, APngsOrientationStandsInAChunk) {
  NEEDS_LIBRARIES();
  const Tensor x = picture(3, 5, 7);
  const std::string png = encode_png(x);
  // length, type, data, CRC-32 of type and data
  const std::string chunk = std::string(
                                "\0\0\0\x1a"
                                "eXIf",
                                8) +
                            exif(6, false) + "\xd6\x67\x4b\x69";
  const std::string file = png.substr(0, 33) + chunk + png.substr(33);
  const Tensor y = decode_image(file, ImageReadMode::UNCHANGED, "image", true);
  ASSERT_EQ(y.sizes(), (Shape{3, 7, 5}));
  EXPECT_EQ(max_difference(y, turned(x, 6)), 0);
  EXPECT_EQ(max_difference(decode_image(file), x), 0);
}

TEST(Image, OtherChannelsAsTorchvision) {
  NEEDS_LIBRARIES();
  const std::string png = encode_png(picture(3, 2, 3));
  expect_values(decode_image(png, ImageReadMode::GRAY), {50, 103, 156, 180, 83, 59});
  const Tensor rgba = decode_image(png, ImageReadMode::RGB_ALPHA);
  EXPECT_EQ(rgba.sizes(), (Shape{4, 2, 3}));
  expect_values(rgba[3], {255, 255, 255, 255, 255, 255});
  const Tensor gray = picture(2, 2, 3);  // with alpha
  const std::string with_alpha = encode_png(gray);
  EXPECT_EQ(max_difference(decode_image(with_alpha, ImageReadMode::GRAY), gray.narrow(0, 0, 1)), 0);
  const Tensor color = decode_image(with_alpha, ImageReadMode::RGB_ALPHA);
  EXPECT_EQ(max_difference(color[2], gray[0]), 0);
  EXPECT_EQ(max_difference(color[3], gray[1]), 0);
  EXPECT_EQ(decode_image(with_alpha, ImageReadMode::RGB).sizes(), (Shape{3, 2, 3}));
  const std::string jpeg = encode_jpeg(smooth(3, 8, 8), 90);
  EXPECT_EQ(decode_image(jpeg, ImageReadMode::GRAY).sizes(), (Shape{1, 8, 8}));
  EXPECT_EQ(decode_image(jpeg, ImageReadMode::GRAY_ALPHA).sizes(), (Shape{2, 8, 8}));
}

// Every prefix of a file, and files with a byte changed: an error in words or a picture, never
// more.
TEST(Image, WhatIsBrokenIsRefused) {
  NEEDS_LIBRARIES();
  for (const std::string& whole : {encode_png(smooth(3, 9, 11)), encode_jpeg(smooth(3, 9, 11))}) {
    const Shape size{3, 9, 11};
    for (std::size_t n = 0; n < whole.size(); ++n)
      EXPECT_THROW(decode_image(whole.substr(0, n)), FileError) << n << " of " << whole.size();
    int refused = 0;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ 0x55);
      try {
        decode_image(changed);
      } catch (const FileError&) {
        ++refused;
      }
    }
    EXPECT_GT(refused, 10);
  }
  EXPECT_ERROR(decode_image("GIF89a", ImageReadMode::RGB, "a.gif"), FileError,
               "a.gif: neither PNG nor JPEG");
  std::string huge = encode_png(picture(1, 1, 1));  // its header says 65535 x 65535
  for (const std::size_t i : {18, 19, 22, 23}) huge[i] = '\xff';
  EXPECT_THROW(decode_image(huge), FileError);
  std::string large = encode_jpeg(smooth(1, 8, 8));  // its header says 10922 x 10922
  const std::size_t frame = large.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  for (const std::size_t i : {5, 7}) large[frame + i] = '\x2a';
  for (const std::size_t i : {6, 8}) large[frame + i] = '\xaa';
  EXPECT_ERROR(decode_image(large), FileError, "10922 x 10922 pixels cannot be in");
  EXPECT_ERROR(read_image("/no/such.png"), FileError, "/no/such.png");
}

TEST(Image, RefusesWhatNoFileHolds) {
  EXPECT_ERROR(encode_png(zeros({3, 2, 2})), DTypeError, "expected uint8");
  EXPECT_ERROR(encode_png(zeros({5, 2, 2}, kUInt8)), ShapeError, "expected [1 to 4, H, W]");
  EXPECT_ERROR(encode_jpeg(zeros({4, 2, 2}, kUInt8)), ShapeError, "expected [1 or 3, H, W]");
  EXPECT_ERROR(encode_png(zeros({3, 0, 2}, kUInt8)), ShapeError, "[3, 0, 2]");
  EXPECT_ERROR(encode_png(picture(1, 1, 1), 10), OptionError, "compression_level is 10");
  EXPECT_ERROR(encode_jpeg(picture(1, 1, 1), 0), OptionError, "quality is 0");
}

TEST(ImageFolder, ReadsClassesInOrderTheSameForAnyWorkers) {
  NEEDS_LIBRARIES();
  const Folder folder;
  for (const char* name : {"dog", "cat"}) {
    fs::create_directories(folder.path / name);
    for (int i = 0; i < 6; ++i) {
      const Tensor x = remainder(picture(3, 6, 8).to(kInt64) + 7 * i, 256).to(kUInt8);
      write_png((folder.path / name / (std::to_string(i) + ".PNG")).string(), x);
    }
  }
  std::ofstream(folder.path / "cat" / "notes.txt") << "no picture";
  const ImageFolder plain(folder.path.string());
  EXPECT_EQ(plain.classes(), (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(plain.size(), 12);
  EXPECT_EQ(plain.get(7)[1].item<int64_t>(), 1);
  EXPECT_EQ(plain.get(7)[0].sizes(), (Shape{3, 6, 8}));
  EXPECT_ERROR(plain.get(12), IndexError, "example 12, expected 0 to 11");

  const ImageFolder random(
      folder.path.string(),
      transforms::Compose({transforms::RandomResizedCrop({4}), transforms::RandomHorizontalFlip(),
                           transforms::ToDtype(kFloat32, true)}));
  auto epoch = [&](int64_t workers) {
    DataLoader loader(
        random,
        {.batch_size = 5, .shuffle = true, .num_workers = workers, .generator = Generator(3)});
    Tensors all;
    for (const Tensors& batch : loader) all.push_back(batch[0]);
    return concat(all);
  };
  const Tensor one = epoch(0);
  EXPECT_EQ(one.sizes(), (Shape{12, 3, 4, 4}));
  EXPECT_EQ(max_difference(epoch(3), one), 0);

  EXPECT_ERROR(ImageFolder((folder.path / "none").string()), FileError, "cannot be read");
  EXPECT_ERROR(ImageFolder((folder.path / "cat").string()), FileError, "no folders in it");
  fs::create_directories(folder.path / "empty");
  EXPECT_ERROR(ImageFolder(folder.path.string()), FileError, "empty: no .png");
}

}  // namespace
}  // namespace dropin
