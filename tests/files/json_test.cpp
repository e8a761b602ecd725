#include "dropin/core/json.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <random>

#include "files/temporary.h"

namespace dropin {
namespace {

TEST(Json, ReadsEveryKindAndKeepsTheOrderOfKeys) {
  const Json j = Json::parse(R"( {"z": null, "a": [true, false, -3, 2.5, "x\u00e9\n"], "m": {}} )");
  ASSERT_EQ(j.size(), 3u);
  EXPECT_EQ(j.items()[0].first, "z");
  EXPECT_EQ(j.items()[1].first, "a");
  EXPECT_EQ(j.items()[2].first, "m");
  EXPECT_TRUE(j.find("z")->is_null());
  const Json& a = *j.find("a");
  EXPECT_TRUE(a[0].as_bool());
  EXPECT_FALSE(a[1].as_bool());
  EXPECT_EQ(a[2].as_int(), -3);
  EXPECT_EQ(a[3].as_double(), 2.5);
  EXPECT_EQ(a[4].as_string(), "x\xc3\xa9\n");
  EXPECT_EQ(j.find("nothing"), nullptr);
  EXPECT_EQ(j.dump(), "{\"z\":null,\"a\":[true,false,-3,2.5,\"x\xc3\xa9\\n\"],\"m\":{}}");
}

TEST(Json, PrintsWithIndentation) {
  EXPECT_EQ(Json::parse(R"({"a":[1,{}],"b":[]})").dump(2),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}");
  EXPECT_EQ(Json::parse("[1]").dump(0), "[\n1\n]");
}

TEST(Json, KeepsIntegersApartFromReals) {
  EXPECT_EQ(Json::parse("9223372036854775807").as_int(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(Json::parse("-9223372036854775808").as_int(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(Json(std::numeric_limits<int64_t>::min()).dump(), "-9223372036854775808");
  EXPECT_TRUE(Json::parse("9223372036854775808").is_double());
  EXPECT_TRUE(Json::parse("-9223372036854775809").is_double());
  EXPECT_TRUE(Json::parse("1.0").is_double());
  EXPECT_TRUE(Json::parse("1e3").is_double());
  EXPECT_EQ(Json(1.0).dump(), "1.0");
  EXPECT_EQ(Json(-0.0).dump(), "-0.0");
  EXPECT_EQ(Json(7).as_double(), 7.0);
  EXPECT_TRUE(Json(7) == Json(7.0));
}

TEST(Json, RealsReadBackTheSame) {
  std::mt19937_64 bits(1);
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t u = bits();
    double d;
    std::memcpy(&d, &u, 8);
    if (!std::isfinite(d)) continue;
    const Json back = Json::parse(Json(d).dump());
    ASSERT_TRUE(back.is_double()) << Json(d).dump();
    ASSERT_EQ(back.as_double(), d);
  }
  EXPECT_EQ(Json(0.1).dump(), "0.1");
  EXPECT_EQ(Json(1e300).dump(), "1e+300");
}

TEST(Json, RefusesWhatJsonDoesNotHave) {
  for (const double d : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    EXPECT_ERROR(Json(d).dump(), OptionError, "NaN and Infinity");
    Json a = Json::array();
    a.push_back(Json(d));
    EXPECT_ERROR(a.dump(), OptionError, "NaN and Infinity");
    EXPECT_ERROR(Json(d).as_string(), OptionError, "expected a string");
  }
  for (const char* text :
       {"NaN", "Infinity", "-Infinity", "nan", "'a'", "{a:1}", "01", "+1", ".5", "1.", "0x10",
        "[1,]", "{\"a\":1,}", "// c\n1", "tru", "\"\t\"", "\"\\x\"", ""})
    EXPECT_ERROR(Json::parse(text), OptionError, "json: at byte ");
  EXPECT_ERROR(Json::parse("1e999"), OptionError, "json: at byte 5");
}

TEST(Json, SaysWhereTheTextIsWrong) {
  EXPECT_ERROR(Json::parse("[1, 2 3]"), OptionError, "at byte 8: ");
  EXPECT_ERROR(Json::parse("{} {}"), OptionError, "at byte 4: ");
  EXPECT_ERROR(Json::parse("[1] x"), OptionError, "at byte 5: ");
  EXPECT_ERROR(Json::parse(std::string("1\0", 2)), OptionError, "at byte 2: a zero byte");
  EXPECT_ERROR(Json::parse(std::string("{}\0{}", 5)), OptionError, "at byte 3: a zero byte");
  EXPECT_ERROR(Json::parse(R"({"a": 1, "b": {"a": 2}, "a": 3})"), OptionError,
               "at byte 27: the key \"a\" is given twice");
  EXPECT_ERROR(Json::parse(R"({"a": 1, "\u0061": 3})"), OptionError,
               "the key \"a\" is given twice");
}

TEST(Json, RefusesMalformedUtf8) {
  // a lone tail, overlong forms, a surrogate, beyond U+10FFFF, cut short
  for (const char* bytes :
       {"\x80", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf0\x80\x80\xaf",
        "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xff", "\xc3", "\xe2\x82", "\xf0\x9f\x98"}) {
    EXPECT_FALSE(is_utf8(bytes));
    EXPECT_ERROR(Json::parse('"' + std::string(bytes) + '"'), OptionError, "json: at byte ");
    EXPECT_ERROR(Json::parse("{\"" + std::string(bytes) + "\":1}"), OptionError, "json: at byte ");
    EXPECT_TRUE(is_utf8(Json(bytes).dump())) << "dump makes them U+FFFD";
  }
  EXPECT_ERROR(Json::parse(R"("\ud800")"), OptionError, "json: at byte ");
  for (const char* bytes : {"", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                            "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(bytes));
    EXPECT_EQ(Json::parse('"' + std::string(bytes) + '"').as_string(), bytes);
    EXPECT_EQ(Json(bytes).dump(), '"' + std::string(bytes) + '"');
  }
  EXPECT_EQ(Json::parse(R"("\ud83d\ude00")").as_string(), "\xf0\x9f\x98\x80");
}

TEST(Json, EscapesWhatStringsMustNotHold) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  EXPECT_EQ(Json::parse(Json(all).dump()).as_string(), all);
  EXPECT_EQ(Json(std::string("\"\\\n\x1f\0", 5)).dump(), "\"\\\"\\\\\\n\\u001f\\u0000\"");
}

TEST(Json, AllowsSixtyFourLevels) {
  const auto nested = [](std::size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_EQ(Json::parse(nested(64)).dump(), nested(64));
  EXPECT_ERROR(Json::parse(nested(65)), OptionError, "at byte 65: nested more than 64 levels");
  EXPECT_ERROR(Json::parse(std::string(10'000'000, '[')), OptionError,
               "nested more than 64 levels");
}

TEST(Json, ReadsAnObjectOfManyKeysInLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i) text += (i ? ",\"" : "\"") + std::to_string(100000 + i) + "\":0";
  text += '}';
  const auto start = std::chrono::steady_clock::now();
  const Json j = Json::parse(text);
  EXPECT_EQ(j.size(), 200000u);
  EXPECT_EQ(j.dump(), text);
  EXPECT_LT(std::chrono::steady_clock::now() - start,
            std::chrono::seconds(20));  // quadratic: minutes
}

TEST(Json, QuotesOnlyTheBeginningOfALongText) {
  const std::string said =
      testing::refusal<OptionError>([] { Json::parse('"' + std::string(1'000'000, 'a')); });
  EXPECT_LT(said.size(), 400u);
  const std::string kind =
      testing::refusal<OptionError>([] { Json(std::string(1'000'000, 'a')).as_int(); });
  EXPECT_LT(kind.size(), 400u);
}

TEST(Json, GettersNameBothKinds) {
  EXPECT_ERROR(Json("five").as_int(), OptionError, "expected an integer, got \"five\"");
  EXPECT_ERROR(Json(5.0).as_int(), OptionError, "expected an integer, got 5.0");
  EXPECT_ERROR(Json(1).as_bool(), OptionError, "expected a bool, got 1");
  EXPECT_ERROR(Json::array().as_double(), OptionError, "expected a number, got an array");
  EXPECT_ERROR(Json().as_string(), OptionError, "expected a string, got null");
  EXPECT_ERROR(Json(1).items(), OptionError, "expected an object, got 1");
  EXPECT_ERROR(Json::array()[0], IndexError, "index 0");
}

TEST(Json, EqualityIgnoresTheOrderOfKeysOnly) {
  EXPECT_TRUE(Json::parse(R"({"a":1,"b":[1,2]})") == Json::parse(R"({"b":[1,2],"a":1})"));
  EXPECT_FALSE(Json::parse(R"({"a":1})") == Json::parse(R"({"a":1,"b":2})"));
  EXPECT_FALSE(Json::parse("[1,2]") == Json::parse("[2,1]"));
  EXPECT_FALSE(Json(0) == Json(false));
  EXPECT_FALSE(Json("") == Json());
}

TEST(Json, SetReplacesInPlace) {
  Json j = Json::object();
  j.set("a", 1);
  j.set("b", 2);
  j.set("a", "again");
  EXPECT_EQ(j.dump(), R"({"a":"again","b":2})");
}

}  // namespace
}  // namespace dropin
