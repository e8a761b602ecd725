// Estimates of mutual information between columns of numbers and of labels.
#pragma once
#include <cstdint>
#include <vector>

namespace dropin::metric {

using Column = std::vector<double>;
using Labels = std::vector<int64_t>;  ///< 0, 1, ... in the order of the values

/// splitmix64's output function.
std::uint64_t mixed(std::uint64_t s);
inline constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ull;

struct Noise {
  double scale;
  std::uint64_t seed;
};
enum class Role { Feature, Target };
/// x over its standard deviation, with noise that parts equal values.
Column prepared(const Column& x, Role role, const Noise& noise);
/// Between a prepared feature and target (Kraskov et al. 2004), k nearest neighbours.
double information(const Column& x, const Column& y, int64_t k);
/// Between a prepared feature and labels (Ross 2014); negative when no label occurs twice.
double information(const Column& x, const Labels& c, int64_t k);
/// Between labels, by counting.
double information(const Labels& a, const Labels& b);

Labels labels_of(const Column& x);
/// Which of `bins` equal bins each value falls into.
Labels binned(const Column& x, int64_t bins);

}  // namespace dropin::metric
