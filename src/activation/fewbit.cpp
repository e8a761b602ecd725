#include "dropin/activation/fewbit.h"

#include <algorithm>

namespace dropin {

namespace detail {

FewBitTable fewbit_table_for(std::string_view who, const char* function, int64_t bits, bool fold,
                             double alpha) {
  DROPIN_CHECK(bits >= 1 && bits <= 8, OptionError, who, ": bits is ", bits,
               ", expected 1 to 4 (up to 8 with a table of your own, as FewBitStepwise)");
  DROPIN_CHECK(bits <= 4, OptionError, who, ": there is no built-in table of ", bits,
               " bits; give FewBitStepwise the result of fewbit_table");
  DROPIN_CHECK(alpha == 1, OptionError, who, ": alpha is ", alpha,
               ", there are built-in tables for 1 only");
  DROPIN_CHECK(!fold || fewbit_even(function), OptionError, who,
               ": fold needs an even derivative, that of ", function, " is not");
  return fewbit_table(function, bits, fold);
}

void check_fewbit_state(std::string_view who, const StateDict& state, const std::string& prefix) {
  const Tensor borders = state.find(prefix + "borders");
  if (!borders.defined()) return;
  const std::vector<double> b = borders.to_vector();
  for (std::size_t i = 1; i < b.size(); ++i)
    DROPIN_CHECK(b[i - 1] < b[i], StateError, who, ": ", prefix,
                 "borders is not strictly increasing: ", b[i - 1], " then ", b[i]);
}

}  // namespace detail

FewBitStepwise::FewBitStepwise(const FewBitStepwiseOptions& o) : Component(o) {
  DROPIN_CHECK(!o.levels.empty() && o.levels.size() <= 256, OptionError, who(), ": there are ",
               o.levels.size(), " levels, expected 1 to 256");
  DROPIN_CHECK(o.borders.size() + 1 == o.levels.size(), OptionError, who(), ": there are ",
               o.borders.size(), " borders, expected ", o.levels.size() - 1, " for ",
               o.levels.size(), " levels");
  for (std::size_t i = 1; i < o.borders.size(); ++i)
    DROPIN_CHECK(o.borders[i - 1] < o.borders[i], OptionError, who(),
                 ": borders are not strictly increasing: ", o.borders[i - 1], " then ",
                 o.borders[i]);
  spec_ = {.function = o.function, .a = 1, .b = 20, .bits = 1, .fold = o.fold};
  while ((std::size_t{1} << spec_.bits) < o.levels.size()) ++spec_.bits;
  bool known = o.function == "relu", even = false;
  for (const char* f : {"gelu", "silu", "sigmoid", "tanh", "selu", "elu", "celu", "softplus",
                        "logsigmoid", "mish", "hardswish", "softsign", "tanhshrink"})
    if (o.function == f) known = true, even = fewbit_even(f);
  DROPIN_CHECK(known, OptionError, who(), ": function is \"", o.function,
               "\", expected gelu, silu, sigmoid, tanh, selu, elu, celu, softplus, logsigmoid, "
               "mish, hardswish, softsign, tanhshrink or relu");
  DROPIN_CHECK(!o.fold || even, OptionError, who(), ": fold needs an even derivative, that of ",
               o.function, " is not");
  borders_ = &buffer("borders", tensor(o.borders));
  levels_ = &buffer("levels", tensor(o.levels));
}

}  // namespace dropin
