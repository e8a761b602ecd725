// SAP: squared correlations, or accuracies of classifiers on one latent.
#include <algorithm>
#include <cmath>

#include "metric/disentanglement_data.h"

namespace dropin {

using namespace metric;

namespace {

// A line w z + b.
struct Line {
  double w = 0, b = 0;
  double operator()(double z) const { return w * z + b; }
};

struct Objective {
  const Column& z;
  const std::vector<double>& t;  ///< -1 or 1
  double cost;
  double operator()(const Line& l) const {
    double total = (l.w * l.w + l.b * l.b) / 2;
    for (std::size_t i = 0; i < z.size(); ++i) {
      const double gap = std::max(0.0, 1 - t[i] * l(z[i]));
      total += cost * gap * gap;
    }
    return total;
  }
};

// min (w^2 + b^2) / 2 + cost sum max(0, 1 - t (w z + b))^2, by Newton's steps: the objective is
// convex, and quadratic between the points where a sample begins to count.
Line fitted(const Column& z, const std::vector<double>& t, double cost) {
  const Objective f{z, t, cost};
  Line l;
  for (int step = 0; step < 200; ++step) {
    double gw = l.w, gb = l.b, ww = 1, wb = 0, bb = 1;
    for (std::size_t i = 0; i < z.size(); ++i) {
      const double gap = 1 - t[i] * l(z[i]);
      if (gap <= 0) continue;
      gw -= 2 * cost * gap * t[i] * z[i];
      gb -= 2 * cost * gap * t[i];
      ww += 2 * cost * z[i] * z[i];
      wb += 2 * cost * z[i];
      bb += 2 * cost;
    }
    const double det = ww * bb - wb * wb, dw = -(bb * gw - wb * gb) / det,
                 db = -(ww * gb - wb * gw) / det, slope = gw * dw + gb * db;
    if (!(slope < -1e-28 * (1 + f(l)))) break;
    double share = 1;
    const double before = f(l);
    while (share > 1e-12 && f({l.w + share * dw, l.b + share * db}) > before + 1e-4 * share * slope)
      share /= 2;
    l = {l.w + share * dw, l.b + share * db};
  }
  return l;
}

// Share of samples whose label the classifiers find. `labels` 0, 1, ... by rising value.
double accuracy(const Column& z, const Labels& labels, double cost) {
  const int64_t classes = *std::max_element(labels.begin(), labels.end()) + 1;
  std::vector<Line> lines;
  for (int64_t c = classes == 2 ? 1 : 0; c < classes; ++c) {
    std::vector<double> t;
    for (const int64_t v : labels) t.push_back(v == c ? 1 : -1);
    lines.push_back(fitted(z, t, cost));
  }
  double right = 0;
  for (std::size_t i = 0; i < z.size(); ++i) {
    int64_t found = 0;
    if (classes == 2) {
      found = lines[0](z[i]) > 0;
    } else {
      for (int64_t c = 1; c < classes; ++c)
        if (lines[at(c)](z[i]) > lines[at(found)](z[i])) found = c;
    }
    right += found == labels[i];
  }
  return right / static_cast<double>(z.size());
}

// Squared correlation of each column of z [N, D] with one attribute [N]: [D], recorded.
Tensor correlations(const Data& d, const Tensor& z, const Tensor& a, int64_t i) {
  const Tensor x = z - mean(z, {0}, true), y = (a - mean(a)).unsqueeze(1);
  const Tensor size = sum(square(y));
  const Column& values = d.a[at(i)];
  DROPIN_CHECK(std::any_of(values.begin(), values.end(), [&](double v) { return v != values[0]; }),
               Error, d.who, ": attribute ", i, " is constant, expected one that varies");
  const Tensor power = sum(square(x), {0}), share = sum(x * y, {0});
  const Tensor still =
      power.detach() <= d.o.thresh * static_cast<double>(std::max<int64_t>(1, z.size(0) - 1));
  return where(still, 0.0, square(share) / (where(still, 1.0, power) * size));
}

}  // namespace

DisentanglementScores sap(const Tensor& z, const Tensor& a, const DisentanglementOptions& o) {
  const Data d("sap", z, a, o);
  DROPIN_CHECK(d.D >= 2, ShapeError, d.who, ": ", d.D, " latent, expected 2 or more for a gap");
  const std::vector<int64_t> reg = d.meant_latents(o.fill_reg_dim);
  const Tensor zs = z.to(kCPU).to(kFloat64),
               as = (a.dim() == 1 ? a.unsqueeze(1) : a).to(kCPU).to(kFloat64);
  Tensors columns;
  for (int64_t i = 0; i < d.A; ++i) {
    if (!d.label[at(i)]) {
      columns.push_back(correlations(d, zs, as.select(1, i), i));
      continue;
    }
    const Labels& labels = d.ids[at(i)];
    DROPIN_CHECK(*std::max_element(labels.begin(), labels.end()) > 0, Error, d.who, ": attribute ",
                 i, " has one label only, expected two or more");
    std::vector<double> s;
    for (const Column& latent : d.z) s.push_back(accuracy(latent, labels, o.l2_reg));
    columns.push_back(tensor(s, kFloat64));
  }
  const Tensor score = stack(columns, 1);
  const std::vector<double> values = score.detach().to_vector();
  std::vector<int64_t> best, second;
  for (int64_t i = 0; i < d.A; ++i) {
    auto value = [&](int64_t n) { return values[at(n * d.A + i)]; };
    const int64_t j = reg.empty() ? best_of(d.D, value, [](int64_t) { return true; }) : reg[at(i)];
    best.push_back(j);
    second.push_back(best_of(d.D, value, [j](int64_t n) { return n != j; }));
  }
  auto row = [&](const std::vector<int64_t>& rows) {
    return gather(score, 0, tensor(rows).unsqueeze(0)).squeeze(0);
  };
  auto as_result = [&](const Tensor& t) { return t.to(d.result.dtype).to(d.result.device); };
  return {
      as_result(row(best) - row(second)), as_result(score), tensor(second).to(d.result.device), {}};
}

}  // namespace dropin
