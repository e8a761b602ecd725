// Utilities between token sequences.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "dropin/generation/mbr_decode.h"

namespace dropin::generation {

using Ids = std::vector<int64_t>;

/// The first lengths[i] ids of each row without those of `ignore`; `name` as in errors.
std::vector<Ids> read_sequences(std::string_view who, const std::string& name, const Tensor& ids,
                                const Tensor& lengths, const Ids& ignore);
bool is_token_utility(const std::string& name);
/// OptionError where a utility, its score or its orders are none.
void check_utility(std::string_view who, const std::string& name, const MbrDecodeOptions& o);

/// u(h, r) of hypotheses and references by index.
class TokenUtility {
 public:
  TokenUtility(std::string name, const MbrDecodeOptions& o, std::vector<Ids> hypotheses,
               std::vector<Ids> references);
  double operator()(int64_t i, int64_t j) const;
  /// At least u(i, j), by common ids alone: rougeL, lcs, edit.
  double bound(int64_t i, int64_t j) const;
  /// One reference of counts sum_j p_j count_j.
  struct Expected {
    std::vector<std::map<int64_t, double>> counts;  // of each order
    std::vector<double> sizes;                      // their sums
    double length = 0;
  };
  Expected expected(const double* p) const;
  /// u of a hypothesis and such a reference: rouge1 to rouge9, bleu, chrf.
  double operator()(int64_t i, const Expected& e) const;

 private:
  struct Sequence {
    Ids ids;                 // interned
    std::vector<Ids> grams;  // of each order, sorted
  };
  using Counts = std::vector<double>;  // of each order
  Sequence intern(const Ids& ids);
  double rouge(double common, double h, double r) const;
  double bleu(Counts common, Counts h, double h_length, double r_length) const;
  double chrf(const Counts& common, const Counts& h, const Counts& r) const;
  double of_counts(const Sequence& h, const Counts& common, const Counts& r, double r_length) const;
  double of_common(double common, const Sequence& h, const Sequence& r) const;

  std::string name_;
  MbrDecodeOptions o_;
  int64_t orders_ = 1;
  std::map<int64_t, int64_t> tokens_;
  std::vector<std::map<std::pair<int64_t, int64_t>, int64_t>> longer_;
  std::vector<Sequence> h_, r_;
};

}  // namespace dropin::generation
