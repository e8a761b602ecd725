// GGUF: files byte by byte, blocks against what the gguf package (0.19.0) makes of the same bytes.
#include "serialize/gguf_blocks.h"

#include "dropin/serialize/save_state.h"
#include "files/temporary.h"
#include "serialize/gguf_numbers.h"

namespace dropin {
namespace {

using serialize_detail::find_gguf_type;
using serialize_detail::GgufType;
using testing::TemporaryFolder;
using testing::write;

std::uint64_t fnv(const void* data, std::size_t n) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < n; ++i)
    h = (h ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3;
  return h;
}

/// A file's bytes, put together.
class GgufBytes {
 public:
  explicit GgufBytes(std::uint32_t version = 3) : version_(version) {}
  template <class T>
  static std::string number(T v) {
    return {reinterpret_cast<const char*>(&v), sizeof v};
  }
  static std::string text(const std::string& s) { return number<std::uint64_t>(s.size()) + s; }
  GgufBytes& note(const std::string& key, std::uint32_t type, const std::string& value) {
    notes_ += text(key) + number(type) + value;
    ++keys_;
    return *this;
  }
  /// dims: as the file lists them, the fastest first.
  GgufBytes& tensor(const std::string& name, const std::vector<std::uint64_t>& dims,
                    std::uint32_t type, std::uint64_t offset) {
    infos_ += text(name) + number(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t d : dims) infos_ += number(d);
    infos_ += number(type) + number(offset);
    ++tensors_;
    return *this;
  }
  std::string done(const std::string& data, std::size_t alignment = 32) const {
    std::string s = "GGUF" + number(version_) + number(tensors_) + number(keys_) + notes_ + infos_;
    s.resize((s.size() + alignment - 1) / alignment * alignment, '\0');
    return s + data;
  }

 private:
  std::uint32_t version_;
  std::uint64_t tensors_ = 0, keys_ = 0;
  std::string notes_, infos_;
};

std::string floats(std::initializer_list<float> v) {
  std::string s;
  for (const float x : v) s += GgufBytes::number(x);
  return s;
}
StateFile opened(const TemporaryFolder& dir, const std::string& bytes) {
  write(dir / "m.gguf", bytes);
  return load_state(dir / "m.gguf");
}
std::string refused(const TemporaryFolder& dir, const std::string& bytes) {
  write(dir / "m.gguf", bytes);
  return testing::refusal<FileError>([&] { load_state(dir / "m.gguf"); });
}

TEST(Gguf, BlocksAreReadAndWrittenAsTheGgufPackageDoes) {
  struct Case {
    const char* name;
    std::vector<int> halves;  ///< where a block has a float16: scales, which are given sane values
    std::uint64_t values, blocks;
  };
  const Case cases[] = {
      {"Q4_0", {0}, 0x5ae32472201ff6a0, 0x1126d0242f86bc4f},
      {"Q4_1", {0, 2}, 0x2c6f700871e7a4f4, 0xccb56b92bf84b23d},
      {"Q5_0", {0}, 0x7cf4bba367dbf67b, 0x92c5fc8b6375d245},
      {"Q5_1", {0, 2}, 0x5f8844a65ee2e7a2, 0xa5659ca0012efa45},
      {"Q8_0", {0}, 0x4bd1c85914fbdc54, 0xf832c60a9ff1a963},
      {"Q2_K", {80, 82}, 0xabe37b2479466e4d, 0},
      {"Q3_K", {108}, 0xf8b2ae2f4f22a2a1, 0},
      {"Q4_K", {0, 2}, 0xe2ec3b3634ed1109, 0},
      {"Q5_K", {0, 2}, 0x20990a83f37fa8a8, 0},
      {"Q6_K", {208}, 0xfc6e24b2b1432f34, 0},
      {"IQ4_NL", {0}, 0x815184589f72910c, 0},
      {"IQ4_XS", {0}, 0x7e74f7f91ed8d2ed, 0},
      {"TQ1_0", {52}, 0x5571f3a5921993fb, 0xdb4e647bc75cfb64},
      {"TQ2_0", {64}, 0xcadb8dde567a0e8b, 0xcbbf5820544af4b5},
      {"MXFP4", {}, 0xf9e8c0d68913fe96, 0xd76322eec4171a4a},
      {"NVFP4", {}, 0x10d2d204688ab818, 0},
  };
  constexpr int kBlocks = 8;
  for (const Case& c : cases) {
    const GgufType& t = *find_gguf_type(c.name);
    std::vector<unsigned char> raw(static_cast<std::size_t>(kBlocks * t.bytes));
    for (std::size_t i = 0; i < raw.size(); ++i)
      raw[i] = static_cast<unsigned char>(i * 37 + i / 7 + 11);
    for (int k = 0; k < kBlocks; ++k)
      for (std::size_t j = 0; j < c.halves.size(); ++j)
        serialize_detail::put_gguf_half(&raw[static_cast<std::size_t>(k * t.bytes + c.halves[j])],
                                        static_cast<float>(k + 1) * (j ? -0.5f : 0.03125f));
    std::vector<float> values(static_cast<std::size_t>(kBlocks * t.block));
    serialize_detail::dequantize_gguf(t, raw.data(), kBlocks, values.data());
    EXPECT_EQ(fnv(values.data(), 4 * values.size()), c.values) << c.name;
    EXPECT_EQ(t.quantizes, c.blocks != 0) << c.name;
    if (!c.blocks) continue;
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<int>(i * 7919 % 4001) - 2000) / 64 *
                  std::ldexp(1.0f, static_cast<int>(i) / t.block % 9 - 4);
    serialize_detail::quantize_gguf(t, values.data(), kBlocks, raw.data());
    EXPECT_EQ(fnv(raw.data(), raw.size()), c.blocks) << c.name;
  }
}

TEST(Gguf, TernaryDigitsRoundTrip) {
  // Five digits in a byte: every combination.
  for (const char* name : {"TQ1_0", "TQ2_0"}) {
    const GgufType& t = *find_gguf_type(name);
    for (int n = 0; n < 243; ++n) {
      float x[256], y[256];
      unsigned char b[66];
      for (int i = 0, rest = n; i < 256; ++i) {
        x[i] = static_cast<float>(rest % 3 - 1) * 0.5f;
        rest = i % 5 == 4 ? n + i : rest / 3;
      }
      x[0] = 0.5f;
      serialize_detail::quantize_gguf(t, x, 1, b);
      serialize_detail::dequantize_gguf(t, b, 1, y);
      for (int i = 0; i < 256; ++i) ASSERT_EQ(x[i], y[i]) << name << " " << n << " " << i;
    }
  }
}

TEST(Gguf, ValuesOfEveryKindAreRead) {
  TemporaryFolder dir;
  using G = GgufBytes;
  const std::string data = floats({1, 2, 3, 4, 5, 6}) + std::string(8, '\0') +
                           G::number<std::int16_t>(-7) + std::string(30, '\0');
  const StateFile f = opened(
      dir, G().note("a.u8", 0, G::number<std::uint8_t>(200))
               .note("a.i8", 1, G::number<std::int8_t>(-3))
               .note("a.u16", 2, G::number<std::uint16_t>(60000))
               .note("a.i16", 3, G::number<std::int16_t>(-300))
               .note("a.u32", 4, G::number<std::uint32_t>(4000000000u))
               .note("a.i32", 5, G::number<std::int32_t>(-70000))
               .note("a.f32", 6, G::number(0.1f))
               .note("a.bool", 7, G::number<std::uint8_t>(1))
               .note("a.text", 8, G::text("h\xc3\xa9"))
               .note("a.list", 9,
                     G::number(8u) + G::number<std::uint64_t>(2) + G::text("x") + G::text(""))
               .note("a.nested", 9,
                     G::number(9u) + G::number<std::uint64_t>(1) + G::number(0u) +
                         G::number<std::uint64_t>(2) + "\1\2")
               .note("a.u64", 10, G::number<std::uint64_t>(~0ull))
               .note("a.i64", 11, G::number<std::int64_t>(-5))
               .note("a.f64", 12, G::number(1.0 / 3))
               .note("a.inf", 6, G::number(INFINITY))
               .tensor("w", {3, 2}, 0, 0)
               .tensor("n", {1}, 25, 32)
               .tensor("odd", {4}, 99, 32 + 32)
               .done(data + std::string(4, 'x')));
  EXPECT_EQ(f.container, "gguf");
  EXPECT_EQ(
      f.metadata.dump(),
      "{\"a.u8\":200,\"a.i8\":-3,\"a.u16\":60000,\"a.i16\":-300,\"a.u32\":4000000000,"
      "\"a.i32\":-70000,\"a.f32\":0.10000000149011612,\"a.bool\":true,\"a.text\":\"h\xc3\xa9\","
      "\"a.list\":[\"x\",\"\"],\"a.nested\":[[1,2]],\"a.u64\":18446744073709551615,"
      "\"a.i64\":-5,\"a.f64\":0.3333333333333333,\"a.inf\":\"inf\"}");
  EXPECT_EQ(f.at("w").shape, (Shape{2, 3})) << "sizes in the order of ours";
  EXPECT_EQ(f.get("w").to_vector(), (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(f.get("n").dtype(), kInt32);
  EXPECT_EQ(f.get("n").item(), -7);
  EXPECT_ERROR(f.get("odd"), FileError, "has type 99, which is not known");
  EXPECT_EQ(f.at("odd").raw(), "xxxx") << "a type that is not known hinders nothing";
}

TEST(Gguf, BigEndianPlainNumbers) {
  TemporaryFolder dir;
  const auto swapped = [](std::string s) { return std::string(s.rbegin(), s.rend()); };
  using G = GgufBytes;
  std::string s = "GGUF" + swapped(G::number(3u)) + swapped(G::number<std::uint64_t>(2)) +
                  swapped(G::number<std::uint64_t>(0));
  const auto info = [&](const char* name, std::uint64_t n, std::uint32_t type, std::uint64_t at) {
    s += swapped(G::number<std::uint64_t>(1)) + name + swapped(G::number(1u)) +
         swapped(G::number(n)) + swapped(G::number(type)) + swapped(G::number(at));
  };
  info("a", 2, 0, 0);
  info("q", 32, 8, 32);
  s.resize((s.size() + 31) / 32 * 32, '\0');
  s += swapped(floats({1.5f})) + swapped(floats({-2})) + std::string(24, '\0') +
       std::string(34, '\0');
  const StateFile f = opened(dir, s);
  EXPECT_EQ(f.get("a").to_vector(), (std::vector<double>{1.5, -2}));
  EXPECT_EQ(f.at("a").raw(), floats({1.5f, -2}));
  EXPECT_ERROR(f.get("q"), FileError, "Q8_0 in a big-endian file");
}

TEST(Gguf, EveryRuleIsHeld) {
  TemporaryFolder dir;
  using G = GgufBytes;
  const std::string four = floats({1, 2, 3, 4});
  const auto expect = [&](const std::string& bytes, const char* words) {
    const std::string what = refused(dir, bytes);
    EXPECT_NE(what.find(words), std::string::npos) << what << "\nexpected: " << words;
  };
  expect(G(1).done(""), "GGUF version 1; 2 and 3");
  expect(G(4).done(""), "GGUF version 4");
  expect(G().tensor("a", {4}, 0, 1).done(four), "no multiple of 32");
  expect(G().tensor("a", {4}, 0, 0).done(four.substr(1)), "needs 16 bytes at 0, the file has 15");
  expect(G().tensor("a", {4}, 0, 0).tensor("b", {1}, 0, 0).done(four), "inside the one before");
  expect(G().tensor("a", {4}, 0, 0).tensor("a", {1}, 0, 32).done(four), "given twice");
  expect(G().tensor("a", {31}, 8, 0).done(four), "rows of 31 are no whole blocks of 32");
  expect(G().tensor("a", {1ull << 40, 1ull << 40}, 0, 0).done(four), "more elements than");
  expect(G().tensor("a", {1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 0).done(four), "9 dimensions");
  expect(G().tensor("\xff", {4}, 0, 0).done(four), "not UTF-8");
  expect(G().note("k", 7, "\2").done(""), "a bool is 2");
  expect(G().note("k", 13, "\2").done(""), "has type 13, expected 0 to 12");
  expect(G().note("k", 9, G::number(13u) + G::number<std::uint64_t>(1)).done(""),
         "array of type 13");
  expect(G().note("k", 9, G::number(4u) + G::number<std::uint64_t>(1ull << 60)).done(""),
         "claims 1152921504606846976 entries");
  expect(G().note("k", 0, "\1").note("k", 0, "\1").done(""), "\"k\" is given twice");
  for (const auto& [type, value] : std::vector<std::pair<std::uint32_t, std::string>>{
           {4, G::number(0u)}, {4, G::number(48u)}, {10, G::number<std::uint64_t>(64)}})
    expect(G().note("general.alignment", type, value).done(""), "expected a power of two as u32");
  std::string deep;
  for (int i = 0; i < 20; ++i) deep += G::number(9u) + G::number<std::uint64_t>(1);
  expect(G().note("k", 9, deep + G::number(0u) + G::number<std::uint64_t>(1) + "\1").done(""),
         "nested too deeply");
  const std::string whole = G().note("k", 8, G::text("value")).tensor("a", {4}, 0, 0).done(four);
  for (std::size_t n = 4; n < whole.size(); ++n)
    EXPECT_NE(refused(dir, whole.substr(0, n)), "") << n;
}

TEST(Gguf, OneModelInSeveralFiles) {
  TemporaryFolder dir;
  using G = GgufBytes;
  const auto part = [&](int no, int count, int all) {
    G g;
    if (no == 0) g.note("general.name", 8, G::text("split"));
    g.note("split.no", 2, G::number<std::uint16_t>(static_cast<std::uint16_t>(no)))
        .note("split.count", 2, G::number<std::uint16_t>(static_cast<std::uint16_t>(count)))
        .note("split.tensors.count", 5, G::number<std::int32_t>(all));
    return g.tensor("t" + std::to_string(no), {1}, 0, 0).done(floats({static_cast<float>(no)}));
  };
  write(dir / "m-00001-of-00002.gguf", part(0, 2, 2));
  EXPECT_ERROR(load_state(dir / "m-00001-of-00002.gguf"), FileError, "m-00002-of-00002.gguf");
  write(dir / "m-00002-of-00002.gguf", part(1, 2, 2));
  for (const char* any : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    const StateFile f = load_state(dir / any);
    ASSERT_EQ(f.tensors.size(), 2u);
    EXPECT_EQ(f.get("t1").item(), 1);
    EXPECT_EQ(f.metadata.find("general.name")->as_string(), "split");
  }
  write(dir / "m-00002-of-00002.gguf", part(0, 2, 2));
  EXPECT_ERROR(load_state(dir / "m-00001-of-00002.gguf"), FileError, "says it is part 0 of 2");
  write(dir / "m-00001-of-00002.gguf", part(0, 2, 3));
  write(dir / "m-00002-of-00002.gguf", part(1, 2, 3));
  EXPECT_ERROR(load_state(dir / "m-00001-of-00002.gguf"), FileError, "split.tensors.count is 3");
  write(dir / "other.gguf", part(1, 2, 2));
  EXPECT_ERROR(load_state(dir / "other.gguf"), FileError, "expected a name like");
}

TEST(Gguf, WhatIsWrittenIsReadBack) {
  TemporaryFolder dir;
  Tensor x = empty({4, 64}, kFloat32);
  for (int64_t i = 0; i < x.numel(); ++i)
    x.data<float>()[i] = static_cast<float>(i * 37 % 101 - 50) / 25;
  const std::vector<StoredTensor> tensors{
      stored_tensor("w", x), stored_tensor("bias", ones({5})),
      stored_tensor("ids", tensor(std::vector<double>{-1, 3}).to(kInt64)),
      stored_tensor("mask", ones({3}, kBool)), stored_tensor("bytes", full({2}, 255, kUInt8))};
  SaveStateOptions options;
  options.metadata.set("general.name", "m");
  options.metadata.set("n", 7);
  options.metadata.set("negative", -7);
  options.metadata.set("third", 1.0 / 3);
  options.metadata.set("big", Json::big_integer("18446744073709551615"));
  options.metadata.set("list", Json::parse("[1, -2]"));
  options.metadata.set("words", Json::parse("[\"a\", \"b\"]"));
  options.metadata.set("split.no", 3);
  options.alignment = 64;
  for (const char* format :
       {"", "F32", "F16", "BF16", "F64", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"}) {
    options.format = format;
    EXPECT_EQ(save_state(dir / "o.gguf", tensors, options),
              std::vector<std::string>{dir / "o.gguf"});
    const StateFile f = load_state(dir / "o.gguf");
    EXPECT_EQ(f.at("w").format, *format ? format : "F32");
    EXPECT_EQ(f.at("bias").format,
              std::string(format).find('Q') == 0 || std::string(format) == "MXFP4" || !*format
                  ? "F32"
                  : format)
        << "of one dimension: stays";
    EXPECT_EQ(f.get("ids").to_vector(), (std::vector<double>{-1, 3}));
    EXPECT_EQ(f.get("bytes").to_vector(), (std::vector<double>{255, 255}));
    EXPECT_EQ(f.get("mask").to_vector(), (std::vector<double>{1, 1, 1}));
    EXPECT_LT(max(abs(f.get("w", kFloat32) - x)).item(),
              *format == 'Q' || *format == 'M' ? 0.5 : 0.01)
        << format;
    const Json& m = f.metadata;
    EXPECT_EQ(m.find("general.architecture")->as_string(), "dropin");
    EXPECT_EQ(m.find("general.alignment")->as_int(), 64);
    EXPECT_EQ(m.find("negative")->as_int(), -7);
    EXPECT_EQ(m.find("third")->as_double(), 1.0 / 3);
    EXPECT_EQ(m.find("big")->dump(), "18446744073709551615");
    EXPECT_EQ(m.find("list")->dump(), "[1,-2]");
    EXPECT_EQ(m.find("words")->dump(), "[\"a\",\"b\"]");
    EXPECT_EQ(m.find("split.no"), nullptr);
    // Again without a format: the blocks are copied.
    SaveStateOptions same;
    save_state(dir / "p.gguf", f.tensors, same);
    EXPECT_EQ(load_state(dir / "p.gguf").at("w").raw(), f.at("w").raw());
    // And into safetensors as numbers.
    save_state(dir / "p.safetensors", f.tensors, same);
    EXPECT_EQ(load_state(dir / "p.safetensors").get("w", kFloat32).to_vector(),
              f.get("w", kFloat32).to_vector());
  }
}

TEST(Gguf, WhatItHasNoRoomForIsRefused) {
  TemporaryFolder dir;
  EXPECT_ERROR(save_state(dir / "o.gguf", {stored_tensor("w", ones({1, 1, 1, 1, 1}))}), OptionError,
               "at most 4 dimensions");
  EXPECT_ERROR(save_state(dir / "o.gguf", {stored_tensor(std::string(64, 'n'), ones({1}))}),
               OptionError, "at most 63 bytes");
  EXPECT_ERROR(
      save_state(dir / "o.gguf", {stored_tensor("w", ones({1})), stored_tensor("w", ones({1}))}),
      OptionError, "given twice");
  EXPECT_ERROR(save_state(dir / "o.gguf", {stored_tensor("w", ones({1}))}, {.format = "Q4_K"}),
               OptionError, "format is \"Q4_K\"");
  EXPECT_ERROR(save_state(dir / "o.gguf", {stored_tensor("w", ones({1}))}, {.alignment = 48}),
               OptionError, "alignment is 48");
  EXPECT_EQ(dir.files(), 0u);
}

}  // namespace
}  // namespace dropin
