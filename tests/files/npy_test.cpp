#include "dropin/serialize/npy.h"

#include <random>

#include "files/temporary.h"

namespace dropin {
namespace {

using testing::content;
using testing::TemporaryFolder;

std::string npy(const std::string& header, const std::string& data = "", int version = 1) {
  std::string s = "\x93NUMPY";
  s += static_cast<char>(version);
  s += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) s += static_cast<char>(header.size() >> (8 * i));
  return s + header + data;
}
std::string dict(const std::string& descr, const std::string& order, const std::string& shape) {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape +
         ", }     \n";
}
Tensor parse(const std::string& bytes) { return parse_npy(bytes.data(), bytes.size(), "here"); }
template <class T>
std::string bytes_of(const std::vector<T>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T)};
}

TEST(Npy, ReadsEachVersion) {
  const std::string data = bytes_of<float>({1, 2, 3, 4, 5, 6});
  for (const int version : {1, 2, 3}) {
    const Tensor t = parse(npy(dict("<f4", "False", "(2, 3)"), data, version));
    EXPECT_EQ(t.sizes(), (Shape{2, 3}));
    EXPECT_EQ(t.to_vector<int>(), (std::vector<int>{1, 2, 3, 4, 5, 6}));
  }
}

TEST(Npy, ReadsEachDtypeInBothByteOrders) {
  EXPECT_EQ(parse(npy(dict("<f8", "False", "(1,)"), bytes_of<double>({0.1}))).data<double>()[0],
            0.1);
  EXPECT_EQ(
      parse(npy(dict(">f8", "False", "()"), std::string("\x3f\xb9\x99\x99\x99\x99\x99\x9a", 8)))
          .data<double>()[0],
      0.1);
  EXPECT_EQ(parse(npy(dict(">f4", "False", "()"), std::string("\x3f\x80\0\0", 4))).item(), 1.0);
  EXPECT_EQ(
      parse(npy(dict(">f2", "False", "(2,)"), std::string("\x3c\0\xc0\0", 4))).to_vector<double>(),
      (std::vector<double>{1, -2}));
  EXPECT_EQ(parse(npy(dict(">i4", "False", "(1,)"), std::string("\xff\xff\xff\xfe", 4)))
                .data<std::int32_t>()[0],
            -2);
  EXPECT_EQ(parse(npy(dict(">i8", "False", "(1,)"), std::string("\0\0\0\0\0\0\x01\x02", 8)))
                .data<int64_t>()[0],
            258);
  EXPECT_EQ(parse(npy(dict("|i1", "False", "(1,)"), "\xff")).data<std::int8_t>()[0], -1);
  EXPECT_EQ(parse(npy(dict("|u1", "False", "(1,)"), "\xff")).data<std::uint8_t>()[0], 255);
  EXPECT_EQ(parse(npy(dict("|b1", "False", "(2,)"), std::string("\x01\0", 2))).dtype(), kBool);
  EXPECT_ERROR(parse(npy(dict("|b1", "False", "(2,)"), "\x01\x02")), FileError, "a bool byte is 2");
}

TEST(Npy, TurnsFortranOrderIntoCOrder) {
  const Tensor t =
      parse(npy(dict("<i4", "True", "(2, 3)"), bytes_of<std::int32_t>({1, 4, 2, 5, 3, 6})));
  EXPECT_EQ(t.sizes(), (Shape{2, 3}));
  EXPECT_TRUE(t.is_contiguous());
  EXPECT_EQ(t.to_vector<int>(), (std::vector<int>{1, 2, 3, 4, 5, 6}));
  const Tensor u = parse(npy(dict(">i4", "True", "(2, 1, 2)"),
                             std::string("\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04", 16)));
  EXPECT_EQ(u.to_vector<int>(), (std::vector<int>{1, 3, 2, 4}));
  EXPECT_EQ(parse(npy(dict("<i4", "True", "(0, 3)"))).sizes(), (Shape{0, 3}));
}

TEST(Npy, TakesKeysInAnyOrderAndEitherQuote) {
  EXPECT_EQ(parse(npy("{\"shape\":(),'fortran_order':False,\"descr\":'<f4'}", bytes_of<float>({7})))
                .item(),
            7.0);
}

TEST(Npy, RefusesAnotherMagicOrVersion) {
  EXPECT_ERROR(parse(""), FileError, "here: does not begin with npy's magic");
  EXPECT_ERROR(parse("\x93NUMPX\x01\0\0\0"), FileError, "magic");
  EXPECT_ERROR(parse(npy(dict("<f4", "False", "()"), "1234", 4)), FileError, "version 4.0");
  EXPECT_ERROR(parse(npy(dict("<f4", "False", "()"), "1234", 0)), FileError, "version 0.0");
  EXPECT_ERROR(parse(std::string("\x93NUMPY\x02\0\0\0", 10)), FileError, "truncated in the length");
  EXPECT_ERROR(parse(std::string("\x93NUMPY\x01\0\x05\0{}", 12)), FileError,
               "claims 5 bytes, the file has 2");
  EXPECT_ERROR(parse(std::string("\x93NUMPY\x02\0\xff\xff\xff\xff", 12)), FileError,
               "at most 1048576");
}

TEST(Npy, RefusesAHeaderThatIsNotTheDict) {
  const auto refuse = [](const std::string& header, const char* words) {
    EXPECT_ERROR(parse(npy(header, "1234")), FileError, words);
  };
  refuse("", "expected { at byte 0");
  refuse("{", "expected a string at byte 1");
  refuse("{}", "expected descr, fortran_order and shape");
  refuse("{'descr': '<f4', 'shape': (), }", "expected descr, fortran_order and shape");
  refuse("{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}", "unknown key \"x\"");
  refuse("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}",
         "\"descr\" is given twice");
  refuse("{'descr': '<f4', 'fortran_order': False, 'shape': ()} x", "more text after the dict");
  refuse("{'descr': '<f4' 'fortran_order': False, 'shape': ()}", "expected } at byte");
  refuse("{'descr: 1}", "expected a short string");
  refuse(dict("<f4", "0", "()"), "neither True nor False");
  refuse(dict("<f4", "False", "2"), "expected ( at byte");
  refuse(dict("<f4", "False", "(2)"), "expected a tuple");
  refuse(dict("<f4", "False", "(2 2)"), "expected , or )");
  refuse(dict("<f4", "False", "(-2,)"), "expected a size");
  refuse(dict("<f4", "False", "(,)"), "expected a size");
  refuse(dict("<f4", "False", "(1,1,1,1,1,1,1,1,1)"), "more than 8 dimensions");
  refuse(dict("<f4", "False", "(99999999999999999999,)"), "more digits than can be counted");
  refuse("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}",
         "structured dtypes are not supported");
  for (const char* type : {"<f16", "<i2", "<u4", "<c8", "|O", "<U3", "|V2", "f4", "?f4", ""})
    refuse(dict(type, "False", "()"), "is not one of f2, f4");
}

TEST(Npy, RefusesSizesThatDoNotFitTheData) {
  EXPECT_ERROR(parse(npy(dict("<f4", "False", "(2,)"), "1234")), FileError,
               "4 bytes of data, shape [2] of float32 needs 8");
  EXPECT_ERROR(parse(npy(dict("<f4", "False", "()"), "12345")), FileError, "5 bytes of data");
  EXPECT_ERROR(parse(npy(dict("<f4", "False", "(0,)"), "1")), FileError, "1 bytes of data");
  for (const char* shape :
       {"(4611686018427387904,)", "(4294967296, 4294967296)", "(0, 4611686018427387904, 4)"})
    EXPECT_ERROR(parse(npy(dict("<f4", "False", shape))), FileError,
                 "more bytes than can be counted");
}

TEST(Npy, SurvivesDamageAnywhere) {
  const std::string good = npy(dict("<i4", "True", "(2, 1)"), "12345678");
  parse(good);
  for (std::size_t n = 0; n < good.size(); ++n)
    EXPECT_THROW(parse(good.substr(0, n)), FileError) << n;
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string bad = good;
    for (unsigned k = 0; k <= random() % 3; ++k)
      bad[random() % bad.size()] = static_cast<char>(random());
    try {
      parse(bad);
    } catch (const FileError&) {
    }
  }
}

TEST(Npy, WritesWhatNumPyWrites) {
  TemporaryFolder dir;
  save_npy(dir / "a", arange(0, 6).reshape({2, 3}));
  const std::string s = content(dir / "a");
  ASSERT_EQ(s.size(), 128 + 48u);
  EXPECT_EQ(s.substr(0, 10), std::string("\x93NUMPY\x01\0\x76\0", 10));
  EXPECT_EQ(s.substr(10, 118), "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }" +
                                   std::string(58, ' ') + "\n");
}

TEST(Npy, WritesWhatItReads) {
  TemporaryFolder dir;
  for (const DType t : {kFloat32, kFloat64, kFloat16, kInt8, kUInt8, kInt32, kInt64, kBool})
    for (const Shape& shape :
         {Shape{}, Shape{3}, Shape{0}, Shape{2, 0, 3}, Shape{1, 2, 1, 2, 1, 2, 1, 2}}) {
      Tensor x = empty(shape, t);
      if (x.numel())
        std::memset(x.data_ptr(), 1, static_cast<std::size_t>(x.numel() * item_size(t)));
      save_npy(dir / "a", x);
      EXPECT_EQ(content(dir / "a").size() % 64,
                static_cast<std::size_t>(x.numel() * item_size(t)) % 64);
      const Tensor y = load_npy(dir / "a");
      EXPECT_EQ(y.dtype(), t);
      EXPECT_EQ(y.sizes(), shape);
      EXPECT_EQ(y.to_vector(), x.to_vector());
    }
  EXPECT_ERROR(save_npy(dir / "b", zeros({1}, kBFloat16)), DTypeError, "npy has no bfloat16");
  EXPECT_ERROR(load_npy(dir / "b"), FileError, "cannot be read");
  save_npy(dir / "c", arange(0, 6).reshape({2, 3}).transpose(0, 1));
  EXPECT_EQ(load_npy(dir / "c").to_vector<int>(), (std::vector<int>{0, 3, 1, 4, 2, 5}));
}

}  // namespace
}  // namespace dropin
