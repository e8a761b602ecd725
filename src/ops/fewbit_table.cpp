// Optimal step functions for derivatives: a dynamic program over borders on a grid, then a local
// polish.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "dropin/ops/fewbit.h"

namespace dropin {

namespace {

enum class Symmetry { None, Even, Mirror };  // Mirror: f'(-x) = 1 - f'(x)
struct Curve {
  const char* name;
  Symmetry symmetry;
  double (*f)(double);
  double (*slope)(double);
};

double logistic(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
double log1p_exp(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }
double normal(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
constexpr double kLambda = 1.0507009873554804934193349852946,
                 kAlpha = 1.6732632423543772848170429916717;

const Curve kCurves[] = {
    {"gelu", Symmetry::Mirror, [](double x) { return x * normal(x); },
     [](double x) {
       return normal(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
     }},
    {"silu", Symmetry::Mirror, [](double x) { return x * logistic(x); },
     [](double x) { return logistic(x) * (1 + x * logistic(-x)); }},
    {"sigmoid", Symmetry::Even, [](double x) { return logistic(x); },
     [](double x) { return logistic(x) * logistic(-x); }},
    {"tanh", Symmetry::Even, [](double x) { return std::tanh(x); },
     [](double x) { return 4 * logistic(2 * x) * logistic(-2 * x); }},
    {"selu", Symmetry::None,
     [](double x) { return kLambda * (x > 0 ? x : kAlpha * std::expm1(x)); },
     [](double x) { return x > 0 ? kLambda : kLambda * kAlpha * std::exp(x); }},
    {"elu", Symmetry::None, [](double x) { return x > 0 ? x : std::expm1(x); },
     [](double x) { return x > 0 ? 1 : std::exp(x); }},
    {"celu", Symmetry::None, [](double x) { return x > 0 ? x : std::expm1(x); },
     [](double x) { return x > 0 ? 1 : std::exp(x); }},
    {"softplus", Symmetry::Mirror, [](double x) { return log1p_exp(x); },
     [](double x) { return logistic(x); }},
    {"logsigmoid", Symmetry::Mirror, [](double x) { return -log1p_exp(-x); },
     [](double x) { return logistic(-x); }},
    {"mish", Symmetry::None, [](double x) { return x * std::tanh(log1p_exp(x)); },
     [](double x) {
       const double t = std::tanh(log1p_exp(x));
       return t + x * (1 - t) * (1 + t) * logistic(x);
     }},
    {"hardswish", Symmetry::Mirror, [](double x) { return x * std::clamp(x + 3, 0.0, 6.0) / 6; },
     [](double x) { return x <= -3  ? 0
                           : x >= 3 ? 1
                                    : x / 3 + 0.5; }},
    {"softsign", Symmetry::Even, [](double x) { return x / (1 + std::abs(x)); },
     [](double x) { return 1 / ((1 + std::abs(x)) * (1 + std::abs(x))); }},
    {"tanhshrink", Symmetry::Even, [](double x) { return x - std::tanh(x); },
     [](double x) { return std::tanh(x) * std::tanh(x); }},
};

const Curve& curve_of(std::string_view name) {
  for (const Curve& c : kCurves)
    if (name == c.name) return c;
  std::string known;
  for (const Curve& c : kCurves) known += (known.empty() ? "" : ", ") + std::string(c.name);
  fail<OptionError>({"fewbit_table: activation is \"", name, "\", expected one of ", known});
}

// Step 0.01 up to 12 (every kink is at 0 or 3), then 120 geometric steps.
std::vector<double> make_grid(double domain, bool fold) {
  std::vector<double> right{0};
  const double near = std::min(domain, 12.0);
  const int steps = static_cast<int>(std::ceil(near / 0.01 - 1e-9));
  for (int i = 1; i < steps; ++i) right.push_back(0.01 * i);
  right.push_back(near);
  if (domain > near)
    for (int i = 1; i <= 120; ++i)
      right.push_back(i == 120 ? domain : near * std::pow(domain / near, i / 120.0));
  if (fold) return right;
  std::vector<double> all;
  for (std::size_t i = right.size(); i-- > 1;) all.push_back(-right[i]);
  all.insert(all.end(), right.begin(), right.end());
  return all;
}

// Integral of g^2 over [a, b], inside which g is smooth: eight-point Gauss-Legendre.
double integral_of_square(double (*g)(double), double a, double b) {
  static constexpr double x[] = {0.1834346424956498, 0.5255324099163290, 0.7966664774136267,
                                 0.9602898564975363};
  static constexpr double w[] = {0.3626837833783620, 0.3137066458778873, 0.2223810344533745,
                                 0.1012285362903763};
  const double c = (a + b) / 2, h = (b - a) / 2;
  double s = 0;
  for (int i = 0; i < 4; ++i) {
    const double u = g(c - h * x[i]), v = g(c + h * x[i]);
    s += w[i] * (u * u + v * v);
  }
  return s * h;
}

void fill_levels(const Curve& c, double from, double to, FewBitTable& t) {
  for (std::size_t i = 0; i < t.levels.size(); ++i) {
    const double a = i ? t.borders[i - 1] : from, b = i < t.borders.size() ? t.borders[i] : to;
    t.levels[i] = (c.f(b) - c.f(a)) / (b - a);
  }
}

void check(const Curve& c, int64_t bits, bool fold, double domain) {
  DROPIN_CHECK(bits >= 1 && bits <= 8, OptionError, "fewbit_table: bits is ", bits,
               ", expected 1 to 8");
  DROPIN_CHECK(!fold || c.symmetry == Symmetry::Even, OptionError,
               "fewbit_table: fold needs an even derivative, that of ", c.name, " is not");
  DROPIN_CHECK(domain >= 1 && domain <= 1e6, OptionError, "fewbit_table: domain is ", domain,
               ", expected 1 to 1e6");
}

/// The grid points that part [x_0, x_n] into k pieces of least squared error: dynamic programming.
std::vector<double> best_borders(const Curve& c, const std::vector<double>& x, std::size_t k) {
  const std::size_t n = x.size() - 1;
  std::vector<double> f(n + 1), s(n + 1);
  for (std::size_t i = 0; i <= n; ++i) {
    f[i] = c.f(x[i]);
    if (i) s[i] = s[i - 1] + integral_of_square(c.slope, x[i - 1], x[i]);
  }
  auto cost = [&](std::size_t i, std::size_t j) {
    return s[j] - s[i] - (f[j] - f[i]) * (f[j] - f[i]) / (x[j] - x[i]);
  };
  // best[j]: least error of [x_0, x_j] in p pieces; from[p][j]: where the last of them begins
  std::vector<double> best(n + 1), next(n + 1);
  std::vector<std::vector<std::uint32_t>> from(k, std::vector<std::uint32_t>(n + 1));
  for (std::size_t j = 1; j <= n; ++j) best[j] = cost(0, j);
  for (std::size_t p = 1; p < k; ++p) {
    for (std::size_t j = p + 1; j <= n; ++j) {
      next[j] = INFINITY;
      for (std::size_t i = p; i < j; ++i)
        if (const double v = best[i] + cost(i, j); v < next[j]) {
          next[j] = v;
          from[p][j] = static_cast<std::uint32_t>(i);
        }
    }
    for (std::size_t j = 0; j <= p; ++j) next[j] = INFINITY;
    std::swap(best, next);
  }
  std::vector<double> borders(k - 1);
  for (std::size_t p = k - 1, j = n; p > 0; --p) borders[p - 1] = x[j = from[p][j]];
  return borders;
}

/// A border lies where the derivative is half way between its neighbours' levels; at a jump of the
/// derivative it goes to the jump.
void polish(const Curve& c, double begin, double end, FewBitTable& t) {
  const std::vector<double> rough = t.borders;
  for (int round = 0; round < 10000; ++round) {
    fill_levels(c, begin, end, t);
    double moved = 0;
    for (std::size_t i = 0; i < t.borders.size(); ++i) {
      const double middle = (t.levels[i] + t.levels[i + 1]) / 2;
      double lo = rough[i] - 0.02, hi = rough[i] + 0.02;
      const bool rises = c.slope(hi) > middle;
      if ((c.slope(lo) > middle) == rises) continue;
      for (int step = 0; step < 60; ++step) {
        const double mid = (lo + hi) / 2;
        ((c.slope(mid) > middle) == rises ? hi : lo) = mid;
      }
      moved = std::max(moved, std::abs(t.borders[i] - lo));
      t.borders[i] = lo;
    }
    if (moved < 1e-11) break;
  }
}

struct Stored {
  const char* name;
  bool fold;
  int bits;
  double numbers[31];  ///< borders, then levels
};
const Stored kStored[] = {
#include "ops/fewbit_tables.inc"
};

}  // namespace

bool fewbit_even(std::string_view activation) {
  return curve_of(activation).symmetry == Symmetry::Even;
}

FewBitTable solve_fewbit_table(std::string_view activation, int64_t bits, bool fold,
                               double domain) {
  const Curve& c = curve_of(activation);
  check(c, bits, fold, domain);
  const std::vector<double> x = make_grid(domain, fold);
  FewBitTable t;
  t.levels.resize(std::size_t{1} << bits);
  t.borders = best_borders(c, x, t.levels.size());
  const double begin = x.front(), end = x.back();
  polish(c, begin, end, t);
  for (double& b :
       t.borders)  // kinks and centres of symmetry, which are grid points, without their rounding
    if (std::abs(b - std::round(b * 100) / 100) < 1e-10) b = std::round(b * 100) / 100 + 0.0;
  fill_levels(c, begin, end, t);
  double sum = 0;
  for (double b : t.borders) sum += b;
  if (!fold && c.symmetry != Symmetry::None && sum > 0) {  // of two equally good ones the left
    std::reverse(t.borders.begin(), t.borders.end());
    for (double& b : t.borders) b = -b;
    fill_levels(c, begin, end, t);
  }
  return t;
}

FewBitTable fewbit_table(std::string_view activation, int64_t bits, bool fold, double domain) {
  const Curve& c = curve_of(activation);
  check(c, bits, fold, domain);
  if (domain == 100)
    for (const Stored& s : kStored)
      if (activation == s.name && fold == s.fold && bits == s.bits) {
        const int k = 1 << bits;
        const double* levels = s.numbers + (k - 1);
        return {std::vector<double>(s.numbers, levels), std::vector<double>(levels, levels + k)};
      }
  return solve_fewbit_table(activation, bits, fold, domain);
}

double fewbit_error(std::string_view activation, const FewBitTable& t, bool fold, double domain) {
  const Curve& c = curve_of(activation);
  std::vector<double> x = make_grid(domain, fold);
  x.insert(x.end(), t.borders.begin(), t.borders.end());
  std::sort(x.begin(), x.end());
  double total = 0;
  for (std::size_t i = 1; i < x.size(); ++i) {
    if (x[i] <= x[i - 1]) continue;
    const double mid = (x[i] + x[i - 1]) / 2;
    const double level = t.levels[static_cast<std::size_t>(
        std::lower_bound(t.borders.begin(), t.borders.end(), mid) - t.borders.begin())];
    total += integral_of_square(c.slope, x[i - 1], x[i]) - 2 * level * (c.f(x[i]) - c.f(x[i - 1])) +
             level * level * (x[i] - x[i - 1]);
  }
  return total;
}

}  // namespace dropin
