// Constraints from tensors and from words.
#include "dropin/generation/constraints.h"

#include "generation/models.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;

TEST(Constraints, ComeFromTensorsToo) {
  const NamedTensors in{{"literal_tokens", whole({7, -1, 9, 4}).reshape({2, 2})},
                        {"literal_example", zeros({2}, kInt64)},
                        {"literal_clause", whole({3, 3})},
                        {"literal_positive", tensor(std::vector<bool>{true, false})}};
  const Constraints c = Constraints::of(in, "X");
  ASSERT_EQ(c.literals().size(), 2u);
  EXPECT_EQ(c.literals()[0].tokens, Ids{7});
  EXPECT_EQ(c.literals()[1].tokens, (Ids{9, 4}));
  EXPECT_TRUE(c.literals()[0].positive && !c.literals()[1].positive && c.literals()[0].key);
  EXPECT_TRUE(Constraints::of({}, "X").empty());
  NamedTensors bad = in;
  bad.set("literal_tokens", whole({-1, -1, 9, 4}).reshape({2, 2}));
  EXPECT_ERROR(Constraints::of(bad, "X"), OptionError, "empty");
  bad.set("literal_tokens", whole({-1, 3, 9, 4}).reshape({2, 2}));
  EXPECT_ERROR(Constraints::of(bad, "X"), OptionError, "empty");
  bad.set("literal_tokens", whole({5, -1, 3, 9, 4, 1}).reshape({2, 3}));
  EXPECT_ERROR(Constraints::of(bad, "X"), OptionError, "-1 inside");
  bad.set("literal_clause", whole({1, 2, 3}));
  bad.set("literal_tokens", in.find("literal_tokens"));
  EXPECT_ERROR(Constraints::of(bad, "X"), ShapeError, "literal_clause");
}

TEST(Constraints, WordsCountInTheirForms) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(inflected_forms("carry"), (Words{"carry", "carries", "carried", "carrying"}));
  EXPECT_EQ(inflected_forms("bake"), (Words{"bake", "bakes", "baked", "baking"}));
  EXPECT_EQ(inflected_forms("catch"), (Words{"catch", "catches", "catched", "catching"}));
  EXPECT_EQ(inflected_forms("play"), (Words{"play", "plays", "played", "playing"}));
  Constraints c;
  c.word("play", [](const std::string& s) {
    Ids r;
    for (const char letter : s) r.push_back(letter);
    return r;
  });
  EXPECT_EQ(c.literals().size(), 8u);
  EXPECT_EQ(c.literals()[1].tokens[0], ' ');
}

}  // namespace
}  // namespace dropin::testing
