#include "metric/disentanglement_data.h"

#include <cmath>

#include "dropin/core/parallel.h"

namespace dropin::metric {

namespace {

void check_options(std::string_view who, const DisentanglementOptions& o) {
  DROPIN_CHECK(o.estimator == "knn" || o.estimator == "histogram", OptionError, who,
               ": estimator is \"", o.estimator, "\", expected knn or histogram");
  DROPIN_CHECK(o.bins >= 1 && o.n_neighbors >= 1, OptionError, who, ": bins ", o.bins,
               " and n_neighbors ", o.n_neighbors, ", expected 1 or more");
  DROPIN_CHECK(o.noise >= 0 && o.thresh >= 0 && o.l2_reg > 0 && std::isfinite(o.l2_reg),
               OptionError, who, ": noise ", o.noise, ", thresh ", o.thresh, " and l2_reg ",
               o.l2_reg, ", expected 0 or more and a positive number");
  DROPIN_CHECK(o.degenerate == "error" || o.degenerate == "nan", OptionError, who,
               ": degenerate is \"", o.degenerate, "\", expected error or nan");
}

std::vector<Column> columns_of(std::string_view who, const char* name, const Tensor& x) {
  const int64_t width = x.dim() == 2 ? x.size(1) : 1;
  const std::vector<double> all = x.detach().to_vector();
  std::vector<Column> r(at(width));
  for (std::size_t i = 0; i < all.size(); ++i) {
    DROPIN_CHECK(std::isfinite(all[i]), Error, who, ": ", name, " holds ", all[i],
                 ", expected finite numbers");
    r[i % r.size()].push_back(all[i]);
  }
  return r;
}

std::vector<bool> label_flags(std::string_view who, const Json& discrete, int64_t columns) {
  if (discrete.is_bool()) return std::vector<bool>(at(columns), discrete.as_bool());
  DROPIN_CHECK(discrete.is_array() && discrete.size() == at(columns), OptionError, who,
               ": discrete is ", discrete.dump(), ", expected a bool or ", columns, " of them");
  std::vector<bool> r;
  for (std::size_t i = 0; i < discrete.size(); ++i) {
    DROPIN_CHECK(discrete[i].is_bool(), OptionError, who, ": discrete holds ", discrete[i].dump(),
                 ", expected bools");
    r.push_back(discrete[i].as_bool());
  }
  return r;
}

}  // namespace

Data::Data(std::string_view name, const Tensor& zs, const Tensor& as,
           const DisentanglementOptions& options)
    : who(name), o(options) {
  check_options(who, o);
  DROPIN_CHECK(zs.dim() == 2 && zs.size(0) > 0 && zs.size(1) > 0, ShapeError, who, ": z is ",
               zs.sizes(), ", expected [N >= 1, D >= 1]");
  DROPIN_CHECK((as.dim() == 1 || as.dim() == 2) && as.size(0) == zs.size(0) && as.numel() > 0,
               ShapeError, who, ": a is ", as.sizes(), ", expected [", zs.size(0), ", A >= 1] or [",
               zs.size(0), "]");
  z = columns_of(who, "z", zs);
  a = columns_of(who, "a", as);
  D = static_cast<int64_t>(z.size());
  A = static_cast<int64_t>(a.size());
  label = label_flags(who, o.discrete, A);
  ids.resize(a.size());
  for (std::size_t i = 0; i < a.size(); ++i)
    if (label[i]) ids[i] = labels_of(a[i]);
  result = {is_floating(zs.dtype()) ? zs.dtype() : kFloat32, zs.device()};
}

std::vector<int64_t> Data::meant_latents(bool fill) const {
  std::vector<int64_t> r = o.reg_dim;
  if (r.empty() && fill) {
    DROPIN_CHECK(D >= A, ShapeError, who, ": ", D, " latents for ", A,
                 " attributes, expected one for each, or reg_dim");
    for (int64_t i = 0; i < A; ++i) r.push_back(i);
  }
  DROPIN_CHECK(r.empty() || static_cast<int64_t>(r.size()) == A, OptionError, who, ": reg_dim has ",
               static_cast<int64_t>(r.size()), " entries, expected one for each of ", A,
               " attributes");
  for (const int64_t d : r)
    DROPIN_CHECK(d >= 0 && d < D, OptionError, who, ": reg_dim holds ", d, ", expected 0 to ",
                 D - 1);
  return r;
}

Table Data::mutual() const {
  const auto samples = static_cast<int64_t>(z[0].size());
  Table r(D, A);
  const Noise noise{o.noise, static_cast<std::uint64_t>(o.seed)};
  const bool counting = o.estimator == "histogram";
  for (int64_t i = 0; !counting && i < A; ++i)
    DROPIN_CHECK(label[at(i)] || samples > o.n_neighbors, ShapeError, who, ": ", samples,
                 " samples, expected more than n_neighbors = ", o.n_neighbors);
  parallel_for(D * A, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t d = p / A, i = p % A;
      if (counting) {
        r(d, i) = information(binned(z[at(d)], o.bins),
                              label[at(i)] ? ids[at(i)] : binned(a[at(i)], o.bins));
        continue;
      }
      const Column x = prepared(z[at(d)], Role::Feature, noise);
      r(d, i) = label[at(i)]
                    ? information(x, ids[at(i)], o.n_neighbors)
                    : information(x, prepared(a[at(i)], Role::Target, noise), o.n_neighbors);
    }
  });
  for (int64_t i = 0; i < A; ++i)
    DROPIN_CHECK(r(0, i) >= 0, Error, who, ": no label of attribute ", i,
                 " occurs twice, expected some that do");
  return r;
}

double Data::between(int64_t i, int64_t l) const {
  const Column &x = a[at(i)], &y = a[at(l)];
  if (o.estimator == "histogram")
    return information(label[at(i)] ? ids[at(i)] : binned(x, o.bins),
                       label[at(l)] ? ids[at(l)] : binned(y, o.bins));
  if (o.exact_labels && label[at(i)] && label[at(l)]) return information(ids[at(i)], ids[at(l)]);
  const Noise noise{o.noise, static_cast<std::uint64_t>(o.seed)};
  const Column feature = prepared(x, Role::Feature, noise);
  return label[at(l)] ? information(feature, ids[at(l)], o.n_neighbors)
                      : information(feature, prepared(y, Role::Target, noise), o.n_neighbors);
}

}  // namespace dropin::metric
