// Random numbers and shuffles that are the same everywhere: splitmix64.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "metric/information.h"

namespace dropin::metric {

/// u_t = mixed(seed + (t + 1) G) for t = 0, 1, ...
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : at_(seed) {}
  std::uint64_t next() { return mixed(at_ += kGolden); }
  /// The high 64 bits of a draw times n: 0 to n - 1.
  std::uint64_t below(std::uint64_t n) {
    const std::uint64_t u = next(), low = 0xffffffffu;
    const std::uint64_t a = (u & low) * (n & low), b = (u >> 32) * (n & low),
                        c = (u & low) * (n >> 32);
    const std::uint64_t middle = (a >> 32) + (b & low) + (c & low);
    return (u >> 32) * (n >> 32) + (b >> 32) + (c >> 32) + (middle >> 32);
  }

 private:
  std::uint64_t at_;
};

/// A random choice, in random order, to the first `count` places.
inline void shuffle(std::vector<int64_t>& order, int64_t count, Draws& draws) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
    std::swap(order[i], order[i + draws.below(order.size() - i)]);
}

}  // namespace dropin::metric
