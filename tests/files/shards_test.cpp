// Indices of shards, and dtypes that no Tensor has.
#include "dropin/serialize/safetensors.h"
#include "files/temporary.h"

namespace dropin {
namespace {

using testing::TemporaryFolder;

const char* kIndex = "model.safetensors.index.json";

std::string index(const std::string& map, const std::string& metadata = R"({"total_size": 24})") {
  return "{\n  \"metadata\": " + metadata + ",\n  \"weight_map\": " + map + "}\n";
}
void write_shards(const TemporaryFolder& dir) {
  save_safetensors(dir / "m-1.safetensors", {{"a", ones({2, 2})}, {"b", zeros({1}, kInt64)}},
                   {{"format", "pt"}});
  save_safetensors(dir / "m-2.safetensors", {{"c", full({2}, 3)}}, {{"format", "pt"}});
}
std::string refusal_of(const TemporaryFolder& dir, const std::string& text) {
  testing::write(dir / kIndex, text);
  return testing::refusal<FileError>([&] { load_safetensors(dir / kIndex); });
}

TEST(Shards, AnIndexLoadsAllOfThem) {
  TemporaryFolder dir;
  write_shards(dir);
  for (const char* blanks : {"", " \n\t"}) {
    testing::write(dir / kIndex, blanks + index(R"({"c": "m-2.safetensors", "a": "m-1.safetensors",
                                      "b": "m-1.safetensors"})"));
    const SafetensorsFile f = load_safetensors(dir / kIndex);
    ASSERT_EQ(f.tensors.size(), 3u);
    EXPECT_EQ(f.get("a").sizes(), (Shape{2, 2}));
    EXPECT_EQ(f.get("c").to_vector(), (std::vector<double>{3, 3}));
    EXPECT_EQ(f.get("b").dtype(), kInt64);
    EXPECT_EQ(*f.find_metadata("total_size"), "24");
    EXPECT_EQ(*f.find_metadata("format"), "pt");
  }
}

TEST(Shards, WhatIsWrongIsNamed) {
  struct Case {
    const char *text, *error;
  };
  const Case cases[] = {
      {R"({"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-3.safetensors"})",
       "m-3.safetensors: cannot be read: No such file"},
      {R"({"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"})",
       "tensor \"a\" is in shard m-1.safetensors, the index says m-2.safetensors"},
      {R"({"d": "m-2.safetensors", "c": "m-2.safetensors"})",
       "tensor \"d\" is not in its shard m-2.safetensors"},
      {R"({"c": "../m-2.safetensors"})", "is not a file beside the index"},
      {R"({"c": "/m-2.safetensors"})", "is not a file beside the index"},
      {R"({"c": ".."})", "is not a file beside the index"},
      {R"({"c": 2})", "tensor \"c\": 2 is not a file name"},
      {R"({"c": ""})", "is not a file name"},
      {R"({"c": "m-2.safetensors", "c": "m-1.safetensors"})", "given twice"},
      {R"([])", "JSON without a weight_map"},
      {R"({"c": "m-2.safetensors")", "index of shards: json: at byte"},
  };
  TemporaryFolder dir;
  write_shards(dir);
  for (const Case& c : cases) {
    const std::string got = refusal_of(dir, index(c.text));
    EXPECT_NE(got.find(c.error), std::string::npos) << got;
    EXPECT_EQ(got.rfind(dir / kIndex, 0), 0u) << "the index is named: " << got;
  }
  save_safetensors(dir / "m-3.safetensors", {{"c", ones({2})}, {"d", ones({1})}});
  EXPECT_NE(refusal_of(dir, index(R"({"c": "m-2.safetensors", "d": "m-3.safetensors"})"))
                .find("tensor \"c\" is in two shards, m-2.safetensors and m-3.safetensors"),
            std::string::npos);
  testing::write(dir / "m-2.safetensors", "damaged");
  EXPECT_NE(refusal_of(dir, index(R"({"c": "m-2.safetensors"})")).find("m-2.safetensors: 7 bytes"),
            std::string::npos);
  EXPECT_NE(refusal_of(dir, R"({"model_type": "bert", "hidden_size": 12})")
                .find("is JSON without a weight_map, neither safetensors nor an index"),
            std::string::npos);
}

TEST(Shards, AnIndexInMemoryIsCalledWhatItIs) {
  const std::string text = index("{}");
  EXPECT_ERROR(parse_safetensors(text.data(), text.size(), "here"), FileError,
               "here: is JSON, not safetensors");
}

// One tensor of that dtype between two that can be read.
std::string with_foreign(const std::string& dtype, const std::string& shape, std::size_t bytes) {
  const std::string end = std::to_string(8 + bytes), all = std::to_string(16 + bytes);
  const std::string header =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":")" + dtype +
      R"(","shape":)" + shape + R"(,"data_offsets":[8,)" + end +
      R"(]},"z":{"dtype":"I64","shape":[1],"data_offsets":[)" + end + "," + all + "]}}";
  std::string s;
  for (int i = 0; i < 8; ++i)
    s += static_cast<char>(static_cast<std::uint64_t>(header.size()) >> (8 * i));
  return s + header + std::string(16 + bytes, '\x01');
}

TEST(ForeignTypes, DoNotHideTheOtherTensors) {
  struct Case {
    const char* dtype;
    std::size_t bytes;  ///< of [2, 4]
  };
  const Case cases[] = {{"F8_E4M3", 8},     {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
                        {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"U32", 32},
                        {"U64", 64},        {"C64", 64},    {"F4", 4},      {"F6_E2M3", 6},
                        {"F6_E3M2", 6}};
  for (const Case& c : cases) {
    const std::string bytes = with_foreign(c.dtype, "[2,4]", c.bytes);
    const SafetensorsFile f = parse_safetensors(bytes.data(), bytes.size(), "here");
    ASSERT_EQ(f.tensors.size(), 2u) << c.dtype;
    EXPECT_EQ(*f.get("z").data<int64_t>(), 0x0101010101010101);
    ASSERT_EQ(f.unread.size(), 1u);
    EXPECT_EQ(f.unread[0].name, "x");
    EXPECT_EQ(f.unread[0].dtype, c.dtype);
    EXPECT_EQ(f.unread[0].shape, (Shape{2, 4}));
    EXPECT_ERROR(f.get("x"), FileError,
                 std::string("here: tensor \"x\" [2, 4] has dtype ") + c.dtype);
    EXPECT_ERROR(f.get("y"), FileError, "here: no tensor \"y\"");
    const std::string wrong = with_foreign(c.dtype, "[2,4]", c.bytes + 1);
    EXPECT_ERROR(parse_safetensors(wrong.data(), wrong.size(), "here"), FileError,
                 "shape and dtype need " + std::to_string(c.bytes));
  }
  const std::string half = with_foreign("F4", "[3]", 2);
  EXPECT_ERROR(parse_safetensors(half.data(), half.size(), "here"), FileError,
               "does not fill whole bytes");
}

}  // namespace
}  // namespace dropin
