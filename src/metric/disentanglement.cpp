#include "dropin/metric/disentanglement.h"

#include <algorithm>
#include <cmath>

#include "metric/disentanglement_data.h"

namespace dropin {

using namespace metric;

namespace {

constexpr double kNothing = 1e-12;  ///< a normalizer up to this is none
using Latents = std::vector<int64_t>;

bool any_latent(int64_t) { return true; }

// Off the tape; who asks for a gradient is told.
Tensor piecewise(std::string_view who, const Tensor& y, const Tensor& z) {
  return record(
      "information", y, {z}, {}, [name = std::string(who)](const Saved&, const Tensor&) -> Tensors {
        fail<AutogradError>({name, ": information is piecewise constant in z, it has no gradient"});
      });
}

// An attribute's gap, before it is divided.
struct Gap {
  double lead = 0, normalizer = 0;
  int64_t to = -1, other = -1;  ///< other: the attribute taken from the normalizer
};

double divided(const Data& d, int64_t i, const Gap& g) {
  if (g.normalizer > kNothing) return g.lead / g.normalizer;
  if (d.o.degenerate == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (g.other < 0)
    fail<Error>({d.who, ": the information of attribute ", i, " is ", g.normalizer,
                 ", expected an attribute that varies"});
  fail<Error>({d.who, ": attribute ", i, " tells nothing beyond attribute ", g.other,
               " (normalizer ", g.normalizer, "), expected attributes that differ"});
}

using Rule = Gap (*)(const Data&, const Table& mi, const Latents& reg, int64_t i);

Gap mig_gap(const Data& d, const Table& mi, const Latents& reg, int64_t i) {
  auto value = [&](int64_t n) { return mi(n, i); };
  const int64_t j = reg.empty() ? best_of(d.D, value, any_latent) : reg[at(i)];
  const int64_t k = best_of(d.D, value, [j](int64_t n) { return n != j; });
  return {mi(j, i) - mi(k, i), d.between(i, i), k, -1};
}
Gap dmig_gap(const Data& d, const Table& mi, const Latents& reg, int64_t i) {
  Gap g = mig_gap(d, mi, reg, i);
  const auto l = std::find(reg.begin(), reg.end(), g.to);
  if (l == reg.end()) return g;
  g.other = l - reg.begin();
  g.normalizer -= d.between(i, g.other);
  return g;
}
Gap xmig_gap(const Data& d, const Table& mi, const Latents& reg, int64_t i) {
  const int64_t k = best_of(
      d.D, [&](int64_t n) { return mi(n, i); },
      [&](int64_t n) { return std::find(reg.begin(), reg.end(), n) == reg.end(); });
  DROPIN_CHECK(k >= 0, ShapeError, d.who, ": every latent is in reg_dim, expected one outside");
  return {mi(reg[at(i)], i) - mi(k, i), d.between(i, i), k, -1};
}
Gap dlig_gap(const Data& d, const Table& mi, const Latents& reg, int64_t i) {
  const int64_t j = reg[at(i)];
  const int64_t k = best_of(
      d.A, [&](int64_t n) { return mi(j, n); }, [i](int64_t n) { return n != i; });
  return {mi(j, i) - mi(j, k), d.between(i, i) - d.between(i, k), k, k};
}

void check_latents(const Data& d) {
  DROPIN_CHECK(d.D >= 2, ShapeError, d.who, ": ", d.D, " latent, expected 2 or more for a gap");
}
void check_attributes(const Data& d) {
  DROPIN_CHECK(d.A >= 2, ShapeError, d.who, ": ", d.A, " attribute, expected 2 or more");
}

Tensor vector(const std::vector<double>& v, const TensorOptions& o) {
  return tensor(v, Shape{static_cast<int64_t>(v.size())}, o);
}

DisentanglementScores gaps(const Data& d, const Tensor& z, const Latents& reg, const Table& mi,
                           Rule rule) {
  std::vector<double> y, normalizer;
  Latents to;
  for (int64_t i = 0; i < d.A; ++i) {
    const Gap g = rule(d, mi, reg, i);
    y.push_back(divided(d, i, g));
    normalizer.push_back(g.normalizer);
    to.push_back(g.to);
  }
  return {piecewise(d.who, vector(y, d.result), z), mi.tensor(d.result),
          tensor(to).to(d.result.device), vector(normalizer, d.result)};
}

}  // namespace

DisentanglementScores mig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o) {
  const Data d("mig", z, a, o);
  check_latents(d);
  const Latents reg = d.meant_latents(o.fill_reg_dim);
  return gaps(d, z, reg, d.mutual(), mig_gap);
}

DisentanglementScores dmig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o) {
  const Data d("dmig", z, a, o);
  check_latents(d);
  const Latents reg = d.meant_latents(true);
  return gaps(d, z, reg, d.mutual(), dmig_gap);
}

DisentanglementScores xmig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o) {
  const Data d("xmig", z, a, o);
  check_latents(d);
  const Latents reg = d.meant_latents(true);
  return gaps(d, z, reg, d.mutual(), xmig_gap);
}

DisentanglementScores dlig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o) {
  const Data d("dlig", z, a, o);
  check_attributes(d);
  const Latents reg = d.meant_latents(true);
  return gaps(d, z, reg, d.mutual(), dlig_gap);
}

DisentanglementScores modularity(const Tensor& z, const Tensor& a,
                                 const DisentanglementOptions& o) {
  const Data d("modularity", z, a, o);
  check_attributes(d);
  const Table mi = d.mutual();
  std::vector<double> y;
  for (int64_t n = 0; n < d.D; ++n) {
    double most = 0, total = 0;
    for (int64_t i = 0; i < d.A; ++i) {
      most = std::max(most, mi(n, i) * mi(n, i));
      total += mi(n, i) * mi(n, i);
    }
    y.push_back(most < o.thresh * o.thresh || most == 0
                    ? 0
                    : 1 - (total / most - 1) / static_cast<double>(d.A - 1));
  }
  return {piecewise(d.who, vector(y, d.result), z), mi.tensor(d.result), {}, {}};
}

DependencyAwareBundle dependency_aware_bundle(const Tensor& z, const Tensor& a,
                                              const DisentanglementOptions& o) {
  const Data d("dependency_aware_bundle", z, a, o);
  check_latents(d);
  check_attributes(d);
  const Latents reg = d.meant_latents(true);
  const Table mi = d.mutual();
  auto score = [&](Rule rule) { return gaps(d, z, reg, mi, rule).y; };
  Table t(d.A, d.A);
  for (int64_t i = 0; i < d.A; ++i)
    for (int64_t l = 0; l < d.A; ++l) t(i, l) = d.between(i, l);
  return {score(mig_gap),  score(dmig_gap),     score(xmig_gap),
          score(dlig_gap), mi.tensor(d.result), t.tensor(d.result)};
}

namespace {
NamedTensors named(const DisentanglementScores& s) {
  NamedTensors r{{"y", s.y}, {"mi", s.mi}};
  if (s.subtrahend.defined()) r.set("subtrahend", s.subtrahend);
  if (s.normalizer.defined()) r.set("normalizer", s.normalizer);
  return r;
}
}  // namespace

NamedTensors detail::disentanglement(const std::string& name, const Tensor& z, const Tensor& a,
                                     const DisentanglementOptions& o) {
  if (name == "mig") return named(mig(z, a, o));
  if (name == "dmig") return named(dmig(z, a, o));
  if (name == "xmig") return named(xmig(z, a, o));
  if (name == "dlig") return named(dlig(z, a, o));
  if (name == "modularity") return named(modularity(z, a, o));
  if (name == "sap") {
    const DisentanglementScores s = sap(z, a, o);
    return {{"y", s.y}, {"score", s.mi}, {"subtrahend", s.subtrahend}};
  }
  DROPIN_CHECK(name == "dependency_aware_bundle", OptionError, "disentanglement: no score \"", name,
               "\", expected mig, dmig, xmig, dlig, modularity, sap or dependency_aware_bundle");
  const DependencyAwareBundle b = dependency_aware_bundle(z, a, o);
  return {{"mig", b.mig},   {"dmig", b.dmig}, {"xmig", b.xmig},
          {"dlig", b.dlig}, {"mi", b.mi},     {"attribute_mi", b.attribute_mi}};
}

DisentanglementAccumulator::DisentanglementAccumulator(std::string name,
                                                       const DisentanglementOptions& o)
    : name_(std::move(name)), options_(o) {}

void DisentanglementAccumulator::update(const Tensor& z, const Tensor& a) {
  DROPIN_CHECK(z.dim() == 2 && (a.dim() == 1 || a.dim() == 2) && z.size(0) == a.size(0), ShapeError,
               "DisentanglementAccumulator: z is ", z.sizes(), ", a ", a.sizes(),
               ", expected [n, D] and [n, A]");
  z_.push_back(z.detach().clone());
  a_.push_back(a.detach().clone());
}

NamedTensors DisentanglementAccumulator::compute() const {
  DROPIN_CHECK(!z_.empty(), StateError,
               "DisentanglementAccumulator: compute() before update(), expected samples");
  return detail::disentanglement(name_, concat(z_), concat(a_), options_);
}

}  // namespace dropin
