// What mbr_decode chooses from: utilities and the weights of references.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "generation/utilities.h"
#include "kernels/hd.h"

namespace dropin::generation {

inline constexpr const char* kMbr = "mbr_decode";

/// Of a call: the weights p of references [N, M], on the tape, and what a utility is made from.
struct Group {
  int64_t n = 0, m = 0;
  Tensor p;
  std::optional<TokenUtility> tokens;
  Tensor table;  // of a utility that is not of tokens
  double operator()(int64_t i, int64_t j) const {
    return tokens ? (*tokens)(i, j) : values[at(i * m + j)];
  }
  std::vector<double> values;  // of `table`
};

Group group_of(const Candidates& in, const MbrDecodeOptions& o);
/// The utility `name` of in's sequences.
TokenUtility token_utility(const std::string& name, const Candidates& in,
                           const MbrDecodeOptions& o);

}  // namespace dropin::generation
