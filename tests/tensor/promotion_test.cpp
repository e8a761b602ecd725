// Dtypes of results, over every pair of kinds of operands, as PyTorch has them.
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <variant>

#include "support.h"

namespace dropin {
namespace {

struct Row {
  const char *operation, *left, *results;
};
const Row rows[] = {
#include "promotion.inc"
};

using Operand = std::variant<Tensor, Scalar>;
const std::vector<std::pair<std::string, std::function<Operand()>>>& operands() {
  static const auto all = [] {
    std::vector<std::pair<std::string, std::function<Operand()>>> r;
    for (const char* dtype :
         {"bool", "uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float64"}) {
      const DType t = dtype_from_name(dtype);
      r.emplace_back(std::string(dtype) + "[2]", [t] { return Operand(ones({2}, t)); });
      r.emplace_back(std::string(dtype) + "[]", [t] { return Operand(ones({}, t)); });
    }
    r.emplace_back("true", [] { return Operand(Scalar(true)); });
    r.emplace_back("2", [] { return Operand(Scalar(2)); });
    r.emplace_back("2.0", [] { return Operand(Scalar(2.0)); });
    return r;
  }();
  return all;
}

// What an operation gives, or nothing where no such call exists.
using Answer = std::optional<DType>;
template <class F>
Answer both(F f, const Operand& a, const Operand& b) {
  return std::visit(
      [&](const auto& x, const auto& y) -> Answer {
        if constexpr (std::is_invocable_v<F, decltype(x), decltype(y)>) {
          const auto r = f(x, y);
          if constexpr (std::is_same_v<std::decay_t<decltype(r)>, DType>)
            return r;
          else
            return r.dtype();
        } else {
          return std::nullopt;
        }
      },
      a, b);
}
#define CALL(EXPR) [](auto&& a, auto&& b) -> std::decay_t<decltype(EXPR)> { return EXPR; }
#define BOTH(EXPR) [](const Operand& l, const Operand& r) { return both(CALL(EXPR), l, r); }

using Two = std::map<std::string, std::function<Answer(const Operand&, const Operand&)>>;
const Two& two() {
  static const Tensor mask = tensor({1, 0}, kBool);
  static const Two m = {
      {"result_type", BOTH(result_type(a, b))},
      {"+", BOTH(a + b)},
      {"-", BOTH(a - b)},
      {"*", BOTH(a * b)},
      {"/", BOTH(a / b)},
      {"//", BOTH(floor_divide(a, b))},
      {"%", BOTH(remainder(a, b))},
      {"pow", BOTH(pow(a, b))},
      {"==", BOTH(a == b)},
      {"<", BOTH(a < b)},
      {"where", BOTH(where(mask, a, b))},
      {"maximum", BOTH(maximum(a, b))},
      {"atan2", BOTH(atan2(a, b))},
      {"clamp", BOTH(clamp(a, 0, b))},
      {"masked_fill", BOTH(masked_fill(a, mask, b))},
      {"add_", BOTH(Tensor(a).add_(b))},
      {"sub_", BOTH(Tensor(a).sub_(b))},
      {"mul_", BOTH(Tensor(a).mul_(b))},
      {"div_", BOTH(Tensor(a).div_(b))},
      {"copy_", BOTH(Tensor(a).copy_(b))},
      {"fill_", BOTH(Tensor(a).fill_(b))},
      {"clamp_", BOTH(Tensor(a).clamp_(0, b))},
      {"masked_fill_", BOTH(Tensor(a).masked_fill_(mask, b))},
  };
  return m;
}

using One = std::map<std::string, std::function<Tensor(const Tensor&)>>;
const One& one() {
#define UNARY(NAME)                                \
  {                                                \
#NAME, [](const Tensor& x) { return NAME(x); } \
  }
  static const One m = {
      UNARY(neg),
      UNARY(abs),
      UNARY(sign),
      UNARY(square),
      UNARY(exp),
      UNARY(log1p),
      UNARY(sqrt),
      UNARY(sin),
      UNARY(tanh),
      UNARY(erf),
      UNARY(sigmoid),
      UNARY(floor),
      UNARY(relu),
      UNARY(reciprocal),
      UNARY(isnan),
      UNARY(sum),
      UNARY(mean),
      UNARY(prod),
      UNARY(amax),
      UNARY(any),
      UNARY(var),
      {"logsumexp", [](const Tensor& x) { return logsumexp(x, {0}); }},
      {"cumsum", [](const Tensor& x) { return cumsum(x, 0); }},
      {"cumprod", [](const Tensor& x) { return cumprod(x, 0); }},
      {"argmax", [](const Tensor& x) { return argmax(x, 0); }},
      {"softmax", [](const Tensor& x) { return softmax(x, 0); }},
  };
#undef UNARY
  return m;
}

std::string word(char letter) {
  switch (letter) {
    case 'b':
      return "bool";
    case 'u':
      return "uint8";
    case 'c':
      return "int8";
    case 's':  // torch has int16; here it is the next wider one
    case 'i':
      return "int32";
    case 'l':
      return "int64";
    case 'h':
      return "float16";
    case 'g':
      return "bfloat16";
    case 'f':
      return "float32";
    case 'd':
      return "float64";
    default:
      return "refused";
  }
}

template <class F>
std::string outcome(F f) {
  try {
    return name(f());
  } catch (const Error&) {
    return "refused";
  }
}

TEST(Promotion, OfTwoOperandsAsTorch) {
  std::size_t entries = 0;
  for (const Row& row : rows) {
    if (!*row.left) continue;
    const auto f = two().find(row.operation);
    ASSERT_NE(f, two().end()) << row.operation;
    std::function<Operand()> left;
    for (const auto& [name, make] : operands())
      if (name == row.left) left = make;
    for (std::size_t i = 0; i < operands().size(); ++i) {
      if (row.results[i] == '.') continue;
      std::string want = word(row.results[i]);
      if (std::string(row.operation).back() == '_' && row.results[i] == 's') want = "refused";
      bool exists = true;
      const std::string got = outcome([&] {
        const Answer r = f->second(left(), operands()[i].second());
        exists = r.has_value();
        return r.value_or(kBool);
      });
      EXPECT_TRUE(exists) << row.operation << ": no such call";
      EXPECT_EQ(got, want) << row.left << " " << row.operation << " " << operands()[i].first;
      ++entries;
    }
  }
  EXPECT_GT(entries, 6000u);
}

TEST(Promotion, OfOneOperandAsTorch) {
  std::size_t entries = 0;
  for (const Row& row : rows) {
    if (*row.left) continue;
    const auto f = one().find(row.operation);
    ASSERT_NE(f, one().end()) << row.operation;
    for (int i = 0; i < 9; ++i) {
      const Tensor x = std::get<Tensor>(operands()[static_cast<std::size_t>(2 * i)].second());
      // torch: any of bytes is a byte, and there is no argmax of bool
      const std::string want = row.operation == std::string("any")      ? "bool"
                               : row.operation == std::string("argmax") ? "int64"
                                                                        : word(row.results[i]);
      EXPECT_EQ(outcome([&] { return f->second(x).dtype(); }), want)
          << row.operation << " of " << name(x.dtype());
      ++entries;
    }
  }
  EXPECT_GT(entries, 200u);
}

TEST(Promotion, ValuesOfNumbersBesideIntegers) {
  const Tensor u = tensor({5, 200}, kUInt8), i = tensor({1, 2, 3}, kInt64);
  testing::expect_values(u - 128.0, {-123, 72});
  testing::expect_values(u - 127.5, {-122.5, 72.5});
  testing::expect_values(128.0 - u, {123, -72});
  testing::expect_values(u * 2.0, {10, 400});
  testing::expect_values(u * 2, {10, 144});  // wraps, as torch
  testing::expect_values(u + 300, {49, 244});
  testing::expect_values(where(i > 1, i, 0.5), {0.5, 2, 3});
  testing::expect_values(clamp(i, 0, 1.5), {1, 1.5, 1.5});
  testing::expect_values(clamp(i, 2, 9), {2, 2, 3});
  testing::expect_values(pow(2, i), {2, 4, 8});
  testing::expect_values(pow(i, 0), {1, 1, 1});
  EXPECT_ERROR(pow(i, -1), OptionError, "negative power");
  testing::expect_values(remainder(i, 2.5), {1, 2, 0.5});
  testing::expect_values(floor_divide(i, 2), {0, 1, 1});
  testing::expect_values(where(i > 1, 1, 2.5), {2.5, 1, 1});
  testing::expect_values((2 == i).to(kFloat32), {0, 1, 0});
  testing::expect_values((1.5 < i).to(kFloat32), {0, 1, 1});
  testing::expect_values((1.5 >= i).to(kFloat32), {1, 0, 0});
  Tensor j = i.clone();
  EXPECT_ERROR(j.add_(0.5), DTypeError, "add_: the result is float32");
  EXPECT_ERROR(j.mul_(0.5), DTypeError, "mul_: the result is float32");
  EXPECT_ERROR(j.add_(j, 0.5), DTypeError, "alpha");
  testing::expect_values(j, {1, 2, 3});
  testing::expect_values(j.add_(j, 2), {3, 6, 9});
  EXPECT_ERROR(scatter_add(i, 0, tensor({0}, kInt64), tensor({0.5})), DTypeError, "float32");
}

TEST(Exact, IntegersPastTheDoubles) {
  const int64_t big = (int64_t{1} << 53) + 1;
  EXPECT_EQ(full({2}, big, kInt64)[1].item<int64_t>(), big);
  EXPECT_EQ(scalar(big, kInt64).item<int64_t>(), big);
  EXPECT_EQ(zeros({2}, kInt64).fill_(big).to_vector<int64_t>()[0], big);
  const Tensor t = tensor(std::vector<int64_t>{big, INT64_MAX, INT64_MIN});
  EXPECT_EQ(t.dtype(), kInt64);
  EXPECT_EQ(t.to_vector<int64_t>(), (std::vector<int64_t>{big, INT64_MAX, INT64_MIN}));
  EXPECT_EQ(t.narrow(0, 0, 1).str(), "tensor([9007199254740993])");
  EXPECT_EQ((t + 1)[0].item<int64_t>(), big + 1);
  EXPECT_EQ((zeros({1}, kInt64) + big).item<int64_t>(), big);
  EXPECT_EQ((ones({1}, kInt64) * big).item<int64_t>(), big);
  EXPECT_EQ((ones({1}, kInt64) - big).item<int64_t>(), 1 - big);
  EXPECT_EQ((big - ones({1}, kInt64)).item<int64_t>(), big - 1);
  Tensor x = ones({1}, kInt64);
  EXPECT_EQ(x.add_(big).item<int64_t>(), big + 1);
  EXPECT_EQ(x.sub_(big).item<int64_t>(), 1);
  EXPECT_EQ(x.mul_(big).item<int64_t>(), big);
  EXPECT_FALSE((t == big - 1)[0].item<bool>());
  EXPECT_TRUE((t == big)[0].item<bool>());
  EXPECT_EQ(arange(big, big + 2).to_vector<int64_t>(), (std::vector<int64_t>{big, big + 1}));
  EXPECT_EQ(where(t == big, 0, t).to_vector<int64_t>()[1], INT64_MAX);
}

TEST(Exact, RangesKeepTheKindOfTheirNumbers) {
  testing::expect_values(arange(0, 1, 0.25), {0, 0.25, 0.5, 0.75});
  EXPECT_EQ(arange(0, 1, 0.25).dtype(), kFloat32);
  EXPECT_EQ(arange(0.0, 3).dtype(), kFloat32);
  EXPECT_EQ(arange(3).dtype(), kInt64);
  testing::expect_values(arange(5, 0, -2), {5, 3, 1});
  EXPECT_EQ(arange(3, 3).numel(), 0);
  EXPECT_EQ(arange(0, 3, 1, kFloat64).dtype(), kFloat64);
  EXPECT_ERROR(arange(0, 1, 0), OptionError, "arange");
}

TEST(Exact, VectorsKeepTheirNumbers) {
  EXPECT_EQ(tensor(std::vector<int>{1, 2}).dtype(), kInt64);
  EXPECT_EQ(tensor(std::vector<float>{1, 2}).dtype(), kFloat32);
  EXPECT_EQ(tensor(std::vector<double>{1, 2}).dtype(), kFloat32);
  EXPECT_EQ(tensor(std::vector<std::uint8_t>{1, 255}).dtype(), kUInt8);
  EXPECT_EQ(tensor(std::vector<bool>{true, false}).dtype(), kBool);
  EXPECT_EQ(tensor(std::vector<int>{1, 2, 3, 4}, {2, 2}, kFloat64).sizes(), (Shape{2, 2}));
  EXPECT_ERROR(tensor(std::vector<int>{1}, {2}), ShapeError, "1 values");
  std::ostringstream out;
  out << tensor(std::vector<int>{1, 2});
  EXPECT_EQ(out.str(), "tensor([1, 2])");
}

TEST(Exact, OneDimensionMayBeNamedByANumber) {
  const Tensor x = tensor({1, 2, 3, 4}, {2, 2});
  testing::expect_values(x.sum(1), {3, 7});
  testing::expect_values(x.mean(0, true), {2, 3});
  testing::expect_values(x.mean({0, 1}, true), {2.5});
  EXPECT_EQ(x.sum({}, true).sizes(), (Shape{1, 1}));
}

}  // namespace
}  // namespace dropin
