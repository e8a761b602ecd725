// The registry itself.
#include <set>

#include "properties/members.h"

namespace dropin::testing {
namespace {

TEST(Registry, NamesAreUniqueAndDocumented) {
  std::set<std::string> seen;
  for (const ComponentInfo& c : registry().all()) {
    EXPECT_TRUE(seen.insert(c.name).second) << c.name;
    EXPECT_FALSE(c.summary.empty()) << c.name;
    if (!c.replaces.empty()) {
      EXPECT_EQ(registry().find(c.replaces).family, c.family) << c.name;
    }
    for (const FieldInfo& f : c.options) EXPECT_FALSE(f.doc.empty()) << c.name << "." << f.name;
  }
  EXPECT_ERROR(registry().find("MultiheadAttension"), OptionError,
               "the nearest name is \"MultiheadAttention\"");
}

TEST(Registry, EveryFamilyIsDescribed) {
  for (const FamilyInfo& f : registry().families()) {
    EXPECT_FALSE(f.call.empty()) << f.name;
    EXPECT_GE(f.sizes, 1) << f.name;
  }
  EXPECT_ERROR(registry().family("SequenceMixers"), OptionError,
               "the nearest name is \"SequenceMixer\"");
}

struct ScaleOptions {
  double by = 2;
  bool negate = false;
  static void fields(auto&& f) {
    f("by", &ScaleOptions::by, "factor");
    f("negate", &ScaleOptions::negate, "changes the sign");
  }
};

TEST(Registry, PresetsAreMembers) {
  Registry r;
  r.add_family({.name = "Scaling", .call = "x -> y"});
  r.add(FunctionInfo<ScaleOptions>{.name = "scale",
                                   .family = "Scaling",
                                   .summary = "x times a number",
                                   .call = [](const ScaleOptions& o, const Arguments& in) {
                                     const Tensor y = in["x"] * (o.negate ? -o.by : o.by);
                                     return NamedTensors{{"y", y}};
                                   }});
  r.add_preset("tenfold", "scale", Json::parse(R"({"by": 10})"), "ten times x");
  const ComponentInfo& c = r.find("tenfold");
  EXPECT_EQ(c.family, "Scaling");
  EXPECT_EQ(c.options[0].value.as_double(), 10);
  const NamedTensors in{{"x", ones({1})}};
  EXPECT_EQ(c.call(Json::object(), in).find("y").item(), 10);
  EXPECT_EQ(c.call(Json::parse(R"({"negate": true})"), in).find("y").item(), -10);
  EXPECT_EQ(c.call(Json::parse(R"({"by": 3})"), in).find("y").item(), 3);
  EXPECT_ERROR(r.add_preset("more", "scale", Json::parse(R"({"size": 1})"), ""), OptionError,
               "scale has no option \"size\"");
  EXPECT_ERROR(r.add_preset("tenfold", "scale", Json::object(), ""), OptionError,
               "registered already");
  EXPECT_ERROR(r.find("scale").call(Json::object(), {}), StateError, "scale: no tensor \"x\"");
}

#include "properties/torch_defaults.inc"

// Equal to torch's, or the difference is a known one, said in the option's own words.
TEST(Registry, DefaultsAreTorchs) {
  for (const auto& row : kTorchDefaults) {
    SCOPED_TRACE(std::string(row.component) + "." + row.option);
    const FieldInfo* field = nullptr;
    for (const FieldInfo& f : registry().find(row.component).options)
      if (f.name == row.option) field = &f;
    ASSERT_TRUE(field);
    const Json want = Json::parse(row.value);
    if (want.is_null() && field->doc.find("0: off") != std::string::npos) {
      EXPECT_EQ(field->value.as_double(), 0);
    } else if (want.is_number()) {
      EXPECT_EQ(field->value.as_double(), want.as_double());
    } else {
      EXPECT_EQ(field->value.dump(), want.dump());
    }
  }
}

}  // namespace
}  // namespace dropin::testing
