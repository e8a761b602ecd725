#include <zlib.h>

#include <random>

#include "data/md5.h"
#include "dropin/data/fashion_mnist.h"
#include "files/temporary.h"

namespace dropin {
namespace {

using testing::TemporaryFolder;

std::string number(std::uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8),
          static_cast<char>(v)};
}
std::string idx(int code, const std::vector<std::uint32_t>& sizes, const std::string& data) {
  std::string s{'\0', '\0', static_cast<char>(code), static_cast<char>(sizes.size())};
  for (const std::uint32_t n : sizes) s += number(n);
  return s + data;
}
// One gzip member; with a file name in its header if asked.
std::string gzip(const std::string& plain, const char* name = nullptr) {
  z_stream z{};
  deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY);
  gz_header header{};
  header.name = reinterpret_cast<Bytef*>(const_cast<char*>(name));
  if (name) deflateSetHeader(&z, &header);
  std::string out(plain.size() / 2 + 1000, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
  z.avail_in = static_cast<uInt>(plain.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}
Tensor parse(const std::string& bytes) { return parse_idx(bytes.data(), bytes.size(), "here"); }

TEST(ParseIdx, WidensEachTypeFromBigEndian) {
  EXPECT_EQ(parse(idx(0x08, {2}, "\x01\xff")).to_vector<int>(), (std::vector<int>{1, 255}));
  EXPECT_EQ(parse(idx(0x08, {2}, "\x01\xff")).dtype(), kUInt8);
  EXPECT_EQ(parse(idx(0x09, {2}, "\x01\xff")).to_vector<int>(), (std::vector<int>{1, -1}));
  EXPECT_EQ(parse(idx(0x0b, {2}, std::string("\x01\x02\xff\xfe", 4))).to_vector<int>(),
            (std::vector<int>{258, -2}));
  EXPECT_EQ(parse(idx(0x0c, {2}, std::string("\0\0\x01\x02\x80\0\0\0", 8))).to_vector<int>(),
            (std::vector<int>{258, INT32_MIN}));
  EXPECT_EQ(parse(idx(0x0c, {0}, "")).dtype(), kInt32);
  EXPECT_EQ(parse(idx(0x0d, {1}, std::string("\xbf\x80\0\0", 4))).item(), -1.0);
  EXPECT_EQ(parse(idx(0x0e, {1}, std::string("\x3f\xe0\0\0\0\0\0\0", 8))).item(), 0.5);
  EXPECT_EQ(parse(idx(0x0e, {1}, std::string("\x3f\xe0\0\0\0\0\0\0", 8))).dtype(), kFloat32);
}

TEST(ParseIdx, TakesAnyNumberOfDimensions) {
  EXPECT_EQ(parse(idx(0x08, {2, 1, 1, 3}, "123456")).sizes(), (Shape{2, 1, 1, 3}));
  EXPECT_EQ(parse(idx(0x08, {}, "1")).dim(), 0);
  EXPECT_EQ(parse(idx(0x0b, {0, 28, 28}, "")).sizes(), (Shape{0, 28, 28}));
  std::string many;
  for (int i = 0; i < 10000; ++i) many += {static_cast<char>(i >> 8), static_cast<char>(i)};
  const Tensor t = parse(idx(0x0b, {100, 100}, many));
  for (int i = 0; i < 10000; ++i) ASSERT_EQ(t.data<std::int32_t>()[i], i);
}

TEST(ParseIdx, RecognisesGzipByItsFirstBytes) {
  const std::string plain = idx(0x08, {3, 2}, "abcdef");
  EXPECT_EQ(parse(gzip(plain)).to_vector<int>(), parse(plain).to_vector<int>());
  EXPECT_EQ(parse(gzip(plain, "train-images-idx3-ubyte")).sizes(), (Shape{3, 2}));
  for (std::size_t cut = 0; cut <= plain.size();
       ++cut)  // several members, even in the middle of a number
    EXPECT_EQ(parse(gzip(plain.substr(0, cut)) + gzip(plain.substr(cut))).to_vector<int>(),
              parse(plain).to_vector<int>())
        << cut;
}

TEST(ParseIdx, RefusesEachRuleBrokenInItsOwnWords) {
  EXPECT_ERROR(parse(""), FileError, "here: truncated");
  EXPECT_ERROR(parse(std::string("\x01\0\x08\x01", 4)), FileError, "wrong magic");
  EXPECT_ERROR(parse(std::string("\0\x01\x08\x01", 4)), FileError, "wrong magic");
  for (const int code : {0, 7, 0x0a, 0x0f, 0xff})
    EXPECT_ERROR(parse(idx(code, {1}, "1")), FileError,
                 "unknown IDX type code " + std::to_string(code));
  EXPECT_ERROR(parse(std::string("\0\0\x08\x02\0\0\0\x01", 8)), FileError,
               "truncated in the sizes");
  EXPECT_ERROR(parse(idx(0x08, std::vector<std::uint32_t>(9, 1), "1")), FileError, "9 dimensions");
  EXPECT_ERROR(parse(idx(0x08, {0xffffffff, 0xffffffff, 0xffffffff}, "")), FileError,
               "more than 2^31 elements");
  EXPECT_ERROR(parse(idx(0x08, {0x80000001}, "")), FileError, "more than 2^31 elements");
  EXPECT_ERROR(parse(idx(0x08, {4}, "123")), FileError, "truncated: ");
  EXPECT_ERROR(parse(idx(0x0b, {2}, "123")), FileError, "truncated: ");
  EXPECT_ERROR(parse(idx(0x08, {2}, "123")), FileError, "more data than its sizes [2] say");
  EXPECT_ERROR(parse(idx(0x08, {0}, "1")), FileError, "more data than its sizes [0] say");
}

TEST(ParseIdx, ZerosDoNotHideSizesThatOverflow) {
  EXPECT_ERROR(parse(idx(0x08, {0, 0xffffffff, 0xffffffff, 0xffffffff}, "")), FileError,
               "more than 2^31 elements");
  EXPECT_ERROR(parse(idx(0x08, {0xffffffff, 0xffffffff, 0xffffffff, 0}, "")), FileError,
               "more than 2^31 elements");
}

TEST(ParseIdx, RefusesCorruptGzip) {
  const std::string plain = idx(0x08, {3, 2}, "abcdef"), packed = gzip(plain);
  for (std::size_t n = 0; n < packed.size(); ++n)
    EXPECT_THROW(parse(packed.substr(0, n)), FileError) << n;
  std::string wrong_crc = packed;
  wrong_crc[packed.size() - 8] ^= 1;
  EXPECT_ERROR(parse(wrong_crc), FileError, "corrupt gzip data (incorrect data check)");
  std::string wrong_length = packed;
  wrong_length[packed.size() - 1] ^= 1;
  EXPECT_ERROR(parse(wrong_length), FileError, "corrupt gzip data (incorrect length check)");
  EXPECT_ERROR(parse(packed + "garbage"), FileError, "7 bytes after the gzip data");
  EXPECT_ERROR(parse(packed + gzip("x")), FileError, "more data than its sizes");
  EXPECT_ERROR(parse(packed + std::string("\x1f\x8b", 2)), FileError, "truncated");
}

TEST(ParseIdx, BombsCostNeitherMemoryNorTime) {
  const std::string zeros(100'000'000, '\0');
  EXPECT_ERROR(parse(gzip(idx(0x08, {10}, zeros))), FileError, "more data than its sizes");
  EXPECT_ERROR(parse(gzip(idx(0x08, {0x7fffffff}, ""))), FileError, "truncated");
}

TEST(ParseIdx, SurvivesDamageAnywhere) {
  std::mt19937 random(1);
  for (const std::string& good :
       {idx(0x0b, {2, 3}, "123456789012"), gzip(idx(0x0e, {2}, "1234567890123456"))})
    for (int i = 0; i < 5000; ++i) {
      std::string bad = good;
      for (unsigned k = 0; k <= random() % 3; ++k)
        bad[random() % bad.size()] = static_cast<char>(random());
      try {
        parse(bad);
      } catch (const FileError&) {
      }
    }
}

TEST(ParseIdx, NamesTheFile) {
  TemporaryFolder dir;
  testing::write(dir / "bad-idx", "no");
  EXPECT_ERROR(read_idx(dir / "bad-idx"), FileError, "bad-idx: truncated");
  EXPECT_ERROR(read_idx(dir / "none"), FileError, "none: cannot be read");
}

TEST(Md5, KnowsTheAnswersOfItsRfc) {
  const auto md5 = [](const std::string& s) { return detail::md5(s.data(), s.size()); };
  EXPECT_EQ(md5(""), "d41d8cd98f00b204e9800998ecf8427e");
  EXPECT_EQ(md5("abc"), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(md5("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
  EXPECT_EQ(md5("12345678901234567890123456789012345678901234567890123456789012345678901234567890"),
            "57edf4a22be3c955ac49da2e2107b67a");
  EXPECT_EQ(md5(std::string(55, 'a')), "ef1772b6dff9a122358552954ad0df65");
  EXPECT_EQ(md5(std::string(56, 'a')), "3b0c8ac703f828b04c6c197006d17218");
  EXPECT_EQ(md5(std::string(64, 'a')), "014842d480b571495a4a0363793f7367");
  EXPECT_EQ(md5(std::string(1'000'000, 'a')), "7707d6ae4e027c70eea2a935c2296f21");
}

}  // namespace
}  // namespace dropin
