#include "dropin/generation/mbr_decode.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "dropin/core/parallel.h"
#include "generation/choose.h"
#include "generation/mbr_group.h"
#include "kernels/hd.h"

namespace dropin {

using generation::Group;
using generation::token_utility;
using generation::TokenUtility;

namespace {

using generation::kMbr;

void check_mbr(const MbrDecodeOptions& o) {
  generation::check_utility(kMbr, o.utility, o);
  generation::check_utility(kMbr, o.coarse_utility, o);
  DROPIN_CHECK(o.approximate == "none" || o.approximate == "aggregate" ||
                   o.approximate == "coarse" || o.approximate == "confidence",
               OptionError, kMbr, ": approximate is \"", o.approximate,
               "\", expected none, aggregate, coarse or confidence");
  const bool common = o.utility == "rougeL" || o.utility == "lcs" || o.utility == "edit";
  DROPIN_CHECK(!o.lazy || (common && o.approximate == "none"), OptionError, kMbr,
               ": lazy with utility ", o.utility, " and approximate ", o.approximate,
               ", expected rougeL, lcs or edit and none");
  DROPIN_CHECK(o.approximate != "aggregate" || !(common || o.utility == "exact_match" ||
                                                 o.utility == "bertscore" || o.utility == "matrix"),
               OptionError, kMbr, ": approximate is aggregate with utility ", o.utility,
               ", expected rouge1 to rouge9, bleu, chrf or cosine");
  DROPIN_CHECK(o.approximate != "coarse" || generation::is_token_utility(o.coarse_utility),
               OptionError, kMbr, ": coarse_utility is ", o.coarse_utility,
               ", expected one of sequences");
  DROPIN_CHECK(o.keep >= 1 && o.bootstrap >= 1 && o.nbest >= 1, OptionError, kMbr, ": keep is ",
               o.keep, ", bootstrap ", o.bootstrap, " and nbest ", o.nbest,
               ", expected at least 1");
  DROPIN_CHECK(o.alpha >= 0 && o.alpha <= 1, OptionError, kMbr, ": alpha is ", o.alpha,
               ", expected 0 to 1");
  for (std::size_t i = 0; i < o.schedule.size(); ++i)
    DROPIN_CHECK(o.schedule[i] > (i ? o.schedule[i - 1] : 0), OptionError, kMbr, ": schedule has ",
                 o.schedule[i], ", expected rising positive numbers");
}

// Scores beside a table of the utilities that were needed; the rest is NaN.
struct Scored {
  std::vector<double> scores, table;
  std::vector<bool> evaluated;
};
struct Scorer {
  const Group& g;
  const MbrDecodeOptions& o;
  std::vector<double> p = g.p.detach().to_vector();
  Scored r{std::vector<double>(at(g.n), -kernels::kInf<double>),
           std::vector<double>(at(g.n* g.m), std::nan("")), std::vector<bool>(at(g.n))};

  double row(int64_t i, int64_t columns) {  // over the first columns, weights normalized there
    double sum = 0, total = 0;
    for (int64_t j = 0; j < columns; ++j) {
      double& u = r.table[at(i * g.m + j)];
      if (std::isnan(u)) u = g(i, j);
      sum += p[at(i * g.m + j)] * u;
      total += p[at(i * g.m + j)];
    }
    return columns == g.m ? sum : total > 0 ? sum / total : 0;
  }
  void evaluate(int64_t i) {
    r.scores[at(i)] = row(i, g.m);
    r.evaluated[at(i)] = true;
  }
  void all() {
    for (int64_t i = 0; i < g.n; ++i) evaluate(i);
  }
  void lazy() {
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < g.n; ++i) {
      double bound = 0;
      for (int64_t j = 0; j < g.m; ++j) bound += p[at(i * g.m + j)] * g.tokens->bound(i, j);
      r.scores[at(i)] = bound;
      rows.push_back(i);
    }
    std::stable_sort(rows.begin(), rows.end(),
                     [&](int64_t a, int64_t b) { return r.scores[at(a)] > r.scores[at(b)]; });
    double best = -kernels::kInf<double>;
    for (const int64_t i : rows) {
      if (r.scores[at(i)] < best - 1e-9) break;  // a tie by rounding is not given away
      evaluate(i);
      best = std::max(best, r.scores[at(i)]);
    }
  }
  void aggregate() {
    TokenUtility::Expected e;
    for (int64_t i = 0; i < g.n; ++i) {
      if (i == 0 || o.exclude_self) e = g.tokens->expected(p.data() + i * g.m);
      r.scores[at(i)] = (*g.tokens)(i, e);
    }
  }
  void coarse(const TokenUtility& cheap) {
    std::vector<double> first(at(g.n));
    for (int64_t i = 0; i < g.n; ++i)
      for (int64_t j = 0; j < g.m; ++j) first[at(i)] += p[at(i * g.m + j)] * cheap(i, j);
    for (const int64_t i : generation::best_first(first, o.keep)) evaluate(i);
  }
  void confidence();
};

// Rows that a resample of the references hardly ever puts first are dropped (Cheng, Vlachos 2023).
void Scorer::confidence() {
  std::mt19937_64 bits(static_cast<std::uint64_t>(o.seed));
  std::vector<int64_t> alive;
  for (int64_t i = 0; i < g.n; ++i) alive.push_back(i);
  for (const int64_t columns : o.schedule) {
    if (columns >= g.m || alive.size() < 2) break;
    std::vector<double> now(at(g.n), -kernels::kInf<double>);
    for (const int64_t i : alive) now[at(i)] = row(i, columns);
    const std::vector<int64_t> first = generation::best_first(now, 1);
    if (first.empty()) break;
    std::vector<int64_t> wins(at(g.n)), left, drawn(at(columns));
    auto resampled = [&](int64_t i) {
      double sum = 0, total = 0;
      for (const int64_t j : drawn) {
        sum += p[at(i * g.m + j)] * r.table[at(i * g.m + j)];
        total += p[at(i * g.m + j)];
      }
      return total > 0 ? sum / total : 0;
    };
    for (int64_t b = 0; b < o.bootstrap; ++b) {
      for (int64_t& j : drawn)
        j = static_cast<int64_t>(bits() % static_cast<std::uint64_t>(columns));
      const double best = resampled(first[0]);
      for (const int64_t i : alive) wins[at(i)] += resampled(i) >= best;
    }
    for (const int64_t i : alive) {
      const double share = static_cast<double>(wins[at(i)]) / static_cast<double>(o.bootstrap);
      if (i == first[0] || share > 1 - o.alpha) left.push_back(i);
    }
    alive = left;
  }
  for (const int64_t i : alive) evaluate(i);
}

// The walk over utilities is the CPU's; tensors of another device come and go by copies.
constexpr Tensor Candidates::*kInputs[] = {
    &Candidates::candidates,    &Candidates::lengths,
    &Candidates::references,    &Candidates::reference_lengths,
    &Candidates::weights,       &Candidates::log_weights,
    &Candidates::embeddings,    &Candidates::reference_embeddings,
    &Candidates::token_weights, &Candidates::reference_token_weights,
    &Candidates::utilities};

Device device_of(const Candidates& in) {
  for (Tensor Candidates::*const field : kInputs)
    if ((in.*field).defined()) return (in.*field).device();
  return kCPU;
}
Candidates moved(Candidates in, const Device& device) {
  for (Tensor Candidates::*const field : kInputs)
    if ((in.*field).defined()) in.*field = (in.*field).to(device);
  return in;
}
Choice moved(Choice c, const Device& device) {
  for (Tensor* t : {&c.index, &c.scores, &c.order, &c.utilities, &c.evaluated})
    if (t->defined()) *t = t->to(device);
  return c;
}

DType result_type(const Candidates& in) {
  for (const Tensor* t : {&in.embeddings, &in.utilities, &in.weights, &in.log_weights})
    if (t->defined()) return t->dtype();
  return kFloat32;
}

Choice choice_of(const Group& g, const MbrDecodeOptions& o, DType type, const TokenUtility* cheap) {
  Scorer s{g, o};
  if (o.approximate == "aggregate" && g.tokens)
    s.aggregate();
  else if (o.approximate == "coarse")
    s.coarse(*cheap);
  else if (o.approximate == "confidence")
    s.confidence();
  else if (o.lazy)
    s.lazy();
  else
    s.all();
  Choice c;
  generation::choose(kMbr, s.r.scores, o.nbest, c);
  const bool exact = !o.lazy && (o.approximate == "none" || g.table.defined()) &&
                     o.approximate != "coarse" && o.approximate != "confidence";
  const Tensor table =
      g.table.defined() && exact ? g.table : tensor(s.r.table, {g.n, g.m}, kFloat64);
  c.scores = (exact ? sum(g.p * table, {1}) : tensor(s.r.scores, kFloat64)).to(type);
  if (o.return_utilities) c.utilities = table.to(type);
  if (o.lazy) {
    c.evaluated = zeros({g.n}, kBool);
    for (int64_t i = 0; i < g.n; ++i)
      if (s.r.evaluated[at(i)]) c.evaluated[i].fill_(true);
  }
  return c;
}

}  // namespace

Choice mbr_decode(const Candidates& in, const MbrDecodeOptions& o) {
  check_mbr(o);
  const Device device = device_of(in);
  if (!device.is_cpu()) return moved(mbr_decode(moved(in, kCPU), o), device);
  const Group g = generation::group_of(in, o);
  if (o.approximate != "coarse") return choice_of(g, o, result_type(in), nullptr);
  const TokenUtility cheap = token_utility(o.coarse_utility, in, o);
  DROPIN_CHECK(in.candidates.size(0) == g.n &&
                   (in.references.defined() ? in.references.size(0) : g.n) == g.m,
               ShapeError, kMbr, ": coarse_utility reads ", in.candidates.size(0),
               " candidates, expected as many as the utility has, ", g.n, ", and its ", g.m,
               " references");
  return choice_of(g, o, result_type(in), &cheap);
}

Choice mbr_decode(int64_t candidates, int64_t references,
                  const std::function<double(int64_t, int64_t)>& utility,
                  const MbrDecodeOptions& o) {
  DROPIN_CHECK(candidates > 0 && references > 0, OptionError, kMbr, ": ", candidates,
               " candidates and ", references, " references, expected at least 1 of each");
  Tensor table = empty({candidates, references}, kFloat64);
  for (int64_t i = 0; i < candidates; ++i)
    for (int64_t j = 0; j < references; ++j)
      table.data<double>()[i * references + j] = utility(i, j);
  MbrDecodeOptions given = o;
  given.utility = "matrix";
  Candidates in;
  in.utilities = table;
  return mbr_decode(in, given);
}

std::vector<Choice> mbr_decode(const std::vector<Candidates>& groups, const MbrDecodeOptions& o) {
  std::vector<Choice> all;
  for (const Candidates& g : groups) all.push_back(mbr_decode(g, o));
  return all;
}

}  // namespace dropin
