// Variances, positions of extremes and scans.
#include "kernels/any_array.h"
#include "kernels/reduce/kernel.h"
#include "kernels/reduce_groups.h"

namespace dropin::test {
namespace {

using kernels::Scan;

TEST(VarMean, MatchesTwoPassesInDouble) {
  for (const Sizes& s : kShapes)
    for (Layout l : kLayouts)
      for (DType t : {kFloat32, kFloat64, kBFloat16})
        for (std::uint32_t mask = 0; mask < (1u << s.size()); ++mask)
          for (double offset : {0.0, 1000.0}) {
            if (t == kBFloat16 && (offset != 0 || count(s) > 10000)) continue;
            Array x(t, s, l), var(t, kept(s, mask)), mean(t, kept(s, mask));
            x.random(offset - 2, offset + 2);
            run<kernels::var_mean>(kCPU, x.in(), mask, 1.0, var.out(), mean.out());
            const auto g = groups(x, mask);
            auto stats = [&](int64_t i, bool second) {
              long double m = 0, v = 0;
              for (double e : g[i]) m += e;
              m /= static_cast<long double>(g[i].size());
              for (double e : g[i]) v += (e - m) * (e - m);
              return static_cast<double>(
                  second ? v / std::max(0.0, static_cast<double>(g[i].size()) - 1) : m);
            };
            expect_close(
                mean, [&](int64_t i) { return stats(i, false); }, 6, 1, "mean");
            expect_close(
                var, [&](int64_t i) { return stats(i, true); }, 8, 0.1, "var");
          }
}

TEST(ArgReduce, FindsTheFirstAndPrefersNaN) {
  for (const Sizes& s : {Sizes{1}, Sizes{1000}, Sizes{7, 65}, Sizes{5, 33, 9}, Sizes{3, 4, 300}})
    for (Layout l : kLayouts)
      for (DType t : {kFloat32, kFloat64, kFloat16, kInt8, kUInt8, kInt32, kInt64})
        for (int dim = 0; dim < static_cast<int>(s.size()); ++dim)
          for (bool maximum : {true, false}) {
            Array x(t, s, l), y(kInt64, kept(s, 1u << dim));
            x.random(0, 20);
            if (is_floating(t) && s.size() == 2)
              for (int64_t i = 0; i < x.size(); i += 61) x.set(i, kNaN);
            run<kernels::arg_reduce>(kCPU, maximum, x.in(), dim, y.out());
            const auto g = groups(x, 1u << dim);
            expect_close(
                y,
                [&](int64_t i) {
                  std::size_t best = 0;
                  for (std::size_t j = 1; j < g[i].size(); ++j) {
                    if (std::isnan(g[i][best])) break;
                    if (std::isnan(g[i][j]) ||
                        (maximum ? g[i][j] > g[i][best] : g[i][j] < g[i][best]))
                      best = j;
                  }
                  return static_cast<double>(best);
                },
                0, 0, name(t));
          }
}

TEST(Scan, MatchesTheLoop) {
  for (const Sizes& s :
       {Sizes{1}, Sizes{500}, Sizes{7, 65}, Sizes{5, 33, 9}, Sizes{3, 4, 300}, Sizes{3, 0, 2}})
    for (Layout l : kLayouts)
      for (DType t : {kFloat32, kFloat64, kBFloat16, kInt32, kInt64})
        for (int dim = 0; dim < static_cast<int>(s.size()); ++dim)
          for (bool reverse : {false, true})
            for (Scan op : {Scan::CumSum, Scan::CumProd, Scan::CumMax, Scan::LogCumSumExp}) {
              if (op == Scan::LogCumSumExp && !is_floating(t)) continue;
              if (op == Scan::CumProd && !is_floating(t)) continue;
              Array x(t, s, l), y(t, s, l);
              if (op == Scan::CumProd)
                x.random(0.9, 1.1);
              else
                x.random(0, 3);
              run<kernels::scan>(kCPU, op, x.in(), dim, reverse, y.out());
              int64_t inner = 1;
              for (std::size_t i = dim + 1; i < s.size(); ++i) inner *= s[i];
              const int64_t n = s[dim];
              expect_close(
                  y,
                  [&](int64_t i) {
                    const int64_t at = i / inner % n, base = i - at * inner;
                    double acc = 0;
                    bool first = true;
                    for (int64_t k = reverse ? n - 1 : 0;; k += reverse ? -1 : 1) {
                      const double v = x[base + k * inner];
                      if (first)
                        acc = v;
                      else
                        acc = op == Scan::CumSum    ? acc + v
                              : op == Scan::CumProd ? acc * v
                              : op == Scan::CumMax
                                  ? std::max(acc, v)
                                  : std::max(acc, v) + std::log1p(std::exp(-std::fabs(acc - v)));
                      first = false;
                      if (k == at) return acc;
                    }
                  },
                  1, 0, name(t));
            }
}

}  // namespace
}  // namespace dropin::test
