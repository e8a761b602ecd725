// Operations whose gradients the tests check, by name.
#pragma once
#include <functional>

#include "support.h"

namespace dropin {

struct OpCase {
  std::string name;
  std::function<Tensors(const Tensors&)> f;
  Tensors inputs;
  bool second = true;  ///< second derivatives exist and are checked too
};

inline void PrintTo(const OpCase& c, std::ostream* os) { *os << c.name; }

class OpCases {
 public:
  using Op = std::function<Tensor(const Tensors&)>;
  void unary(const char* name, Tensor (*f)(const Tensor&), const Tensor& x) {
    op(name, [f](const Tensors& v) { return f(v[0]); }, {x});
  }
  void op(const char* name, Op f, Tensors in, bool second = true) {
    all.push_back(
        {name, [f](const Tensors& v) -> Tensors { return {f(v)}; }, std::move(in), second});
  }
  std::vector<OpCase> all;
};

inline Tensor positive(const Shape& s, std::uint64_t seed = 7) {
  return abs(testing::random(s, kFloat64, seed)) + 0.5;
}
/// Distinct values, so that maxima and sorts have no ties within the step of the differences.
inline Tensor distinct(const Shape& s) {
  Generator g(3);
  return (randperm(s.numel(), &g).to(kFloat64) * 0.37 - 1.5).reshape(s);
}
inline Tensor ids(const std::vector<double>& v, const Shape& s) { return tensor(v, s, kInt64); }

/// gradients_test.cpp checks each case; others add their own.
class Gradients : public ::testing::TestWithParam<OpCase> {};

}  // namespace dropin
