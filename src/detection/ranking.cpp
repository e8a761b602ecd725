// Boxes by descending score: radix sort of keys for float scores, comparisons for double.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "cpu/scratch.h"
#include "detection/common.h"

namespace dropin::detection_detail {
namespace {

// Keys whose ascending order is that of descending scores (NaN last), equal ones by index. -0 and 0
// are equal.
std::uint64_t sort_key(float score, Index i) {
  const std::uint32_t bits = std::isnan(score) ? 0 : std::bit_cast<std::uint32_t>(score + 0.0f);
  const std::uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return std::uint64_t{std::isnan(score) ? 0xffffffffu : ~ascending} << 32 |
         static_cast<std::uint32_t>(i);
}

// Ascending by the upper half, a few bits at a time; equal upper halves keep their order, which is
// the lower half's.
template <int kBits>
void radix_sort(cpu::Scratch<std::uint64_t>& keys, Index n) {
  constexpr int passes = (32 + kBits - 1) / kBits;
  constexpr std::uint64_t mask = (1 << kBits) - 1;
  cpu::Scratch<std::uint64_t> other(n);
  std::uint32_t counts[passes][1 << kBits] = {};
  for (Index i = 0; i < n; ++i)
    for (int p = 0; p < passes; ++p) ++counts[p][keys[i] >> (32 + kBits * p) & mask];
  for (int p = 0; p < passes; ++p) {
    const int shift = 32 + kBits * p;
    if (counts[p][keys[0] >> shift & mask] == static_cast<std::uint64_t>(n))
      continue;  // all the same
    std::uint32_t at = 0;
    for (std::uint32_t& c : counts[p]) at += std::exchange(c, at);
    for (Index i = 0; i < n; ++i) other[counts[p][keys[i] >> shift & mask]++] = keys[i];
    std::swap(keys, other);
  }
}

// The least `keep` of n keys to the front; equal upper halves in the order of the lower. By a
// histogram of their first bits, then within the bucket on the border.
void keep_least(cpu::Scratch<std::uint64_t>& keys, Index n, Index keep) {
  std::uint32_t counts[2048] = {};
  for (Index i = 0; i < n; ++i) ++counts[keys[i] >> 53];
  std::uint64_t border = 0;
  for (Index below = 0; below + counts[border] < keep; ++border) below += counts[border];
  cpu::Scratch<std::uint64_t> least(n + 1), same(n + 1);
  Index a = 0, b = 0;
  for (Index i = 0; i < n; ++i) {
    const std::uint64_t k = keys[i], digit = k >> 53;
    least[a] = same[b] = k;
    a += digit < border;
    b += digit == border;
  }
  if (a + b > keep) std::nth_element(same.data(), same.data() + (keep - a), same.data() + b);
  std::sort(same.data(), same.data() + (keep - a));
  std::copy_n(same.data(), keep - a, least.data() + a);
  std::swap(keys, least);
}

}  // namespace

Indices ranked(const float* scores, const Index* among, Index n, Index limit) {
  const Index keep = limit > 0 ? std::min(limit, n) : n;
  if (n == 0) return {};
  cpu::Scratch<std::uint64_t> keys(n);
  for (Index i = 0; i < n; ++i)
    keys[i] = sort_key(scores[among ? among[i] : i], among ? among[i] : i);
  if (keep < n) keep_least(keys, n, keep);
  if (keep < 128)
    std::sort(keys.data(), keys.data() + keep);
  else if (keep < 8192)
    radix_sort<8>(keys, keep);
  else
    radix_sort<11>(keys, keep);
  Indices r(static_cast<std::size_t>(keep));
  for (std::size_t i = 0; i < r.size(); ++i)
    r[i] = static_cast<Index>(keys[static_cast<Index>(i)] & 0xffffffffu);
  return r;
}
Indices ranked(const double* scores, const Index* among, Index n, Index limit) {
  Indices r(static_cast<std::size_t>(n));
  if (among)
    std::copy_n(among, n, r.begin());
  else
    std::iota(r.begin(), r.end(), Index{0});
  auto before = [&](Index a, Index b) {
    const double x = scores[a], y = scores[b];
    if (std::isnan(x) || std::isnan(y))
      return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
  const Index keep = limit > 0 ? std::min(limit, n) : n;
  if (keep < n) std::nth_element(r.begin(), r.begin() + keep, r.end(), before);
  r.resize(static_cast<std::size_t>(keep));
  std::sort(r.begin(), r.end(), before);
  return r;
}

}  // namespace dropin::detection_detail
