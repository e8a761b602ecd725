// Readers of safetensors: what is read, and what is refused in words.
#include <random>

#include "dropin/serialize/safetensors.h"
#include "files/safetensors_bytes.h"
#include "files/temporary.h"

namespace dropin {
namespace {

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

SafetensorsFile parse(const std::string& bytes) {
  return parse_safetensors(bytes.data(), bytes.size(), "here");
}

const std::string zeros8(8, '\0');

TEST(Safetensors, ReadsNamesShapesDataAndMetadata) {
  const SafetensorsFile f = parse(file(
      R"({"__metadata__":{"k":"v","config":"{}"},"b":{"shape":[2,1],"dtype":"U8","data_offsets":[8,10]},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}   )",
      std::string("\x05\0\0\0\0\0\0\0\x01\xff", 10)));
  ASSERT_EQ(f.tensors.size(), 2u);
  EXPECT_EQ(f.tensors[0].first, "a") << "in the order of the data";
  EXPECT_EQ(f.tensors[0].second.item<int64_t>(), 5);
  EXPECT_EQ(f.tensors[0].second.dim(), 0);
  EXPECT_EQ(f.tensors[1].second.sizes(), (Shape{2, 1}));
  EXPECT_EQ(f.tensors[1].second.data<std::uint8_t>()[1], 255);
  ASSERT_TRUE(f.find_metadata("config"));
  EXPECT_EQ(*f.find_metadata("config"), "{}");
  EXPECT_EQ(f.find_metadata("none"), nullptr);
}

TEST(Safetensors, ReadsEmptyFilesAndEmptyTensors) {
  EXPECT_TRUE(parse(file("{}")).tensors.empty());
  const SafetensorsFile f = parse(file(
      R"({"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"c":{"dtype":"BOOL","shape":[1,0],"data_offsets":[8,8]}})",
      zeros8));
  EXPECT_EQ(f.tensors.size(), 3u);
}

TEST(Safetensors, RefusesAHeaderLengthThatIsWrong) {
  EXPECT_ERROR(parse(""), FileError, "here: 0 bytes");
  EXPECT_ERROR(parse("1234567"), FileError, "here: 7 bytes");
  EXPECT_ERROR(parse(std::string(8, '\xff')), FileError, "at most 100000000");
  EXPECT_ERROR(parse(std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10)), FileError,
               "at most 100000000");
  EXPECT_ERROR(parse(std::string("\x03\0\0\0\0\0\0\0{}", 10)), FileError,
               "the header claims 3 bytes, the file has 2");
  EXPECT_ERROR(parse(file("")), FileError, "not a JSON object");
}

TEST(Safetensors, RefusesAHeaderThatIsNotOneJsonObject) {
  EXPECT_TRUE(parse(file(" {}")).tensors.empty()) << "blanks before it are read by the library";
  EXPECT_ERROR(parse(file("[]")), FileError, "not a JSON object");
  EXPECT_ERROR(parse(file("{")), FileError, "header: json: at byte 1");
  EXPECT_ERROR(parse(file("{}x")), FileError, "header: json: at byte 3");
  EXPECT_ERROR(parse(file(std::string("{}\0", 3))), FileError, "header: json: at byte 3");
  EXPECT_ERROR(parse(file("{\"\xff\":1}")), FileError, "header: json: at byte 3");
  EXPECT_ERROR(parse(file(R"({"__metadata__":{},"__metadata__":{}})")), FileError, "given twice");
  EXPECT_ERROR(
      parse(file(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}})",
          zeros8)),
      FileError, "given twice");
  EXPECT_ERROR(parse(file(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                          zeros8)),
               FileError, "given twice");
  EXPECT_ERROR(parse(file(std::string(100000, '{'))), FileError, "header: json: ");
  std::string deep = R"({"a":)";
  for (int i = 0; i < 70; ++i) deep += '[';
  EXPECT_ERROR(parse(file(deep)), FileError, "64 levels");
}

TEST(Safetensors, RefusesMetadataThatIsNotStrings) {
  EXPECT_ERROR(parse(file(R"({"__metadata__":[]})")), FileError, "__metadata__ is not an object");
  EXPECT_ERROR(parse(file(R"({"__metadata__":{"k":1}})")), FileError,
               "__metadata__ \"k\" is not a string");
}

TEST(Safetensors, RefusesEntriesThatLackFields) {
  EXPECT_ERROR(parse(file(R"({"a":1})")), FileError,
               "tensor \"a\": expected dtype, shape and data_offsets");
  EXPECT_ERROR(parse(file(R"({"a":{}})")), FileError,
               "tensor \"a\": expected dtype, shape and data_offsets");
  EXPECT_ERROR(parse(file(R"({"a":{"dtype":"F32","shape":[2]}})", zeros8)), FileError,
               "tensor \"a\": expected dtype, shape and data_offsets");
  EXPECT_ERROR(parse(file(R"({"a":{"dtype":"F32","shape":[2],"offsets":[0,8]}})", zeros8)),
               FileError, "tensor \"a\": expected dtype, shape and data_offsets");
  EXPECT_EQ(parse(file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":0}})", zeros8))
                .tensors.size(),
            1u)
      << "unknown fields are passed over, as the library does";
}

TEST(Safetensors, RefusesDtypesItDoesNotKnow) {
  for (const char* type : {"\"F8\"", "\"U128\"", "\"f32\"", "\"\"", "32", "null"})
    EXPECT_ERROR(parse(file(one(type, "[2]", "[0,8]"), zeros8)), FileError,
                 std::string("tensor \"a\": dtype ") + type + " is not one of F32");
}

TEST(Safetensors, RefusesShapesThatAreNotSizes) {
  for (const char* shape :
       {"[-1]", "[2.0]", "[\"2\"]", "[true]", "[1e1]", "[[2]]", "[9223372036854775808]", "[null]"})
    EXPECT_ERROR(parse(file(one("\"F32\"", shape, "[0,8]"), zeros8)), FileError,
                 "has an entry that is not a size");
  for (const char* shape : {"2", "null", "{}", "[1,1,1,1,1,1,1,1,2]"})
    EXPECT_ERROR(parse(file(one("\"F32\"", shape, "[0,8]"), zeros8)), FileError,
                 "not a list of at most 8 sizes");
  EXPECT_EQ(
      parse(file(one("\"F32\"", "[1,1,1,1,1,1,1,2]", "[0,8]"), zeros8)).tensors[0].second.dim(), 8);
}

TEST(Safetensors, RefusesSizesWhoseProductOverflows) {
  for (const char* shape :
       {"[4611686018427387904]", "[4294967296,4294967296]", "[2,9223372036854775807]",
        "[3037000500,3037000500]", "[0,4611686018427387904,4]", "[4611686018427387904,4,0]"})
    EXPECT_ERROR(parse(file(one("\"F32\"", shape, "[0,0]"))), FileError,
                 "more bytes than can be counted");
}

TEST(Safetensors, RefusesRangesThatDoNotFit) {
  for (const char* range : {"[8,0]", "[0]", "[0,8,8]", "[-8,0]", "[0,8.0]", "[0,\"8\"]", "8",
                            "[18446744073709551608,0]"})
    EXPECT_ERROR(parse(file(one("\"F32\"", "[2]", range), zeros8)), FileError,
                 "are not a begin and an end");
  EXPECT_ERROR(parse(file(one("\"F32\"", "[2]", "[0,9]"), zeros8)), FileError,
               "reach beyond the file's 8 bytes");
  EXPECT_ERROR(
      parse(file(one("\"F32\"", "[2]", "[9223372036854775799,9223372036854775807]"), zeros8)),
      FileError, "reach beyond");
  EXPECT_ERROR(parse(file(one("\"F32\"", "[1]", "[0,8]"), zeros8)), FileError,
               "hold 8 bytes, shape and dtype need 4");
  EXPECT_ERROR(parse(file(one("\"F64\"", "[]", "[0,4]"), zeros8)), FileError,
               "hold 4 bytes, shape and dtype need 8");
}

TEST(Safetensors, RefusesGapsOverlapsAndLeftovers) {
  const auto two = [](const char* first, const char* second) {
    return file(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + std::string(first) +
                    R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                std::string(9, '\0'));
  };
  EXPECT_ERROR(parse(two("[0,4]", "[5,9]")), FileError,
               "tensor \"b\" begins at byte 5, expected 4 (gap)");
  EXPECT_ERROR(parse(two("[0,4]", "[3,7]")), FileError,
               "tensor \"b\" begins at byte 3, expected 4 (overlap)");
  EXPECT_ERROR(parse(two("[0,4]", "[0,4]")), FileError, "(overlap)");
  EXPECT_ERROR(parse(two("[1,5]", "[5,9]")), FileError,
               "tensor \"a\" begins at byte 1, expected 0 (gap)");
  EXPECT_ERROR(parse(two("[0,4]", "[4,8]")), FileError, "1 bytes after the last tensor");
  EXPECT_ERROR(parse(file("{}", "x")), FileError, "1 bytes after the last tensor");
  EXPECT_ERROR(
      parse(file(
          R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})",
          "1234")),
      FileError, "(overlap)");
}

TEST(Safetensors, RefusesBoolsThatAreNeitherZeroNorOne) {
  const std::string header = one("\"BOOL\"", "[3]", "[0,3]");
  EXPECT_EQ(parse(file(header, std::string("\x01\0\x01", 3))).tensors[0].second.to_vector<int>(),
            (std::vector<int>{1, 0, 1}));
  EXPECT_ERROR(parse(file(header, std::string("\x01\x02\0", 3))), FileError,
               "tensor \"a\": a BOOL byte is 2");
}

TEST(Safetensors, KeepsHostileQuotesShort) {
  std::string shape = "[";
  for (int i = 0; i < 100000; ++i) shape += "1,";
  const std::string bytes = file(one("\"F32\"", shape + "1]", "[0,4]"), "1234");
  EXPECT_LT(testing::refusal<FileError>([&] { parse(bytes); }).size(), 300u);
}

TEST(Safetensors, SurvivesDamageAnywhere) {
  const std::string good = file(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"I32","shape":[2,1],"data_offsets":[0,8]},"b":{"dtype":"BOOL","shape":[2],"data_offsets":[8,10]}})",
      std::string(10, '\0'));
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

}  // namespace
}  // namespace dropin
