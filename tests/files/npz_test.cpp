// NumPy's archives and files, opened as checkpoints.
#include "files/archive_bytes.h"

namespace dropin {
namespace {

using namespace testing;

using Doubles = std::vector<double>;

StateFile load_array(const std::string& npy) { return load(zip({{"x.npy", npy}}).bytes); }
void expect_array(const std::string& descr, const std::string& data, const char* format,
                  DType dtype, const Doubles& values) {
  const StateFile f = load_array(npy_bytes(descr, "2,", data));
  ASSERT_EQ(f.tensors.size(), 1u) << descr;
  EXPECT_EQ(f.tensors[0].format, format) << descr;
  EXPECT_EQ(f.tensors[0].dtype, dtype) << descr;
  EXPECT_EQ(f.tensors[0].bytes, data.size()) << descr;
  const Tensor x = f.get("x");
  EXPECT_EQ(x.dtype(), dtype) << descr;
  EXPECT_EQ(x.sizes(), f.tensors[0].shape) << descr;
  EXPECT_EQ(x.to_vector(), values) << descr;
}

TEST(Npz, ReadsEachDType) {
  const auto hex = [](const char* digits) { return from_hex(digits); };
  expect_array("<f2", hex("003e00c0"), "F16", kFloat16, {1.5, -2});
  expect_array("<f4", bytes_of<float>({1.5f, -2}), "F32", kFloat32, {1.5, -2});
  expect_array("<f8", bytes_of<double>({0.1, -2}), "F64", kFloat64, {0.1, -2});
  expect_array("|i1", hex("01ff"), "I8", kInt8, {1, -1});
  expect_array("<i2", hex("0100feff"), "I16", kInt32, {1, -2});
  expect_array("<i4", bytes_of<std::int32_t>({1, -70000}), "I32", kInt32, {1, -70000});
  expect_array("<i8", bytes_of<std::int64_t>({1, -70000}), "I64", kInt64, {1, -70000});
  expect_array("|u1", hex("01ff"), "U8", kUInt8, {1, 255});
  expect_array("<u2", hex("0100feff"), "U16", kInt32, {1, 65534});
  expect_array("<u4", hex("01000000feffffff"), "U32", kInt64, {1, 4294967294.});
  expect_array("<u8", hex("0100000000000000feffffff00000000"), "U64", kInt64, {1, 4294967294.});
  expect_array("|b1", hex("0100"), "BOOL", kBool, {1, 0});
  expect_array("<c8", bytes_of<float>({1, 2, 3, -4}), "C64", kFloat32, {1, 2, 3, -4});
  expect_array("<c16", bytes_of<double>({1, 2, 3, -4}), "C128", kFloat64, {1, 2, 3, -4});
}

TEST(Npz, ReadsBigEndianNumbers) {
  const auto hex = [](const char* digits) { return from_hex(digits); };
  expect_array(">i2", hex("0001fffe"), "I16", kInt32, {1, -2});
  expect_array(">u4", hex("00000001fffffffe"), "U32", kInt64, {1, 4294967294.});
  expect_array(">c8", hex("3f8000004000000040400000c0800000"), "C64", kFloat32, {1, 2, 3, -4});
  EXPECT_EQ(load_array(npy_bytes(">i2", "2,", hex("0001fffe"))).tensors[0].raw(), hex("0100feff"));
}

TEST(Npz, TurnsFortranOrderIntoCOrder) {
  const StateFile f =
      load_array(npy_bytes("<i2", "2, 3", from_hex("010004000200050003000600"), true));
  EXPECT_EQ(f.get("x").sizes(), (Shape{2, 3}));
  EXPECT_EQ(f.get("x").to_vector(), (Doubles{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(f.tensors[0].raw(), from_hex("010002000300040005000600"));
  const StateFile c =
      load_array(npy_bytes("<c8", "2, 2", bytes_of<float>({1, 2, 5, 6, 3, 4, 7, 8}), true));
  EXPECT_EQ(c.get("x").sizes(), (Shape{2, 2, 2}));
  EXPECT_EQ(c.get("x").to_vector(), (Doubles{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(load_array(npy_bytes("<i2", "0, 3", "", true)).get("x").sizes(), (Shape{0, 3}));
}

TEST(Npz, KeepsNamesAndOrder) {
  const std::string x = npy_bytes("<f4", "", bytes_of<float>({1}));
  const StateFile f =
      load(zip({{"z.npy", x, deflate_stored(x)}, {"a/b.npy", x}, {"\xc3\xa9.npy", x}, {".npy", x}})
               .bytes);
  EXPECT_EQ(f.container, "npz");
  std::string names;
  for (const StoredTensor& t : f.tensors) names += "[" + t.name + "]";
  EXPECT_EQ(names, "[z][a/b][\xc3\xa9][]");
  EXPECT_EQ(f.metadata.dump(), "{}");
  EXPECT_EQ(f.state_dict().at("a/b").item(), 1.0);
}

TEST(Npz, ListsWhatItDoesNotReadAndRefusesItByName) {
  const std::string x = npy_bytes("<f4", "", bytes_of<float>({1}));
  const StateFile f = load(zip({{"names.npy", npy_bytes("<U2", "1,", "12345678")},
                                {"objects.npy", npy_bytes("|O", "1,", "\x80\2N.")},
                                {"half.npy", npy_bytes("|V2", "1,", "12")},
                                {"x.npy", x}})
                               .bytes);
  ASSERT_EQ(f.tensors.size(), 4u);
  EXPECT_EQ(f.tensors[0].format, "<U2");
  EXPECT_EQ(f.tensors[0].shape, (Shape{1}));
  EXPECT_ERROR(f.get("names"), FileError,
               "member \"names.npy\": dtype \"<U2\" is not read, expected numbers or bool");
  EXPECT_ERROR(f.get("objects"), FileError,
               "dtype \"|O\" is pickled objects, which are never read");
  EXPECT_ERROR(f.at("half").raw(), FileError, "dtype \"|V2\" is not read");
  EXPECT_EQ(f.get("x").item(), 1.0);
}

TEST(Npz, RefusesMembersThatAreNoArrays) {
  const auto refuse = [](const std::string& npy, const char* why) {
    EXPECT_ERROR(load_array(npy), FileError, why);
  };
  refuse("", "member \"x.npy\": does not begin with npy's magic");
  refuse(npy_bytes("<f4", "2,", "1234"), "4 bytes of data, shape [2] of float32 needs 8");
  refuse(npy_bytes("<u2", "2,", "12345"), "5 bytes of data, shape [2] of <u2 needs 4");
  refuse(npy_bytes("<c8", "1, 1, 1, 1, 1, 1, 1, 1", "12345678"), "a complex array of 8 dimensions");
  refuse(npy_bytes("<u8", "4611686018427387904, 4", ""), "more bytes than can be counted");
  refuse(npy_bytes("[('a', '<f4')]", "1,", "1234"), "structured dtypes are not supported");
  EXPECT_ERROR(load_array(npy_bytes("|b1", "1,", "\2")).get("x"), FileError, "a BOOL byte is 2");
  EXPECT_ERROR(load_array(npy_bytes("<u8", "1,", std::string(8, '\xff'))).get("x"), FileError,
               "beyond int64");
  EXPECT_ERROR(load(zip({{"x.txt", "x"}}).bytes), FileError,
               "member \"x.txt\" is no array, expected an archive of torch.save or of .npy files");
}

TEST(Npz, ReadsALongHeader) {
  std::string npy = npy_bytes("<f4", "2,", "");
  npy.insert(npy.size() - 1, std::string(60000 - npy.size(), ' '));
  npy = patched(npy, 8, little(static_cast<std::uint16_t>(60000 - 10))) + bytes_of<float>({1, 2});
  EXPECT_EQ(load_array(npy).get("x").to_vector(), (Doubles{1, 2}));
  EXPECT_EQ(load(npy).get("arr_0").to_vector(), (Doubles{1, 2}));
}

TEST(Npz, OpensAFileOfOneArray) {
  const StateFile f = load(npy_bytes("<u2", "2,", from_hex("0100ffff")));
  EXPECT_EQ(f.container, "npy");
  ASSERT_EQ(f.tensors.size(), 1u);
  EXPECT_EQ(f.tensors[0].format, "U16");
  EXPECT_EQ(f.get("arr_0").to_vector(), (Doubles{1, 65535}));
  const std::string good = npy_bytes("<u2", "2,", from_hex("0100ffff"));
  for (std::size_t n = 0; n < good.size(); ++n)
    EXPECT_THROW(load(good.substr(0, n)), FileError) << n;
}

}  // namespace
}  // namespace dropin
