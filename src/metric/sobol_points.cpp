// The integers behind Sobol points.
#include <numeric>

#include "dropin/metric/sobol.h"
#include "kernels/hd.h"
#include "metric/information.h"
#include "metric/shuffle.h"

namespace dropin {

using metric::kGolden;
using metric::mixed;

namespace {

constexpr int64_t kDimensions = 1111;
constexpr std::uint32_t kJoeKuo[] = {
#include "metric/joe_kuo.inc"
#include "metric/joe_kuo_641.inc"
};

std::uint64_t key_of(int64_t seed, int64_t d) {
  return mixed(static_cast<std::uint64_t>(seed) + static_cast<std::uint64_t>(d + 1) * kGolden);
}

// Plain direction numbers of dimension 0, 1, ... in turn.
class Directions {
 public:
  explicit Directions(int64_t bits) : bits_(bits) {}
  std::vector<std::uint64_t> next() {
    std::vector<std::uint64_t> m(at(bits_), 1);
    if (dimension_++ > 0) {
      const std::uint32_t s = *row_++, a = *row_++;
      for (std::size_t i = 0; i < m.size(); ++i) {
        if (i < s) {
          m[i] = row_[i];
          continue;
        }
        m[i] = m[i - s] ^ m[i - s] << s;
        for (std::uint32_t j = 1; j < s; ++j)
          if (a >> (s - 1 - j) & 1) m[i] ^= m[i - j] << j;
      }
      row_ += s;
    }
    for (std::size_t j = 0; j < m.size(); ++j) m[j] <<= at(bits_) - 1 - j;
    return m;
  }

 private:
  int64_t bits_;
  int dimension_ = 0;
  const std::uint32_t* row_ = kJoeKuo;
};

// L v over GF(2), L lower triangular with ones on the diagonal; row r is the r-th highest bit.
std::uint64_t multiplied(std::uint64_t v, std::uint64_t key, int64_t bits) {
  std::uint64_t out = 0;
  const auto n = static_cast<std::uint64_t>(bits);
  for (std::uint64_t r = 0; r < n; ++r) {
    const std::uint64_t row = mixed(key + (r + 2) * kGolden);
    std::uint64_t bit = v >> (n - 1 - r) & 1;
    for (std::uint64_t c = 0; c < r; ++c) bit ^= (row >> (63 - c) & 1) & (v >> (n - 1 - c) & 1);
    out |= bit << (n - 1 - r);
  }
  return out;
}

// Each bit flipped by a coin of its own for every beginning before it.
std::uint64_t owen_scrambled(std::uint64_t x, std::uint64_t key, int64_t bits) {
  std::uint64_t out = x;
  const auto n = static_cast<std::uint64_t>(bits);
  for (std::uint64_t b = 0; b < n; ++b) {
    const std::uint64_t prefix = x >> (n - b);
    out ^= (mixed(key + ((std::uint64_t{1} << b) + prefix) * kGolden) >> 63) << (n - 1 - b);
  }
  return out;
}

}  // namespace

detail::SobolState detail::sobol_state(std::string_view who, int64_t rows, const SobolOptions& o) {
  DROPIN_CHECK(o.dim >= 1 && rows <= kDimensions, OptionError, who, ": dim is ", o.dim,
               ", expected 1 to ", kDimensions, ", the dimensions of the table");
  DROPIN_CHECK(o.bits >= 1 && o.bits <= 32, OptionError, who, ": bits is ", o.bits,
               ", expected 1 to 32");
  DROPIN_CHECK(
      o.scramble == "none" || o.scramble == "shift" || o.scramble == "lms" || o.scramble == "owen",
      OptionError, who, ": scramble is \"", o.scramble, "\", expected none, shift, lms or owen");
  DROPIN_CHECK(o.reorder_block >= 0 && (o.reorder_block & (o.reorder_block - 1)) == 0, OptionError,
               who, ": reorder_block is ", o.reorder_block, ", expected 0 or a power of two");
  SobolState s{zeros({rows, o.bits}, kInt64), zeros({rows}, kInt64)};
  Directions directions(o.bits);
  for (int64_t d = 0; d < rows; ++d) {
    const std::vector<std::uint64_t> v = directions.next();
    const std::uint64_t key = key_of(o.seed, d);
    for (int64_t j = 0; j < o.bits; ++j)
      s.directions.data<int64_t>()[d * o.bits + j] =
          static_cast<int64_t>(o.scramble == "lms" ? multiplied(v[at(j)], key, o.bits) : v[at(j)]);
    if (o.scramble == "shift" || o.scramble == "lms")
      s.shift.data<int64_t>()[d] = static_cast<int64_t>(mixed(key + kGolden) >> (64 - o.bits));
  }
  return s;
}

std::vector<std::uint64_t> detail::sobol_integers(const SobolState& s, int64_t start, int64_t count,
                                                  const SobolOptions& o) {
  const int64_t rows = s.shift.size(0);
  const auto v = s.directions.to_vector<int64_t>(), shift = s.shift.to_vector<int64_t>();
  std::vector<std::uint64_t> x(at(count * rows)), keys;
  for (int64_t d = 0; o.scramble == "owen" && d < rows; ++d) keys.push_back(key_of(o.seed, d));
  std::vector<int64_t> order;
  int64_t ordered = -1;
  for (int64_t i = 0; i < count; ++i) {
    int64_t n = start + i;
    if (o.reorder_block > 0) {
      const int64_t block = n / o.reorder_block;
      if (block != ordered) {
        order.resize(at(o.reorder_block));
        std::iota(order.begin(), order.end(), int64_t{0});
        metric::Draws draws(key_of(o.seed, block));
        metric::shuffle(order, o.reorder_block, draws);
        ordered = block;
      }
      n = block * o.reorder_block + order[at(n % o.reorder_block)];
    }
    const std::uint64_t gray = static_cast<std::uint64_t>(n ^ n >> 1);
    for (int64_t d = 0; d < rows; ++d) {
      auto& out = x[at(i * rows + d)];
      out = static_cast<std::uint64_t>(shift[at(d)]);
      for (int64_t b = 0; b < o.bits; ++b)
        if (gray >> b & 1) out ^= static_cast<std::uint64_t>(v[at(d * o.bits + b)]);
      if (!keys.empty()) out = owen_scrambled(out, keys[at(d)], o.bits);
    }
  }
  return x;
}

}  // namespace dropin
