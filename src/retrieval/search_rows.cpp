#include <algorithm>
#include <unordered_set>

#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/normalize.h"
#include "kernels/hd.h"
#include "retrieval/stored_rows.h"

namespace dropin::retrieval {

namespace {

struct Ranked {
  int64_t row;
  double score;
};

// Maximal marginal relevance: k of the hits, each good and unlike those picked before.
std::vector<Ranked> diverse(const StoredRows& rows, const std::vector<Ranked>& hits, int64_t k,
                            double lambda) {
  std::vector<std::vector<double>> units;
  for (const Ranked& h : hits) units.push_back(rows.unit(h.row));
  std::vector<Ranked> picked;
  std::vector<double> nearest(hits.size(), 0);
  std::vector<bool> used(hits.size());
  while (picked.size() < std::min(hits.size(), at(k))) {
    std::size_t best = hits.size();
    double most = 0;
    for (std::size_t j = 0; j < hits.size(); ++j) {
      const double value = lambda * hits[j].score - (1 - lambda) * nearest[j];
      if (!used[j] && (best == hits.size() || value > most)) {
        best = j;
        most = value;
      }
    }
    used[best] = true;
    for (std::size_t j = 0; j < hits.size(); ++j) {
      double near = 0;
      for (std::size_t e = 0; e < units[j].size(); ++e) near += units[j][e] * units[best][e];
      nearest[j] = picked.empty() ? near : std::max(nearest[j], near);
    }
    picked.push_back(hits[best]);
  }
  return picked;
}

class Search {
 public:
  Search(const StoredRows& rows, const Tensor& queries, const SearchArgs& args, int64_t k,
         const Ranking& ranking)
      : rows_(rows),
        ranking_(ranking),
        k_(k),
        out_(args.exclude_ids.begin(), args.exclude_ids.end()) {
    const DType t = queries.dtype() == kFloat64 || rows.dtype() == kFloat64 ? kFloat64 : kFloat32;
    const Tensor q = queries.detach().to(kFloat64, kCPU);
    queries_ = (rows.cosine() ? normalize(q, 1) : q).to(t).contiguous();
    if (ranking.factors.defined()) factors_ = ranking.factors.to(t, kCPU).contiguous();
    if (ranking.terms.defined()) terms_ = ranking.terms.to(t, kCPU).contiguous();
    inputs_ = rows.inputs(t);
    inputs_.factors = factors_.in();
    inputs_.terms = terms_.in();
    const bool varied = ranking.mmr_lambda < 1;
    // what is left out may be among the best
    wanted_ = (varied ? ranking.candidates : k) + static_cast<int64_t>(out_.size());
    if (args.filter.defined()) {
      allowed_ = args.filter.to(kCPU).contiguous();
      chosen_ = nonzero(allowed_).reshape({-1});
    }
  }

  Found run(const Tensor& as) {
    const int64_t count = queries_.size(0);
    Found r{full({count, k_}, -1, kInt64), full({count, k_}, -kernels::kInf<double>, kFloat64)};
    if (rows_.size() > 0 && count > 0) {
      if (rows_.approximate()) {
        parallel_for(count, 1, [&](int64_t begin, int64_t end) {
          for (int64_t q = begin; q < end; ++q) write(near(q), q, r);
        });
      } else {
        const auto hits = best(queries_, chosen_);
        for (int64_t q = 0; q < count; ++q) write(hits[at(q)], q, r);
      }
    }
    return {r.ids.to(as.device()), r.scores.to(as.dtype()).to(as.device())};
  }

 private:
  // The best of the chosen rows (undefined: of all), those left out too.
  std::vector<std::vector<Ranked>> best(const Tensor& queries, const Tensor& chosen) const {
    const int64_t count = queries.size(0);
    const int64_t k = std::min(wanted_, chosen.defined() ? chosen.numel() : rows_.size());
    std::vector<std::vector<Ranked>> hits(at(count));
    if (k == 0) return hits;
    Tensor found = empty({count, k}, kInt64), scores = empty({count, k}, queries.dtype());
    kernels::SearchInputs in = inputs_;
    in.queries = queries.in();
    in.chosen = chosen.in();
    dropin::run<kernels::search_best>(kCPU, in, found.out(), scores.out());
    const std::vector<double> s = scores.to_vector();
    for (int64_t i = 0; i < count * k; ++i)
      if (const int64_t row = found.data<int64_t>()[i]; row >= 0)
        hits[at(i / k)].push_back({row, s[at(i)]});
    return hits;
  }

  // The best of what approximate search names; of all where filters leave too few of those.
  std::vector<Ranked> near(int64_t q) const {
    const Tensor query = queries_.narrow(0, q, 1);
    std::vector<int64_t> rows =
        rows_.approximate()->near(query.data_ptr(), std::max(wanted_, ranking_.candidates));
    if (allowed_.defined())
      std::erase_if(rows, [&](int64_t row) { return !allowed_.data<bool>()[row]; });
    const int64_t there = chosen_.defined() ? chosen_.numel() : rows_.size();
    if (static_cast<int64_t>(rows.size()) < std::min(wanted_, there))
      return best(query, chosen_)[0];
    return best(query, tensor(rows))[0];
  }

  void write(std::vector<Ranked> hits, int64_t q, Found& r) const {
    if (!out_.empty())
      std::erase_if(hits, [&](const Ranked& h) { return out_.count(rows_.id(h.row)) > 0; });
    if (ranking_.mmr_lambda < 1) {
      hits.resize(std::min(hits.size(), at(ranking_.candidates)));
      hits = diverse(rows_, hits, k_, ranking_.mmr_lambda);
    }
    for (std::size_t j = 0; j < std::min(hits.size(), at(k_)); ++j) {
      r.ids.data<int64_t>()[q * k_ + static_cast<int64_t>(j)] = rows_.id(hits[j].row);
      r.scores.data<double>()[q * k_ + static_cast<int64_t>(j)] = hits[j].score;
    }
  }

  const StoredRows& rows_;
  const Ranking& ranking_;
  int64_t k_, wanted_;
  std::unordered_set<int64_t> out_;
  Tensor queries_, factors_, terms_, allowed_, chosen_;
  kernels::SearchInputs inputs_;
};

}  // namespace

Found search_rows(const StoredRows& rows, const Tensor& queries, const SearchArgs& args, int64_t k,
                  const Ranking& ranking) {
  no_grad guard;
  return Search(rows, queries, args, k, ranking).run(queries);
}

}  // namespace dropin::retrieval
