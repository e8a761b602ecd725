// Safetensors on disk: written, read back, refused, kept when the disk is full.
#include "dropin/serialize/atomic_file.h"
#include "dropin/serialize/safetensors.h"
#include "files/safetensors_bytes.h"
#include "files/temporary.h"

namespace dropin {
namespace {

using testing::content;
using testing::TemporaryFolder;

TEST(Safetensors, RefusesFilesThatCannotBeRead) {
  TemporaryFolder dir;
  EXPECT_ERROR(load_safetensors(dir / "none"), FileError, "cannot be read: No such file");
  EXPECT_ERROR(load_safetensors(dir / ""), FileError, "is not a regular file");
  EXPECT_ERROR(read_file(dir / ""), FileError, "is not a regular file");
}

TEST(Safetensors, WritesWhatItReads) {
  TemporaryFolder dir;
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const DType t :
       {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8, kUInt8, kInt32, kInt64, kBool}) {
    Tensor x = empty({2, 3}, t);
    std::memset(x.data_ptr(), 1, static_cast<std::size_t>(x.numel() * item_size(t)));
    tensors.emplace_back(std::string("t.") + name(t) + " \"\xc3\xa9\n", x);
  }
  tensors.emplace_back("scalar", empty({}, kBool));
  *tensors.back().second.data<bool>() = true;
  tensors.emplace_back("nothing", empty({0, 4}, kFloat32));
  save_safetensors(dir / "a", tensors, {{"z", "1"}, {"a", "{\"x\": \"y\"}"}});
  const SafetensorsFile f = load_safetensors(dir / "a");
  EXPECT_EQ(f.metadata, (std::vector<std::pair<std::string, std::string>>{
                            {"z", "1"}, {"a", "{\"x\": \"y\"}"}}));
  ASSERT_EQ(f.tensors.size(), tensors.size());
  for (const auto& [n, want] : tensors) {
    const Tensor* got = nullptr;
    for (const auto& [m, t] : f.tensors)
      if (m == n) got = &t;
    ASSERT_TRUE(got) << n;
    EXPECT_EQ(got->dtype(), want.dtype());
    EXPECT_EQ(got->sizes(), want.sizes());
    const auto bytes = static_cast<std::size_t>(want.numel() * item_size(want.dtype()));
    EXPECT_TRUE(bytes == 0 || std::memcmp(got->data_ptr(), want.data_ptr(), bytes) == 0) << n;
  }
  save_safetensors(dir / "b", f.tensors, f.metadata);
  EXPECT_EQ(content(dir / "a"), content(dir / "b")) << "the bytes do not depend on the order given";
}

TEST(Safetensors, WritesAlignedDataWideTypesFirst) {
  TemporaryFolder dir;
  save_safetensors(dir / "a", {{"b", zeros({1}, kUInt8)},
                               {"d", zeros({1}, kFloat32)},
                               {"a", zeros({3}, kUInt8)},
                               {"c", zeros({1}, kFloat64)}});
  const std::string s = content(dir / "a");
  EXPECT_EQ(static_cast<unsigned char>(s[0]) % 8, 0);
  const SafetensorsFile f = load_safetensors(dir / "a");
  std::string order;
  for (const auto& [n, t] : f.tensors) order += n;
  EXPECT_EQ(order, "cdab");
}

TEST(Safetensors, RefusesNamesItCouldNotReadBack) {
  TemporaryFolder dir;
  const Tensor t = zeros({1});
  EXPECT_ERROR(save_safetensors(dir / "a", {{"x", t}, {"y", t}, {"x", t}}), OptionError,
               "\"x\" is given twice");
  EXPECT_ERROR(save_safetensors(dir / "a", {{"__metadata__", t}}), OptionError, "reserved");
  EXPECT_ERROR(save_safetensors(dir / "a", {{"\xff", t}}), OptionError, "not UTF-8");
  EXPECT_ERROR(save_safetensors(dir / "a", {{"x", t}}, {{"k", "1"}, {"k", "2"}}), OptionError,
               "metadata key \"k\" is given twice");
  EXPECT_ERROR(save_safetensors(dir / "a", {{"x", t}}, {{"k", "\xc0"}}), OptionError,
               "metadata value of \"k\" is not UTF-8");
  EXPECT_EQ(dir.files(), 0u);
}

TEST(Safetensors, KeepsTheOldFileWhenTheDiskIsFull) {
  TemporaryFolder dir;
  save_safetensors(dir / "a", {{"x", zeros({1000})}});
  const std::string before = content(dir / "a");
  for (const long long room : {0, 4, 50, 2000}) {
    fail_writes_after(room);
    EXPECT_ERROR(save_safetensors(dir / "a", {{"y", zeros({1000})}}), FileError,
                 "the file is as it was before");
    fail_writes_after(-1);
    EXPECT_EQ(content(dir / "a"), before);
    EXPECT_EQ(dir.files(), 1u);
  }
}

}  // namespace
}  // namespace dropin
