// Pairs of local features, and the map that they agree on.
#include <algorithm>
#include <cmath>

#include "dropin/core/parallel.h"
#include "dropin/detection/delf.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

struct Nearest {
  int64_t index = -1;
  double first = kernels::kInf<double>, second = kernels::kInf<double>;  // squared
};
// The nearest row of a for each row of b; both float64, contiguous.
std::vector<Nearest> nearest_rows_of(const Tensor& a, const Tensor& b) {
  const int64_t n = a.size(0), d = a.size(1);
  std::vector<Nearest> r(at(b.size(0)));
  const double *rows = a.data<double>(), *queries = b.data<double>();
  parallel_for(b.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q) {
      Nearest& best = r[at(q)];
      for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int64_t k = 0; k < d; ++k) {
          const double off = rows[i * d + k] - queries[q * d + k];
          sum += off * off;
        }
        if (sum < best.first) {
          best.second = best.first;
          best.first = sum;
          best.index = i;
        } else if (sum < best.second) {
          best.second = sum;
        }
      }
    }
  });
  return r;
}

}  // namespace

Tensor match_local_features(const Tensor& one, const Tensor& two,
                            const MatchLocalFeaturesOptions& o) {
  const char* who = "match_local_features";
  for (const auto& [name, t] : {std::pair{"descriptors_1", one}, {"descriptors_2", two}})
    DROPIN_CHECK(t.dim() == 2 && is_floating(t.dtype()) && t.size(1) == one.size(-1), ShapeError,
                 who, ": ", name, " is ", t.dtype(), " ", t.sizes(),
                 ", expected floats [N, D], the same D in both");
  DROPIN_CHECK(o.distance_threshold >= 0 && o.ratio >= 0, OptionError, who, ": distance_threshold ",
               o.distance_threshold, " and ratio ", o.ratio, ", expected at least 0");
  no_grad guard;
  auto plain = [](const Tensor& t) { return t.detach().to(kCPU).to(kFloat64).contiguous(); };
  const Tensor a = plain(one), b = plain(two);
  const std::vector<Nearest> found = nearest_rows_of(a, b);
  const std::vector<Nearest> back = o.mutual ? nearest_rows_of(b, a) : std::vector<Nearest>();
  std::vector<int64_t> matches;
  for (std::size_t q = 0; q < found.size(); ++q) {
    const Nearest& f = found[q];
    bool good = f.index >= 0 && std::sqrt(f.first) < o.distance_threshold;
    if (good && o.ratio > 0) good = std::sqrt(f.first) < o.ratio * std::sqrt(f.second);
    if (good && o.mutual) good = back[at(f.index)].index == static_cast<int64_t>(q);
    matches.push_back(good ? f.index : -1);
  }
  return tensor(matches, {two.size(0)}).to(two.device());
}

namespace {

struct Point {
  double x, y;
};
struct Affine {
  double a[2][3] = {{1, 0, 0}, {0, 1, 0}};
  double residual(const Point& p, const Point& q) const {
    const double x = a[0][0] * p.x + a[0][1] * p.y + a[0][2] - q.x,
                 y = a[1][0] * p.x + a[1][1] * p.y + a[1][2] - q.y;
    return std::sqrt(x * x + y * y);
  }
};
std::vector<Point> points_of(const Tensor& t) {
  const std::vector<double> v = t.to_vector();
  std::vector<Point> r;
  for (std::size_t i = 0; i + 1 < v.size(); i += 2) r.push_back({v[i], v[i + 1]});
  return r;
}
// Least squares over these pairs; false where the points lie on a line.
bool fit_affine(const std::vector<Point>& p, const std::vector<Point>& q,
                const std::vector<int64_t>& which, Affine& out) {
  const auto n = static_cast<double>(which.size());
  Point pc{0, 0}, qc{0, 0};
  for (const int64_t i : which) {
    pc.x += p[at(i)].x / n, pc.y += p[at(i)].y / n;
    qc.x += q[at(i)].x / n, qc.y += q[at(i)].y / n;
  }
  double xx = 0, xy = 0, yy = 0, u[2] = {0, 0}, v[2] = {0, 0};
  for (const int64_t i : which) {
    const double x = p[at(i)].x - pc.x, y = p[at(i)].y - pc.y;
    const double target[2] = {q[at(i)].x - qc.x, q[at(i)].y - qc.y};
    xx += x * x, xy += x * y, yy += y * y;
    for (int k = 0; k < 2; ++k) u[k] += target[k] * x, v[k] += target[k] * y;
  }
  const double det = xx * yy - xy * xy;  // of three points: a third of the squared cross product
  if (!(std::sqrt(std::max(3 * det, 0.0)) >= 1e-6)) return false;
  const double centre[2] = {qc.x, qc.y};
  for (int k = 0; k < 2; ++k) {
    out.a[k][0] = (u[k] * yy - v[k] * xy) / det;
    out.a[k][1] = (v[k] * xx - u[k] * xy) / det;
    out.a[k][2] = centre[k] - out.a[k][0] * pc.x - out.a[k][1] * pc.y;
  }
  return true;
}

// Different pairs, each set as likely.
std::vector<int64_t> chosen_pairs(int64_t n, int64_t count, Generator& g) {
  std::vector<int64_t> r;
  while (static_cast<int64_t>(r.size()) < count)
    for (const int64_t i : randint(0, n, {count}, kInt64, &g).to_vector<int64_t>())
      if (static_cast<int64_t>(r.size()) < count && std::find(r.begin(), r.end(), i) == r.end())
        r.push_back(i);
  return r;
}

}  // namespace

AffineMap ransac_affine(const Tensor& one, const Tensor& two, const RansacAffineOptions& o) {
  const char* who = "ransac_affine";
  for (const auto& [name, t] : {std::pair{"locations_1", one}, {"locations_2", two}})
    DROPIN_CHECK(
        t.dim() == 2 && t.size(1) == 2 && t.size(0) == one.size(0) && is_floating(t.dtype()),
        ShapeError, who, ": ", name, " is ", t.dtype(), " ", t.sizes(),
        ", expected floats [M, 2], the same M in both");
  DROPIN_CHECK(o.residual_threshold > 0, OptionError, who, ": residual_threshold is ",
               o.residual_threshold, ", expected a positive number");
  DROPIN_CHECK(o.min_samples >= 3 && o.max_trials >= 0, OptionError, who, ": min_samples ",
               o.min_samples, " and max_trials ", o.max_trials, ", expected at least 3 and 0");
  no_grad guard;
  const std::vector<Point> p = points_of(one), q = points_of(two);
  const auto m = static_cast<int64_t>(p.size());
  std::vector<int64_t> best;
  double best_sum = kernels::kInf<double>;
  Generator g(static_cast<std::uint64_t>(o.seed));
  for (int64_t trial = 0; m >= o.min_samples && trial < o.max_trials; ++trial) {
    if (o.adaptive && !best.empty()) {
      const double w = static_cast<double>(best.size()) / static_cast<double>(m),
                   miss = 1 - std::pow(w, static_cast<double>(o.min_samples));
      if (miss <= 0 || static_cast<double>(trial) >= std::log(0.01) / std::log(miss)) break;
    }
    Affine map;
    if (!fit_affine(p, q, chosen_pairs(m, o.min_samples, g), map)) continue;
    std::vector<int64_t> inliers;
    double sum = 0;
    for (int64_t i = 0; i < m; ++i)
      if (const double r = map.residual(p[at(i)], q[at(i)]); r < o.residual_threshold) {
        inliers.push_back(i);
        sum += r;
      }
    if (inliers.size() > best.size() || (inliers.size() == best.size() && sum < best_sum)) {
      best = std::move(inliers);
      best_sum = sum;
    }
  }
  Affine map;
  if (best.empty() || !fit_affine(p, q, best, map)) best.clear();
  Tensor inside = zeros({m}, kBool);
  for (const int64_t i : best) inside[i].fill_(1);
  const std::vector<double> numbers(&map.a[0][0], &map.a[0][0] + 6);
  return {inside.to(one.device()), tensor(numbers, {2, 3}, one.options()),
          full({}, static_cast<int64_t>(best.size()), {kInt64, one.device()})};
}

}  // namespace dropin
