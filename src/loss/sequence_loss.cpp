#include "dropin/loss/sequence_loss.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "kernels/hd.h"
#include "loss/edit_invariant.h"
#include "ops/common.h"

namespace dropin {

namespace {

using namespace edit_invariant;

Tensor as_tensor(const Rows& rows, int64_t length, const Device& device) {
  Tensor t = empty({static_cast<int64_t>(rows.size()), length}, kBool);
  bool* p = t.data<bool>();
  for (const auto& row : rows)
    for (const bool v : row) *p++ = v;
  return t.to(device);
}

// For each position the number of valid ones from there on without a gap.
std::vector<std::vector<int64_t>> runs_of(const Rows& valid) {
  std::vector<std::vector<int64_t>> runs;
  for (const auto& row : valid) {
    std::vector<int64_t> r(row.size());
    for (std::size_t i = row.size(), n = 0; i-- > 0;)
      r[i] = static_cast<int64_t>(n = row[i] ? n + 1 : 0);
    runs.push_back(std::move(r));
  }
  return runs;
}
int64_t longest(const std::vector<int64_t>& runs) {
  return runs.empty() ? 0 : *std::max_element(runs.begin(), runs.end());
}

struct Order {
  int64_t n, entry;  ///< windows of n; the entry of ngrams it came from first
  double weight;
};
// The orders of a sample whose longest common run is `most`.
std::vector<Order> orders_of(int64_t most, const EditInvariantSequenceLossOptions& o) {
  std::vector<Order> kept;
  double total = 0;
  for (std::size_t k = 0; k < o.ngrams.size(); ++k) {
    const int64_t n = o.ngrams[k] > 0 ? o.ngrams[k] : most + o.ngrams[k];
    if (n < 1 || n > most) continue;
    const double w = o.weights.empty() ? 1 : o.weights[k];
    const auto same =
        std::find_if(kept.begin(), kept.end(), [n](const Order& x) { return x.n == n; });
    if (same == kept.end())
      kept.push_back({n, static_cast<int64_t>(k), w});
    else if (o.weights.empty())
      continue;
    else
      same->weight += w;
    total += w;
  }
  if (!(total > 0)) return {{most, 0, 1}};
  for (Order& x : kept) x.weight /= total;
  return kept;
}

// Sums of a over n steps along the diagonal from each position: [B, T - n + 1, S - n + 1].
Tensor diagonal_sums(const Tensor& a, int64_t n) {
  const int64_t rows = a.size(1) - n + 1, columns = a.size(2) - n + 1;
  Tensor total, part = a;  // part: sums of k steps
  for (int64_t k = 1, from = 0; k <= n; k *= 2) {
    if (n & k) {
      const Tensor cut = part.narrow(1, from, rows).narrow(2, from, columns);
      total = total.defined() ? total + cut : cut;
      from += k;
    }
    if (2 * k > n) break;
    const int64_t h = part.size(1) - k, w = part.size(2) - k;
    part = part.narrow(1, 0, h).narrow(2, 0, w) + part.narrow(1, k, h).narrow(2, k, w);
  }
  return total;
}

// The samples that use one order.
struct Group {
  std::vector<int64_t> samples;
  std::vector<double> weights;
};

struct Problem {
  const EditInvariantSequenceLossOptions& o;
  const EditInvariantArgs& args;
  std::vector<std::vector<int64_t>> output_runs, target_runs;
  double samples = 0;  ///< in the mean
};

// Where windows of n start, [samples, 1 or I, 1 or J].
Tensor starts(const std::vector<std::vector<int64_t>>& runs, const Group& g, int64_t n,
              int64_t count, const Device& device) {
  Rows r;
  for (const int64_t b : g.samples) {
    r.emplace_back();
    for (int64_t i = 0; i < count; ++i) r.back().push_back(runs[at(b)][at(i)] >= n);
  }
  return as_tensor(r, count, device);
}

Tensor noise_of(const Problem& p, const Group& g, int64_t entry, const Tensor& index,
                const Tensor& c) {
  if (p.o.position != "gumbel_softmax") return {};
  if (p.args.gumbel.defined())
    return index_select(p.args.gumbel.detach().select(0, entry), 0, index)
        .narrow(1, 0, c.size(1))
        .narrow(2, 0, c.size(2))
        .to(c.dtype());
  if (!p.args.training || g.samples.empty()) return {};
  const Tensor u = rand(c.sizes(), c.options(), p.args.generator);
  return -log(-log(clamp(u, 1e-30, 1 - 1e-7)));
}

// sum over the group's samples of weight * L_n.
Tensor group_loss(const Problem& p, const Group& g, int64_t n, int64_t entry, const Tensor& a) {
  const double none = -std::numeric_limits<double>::infinity();
  const Device& device = a.device();
  const auto count = static_cast<int64_t>(g.samples.size());
  const Tensor index = tensor(g.samples).to(device);
  const Tensor sums = diagonal_sums(count == a.size(0) ? a : index_select(a, 0, index), n);
  const Tensor outputs = starts(p.output_runs, g, n, sums.size(1), device).unsqueeze(2),
               targets = starts(p.target_runs, g, n, sums.size(2), device);
  Tensor per_target;  // [samples, J]
  const double share = 1 / static_cast<double>(n);
  if (p.o.position == "logsumexp") {
    per_target = logsumexp(where(outputs, sums, none), {1}) * share;
  } else {
    const Tensor c = sums * share, g_noise = noise_of(p, g, entry, index, c);
    const Tensor scores = (g_noise.defined() ? c + g_noise : c) * (1 / p.o.tau);
    Tensor q = softmax(where(outputs, scores, none), 1);
    if (p.o.detach_position) q = q.detach();
    per_target = sum(q * c, {1});
  }
  const Tensor each = sum(where(targets, per_target, 0.0), {1}) / sum(targets.to(a.dtype()), {1}),
               weights = tensor(g.weights, {count}, a.options());
  return -sum(each * weights);
}

// Smoothed cross entropy over the positions of `both`, [B, T].
Tensor cross_entropy_part(const Tensor& x, const Tensor& own, const Tensor& lse, const Tensor& both,
                          double smoothing) {
  Tensor loss = own * (smoothing - 1);
  if (smoothing > 0) {
    const Tensor average = mean(x, {2});
    loss = loss - (lse.defined() ? average - lse.squeeze(2) : average) * smoothing;
  }
  return sum(where(both, loss, 0.0)) / sum(both.to(x.dtype()));
}

}  // namespace

EditInvariantLosses EditInvariantSequenceLoss(const Tensor& logits, const Tensor& target,
                                              const EditInvariantArgs& args,
                                              const EditInvariantSequenceLossOptions& o) {
  check_options(o);
  check_inputs(logits, target, args, o);
  const int64_t batch = logits.size(0), T = logits.size(1), S = target.size(1);
  const Device& device = logits.device();
  const Rows targets =
      valid_targets(target, args.target_padding_mask, logits.size(2), o.ignore_index);
  const Rows outputs = !args.output_padding_mask.defined() && T == S
                           ? targets
                           : valid_rows(args.output_padding_mask, batch, T);
  check_valid_logits(logits, outputs);
  const Tensor valid_out = as_tensor(outputs, T, device), valid_in = as_tensor(targets, S, device);
  // rows that do not count hold anything: they leave the picture
  const Tensor x =
      where(valid_out.unsqueeze(2), logits.to(ops_detail::compute_type(logits.dtype())), 0.0);
  const Tensor nothing = sum(where(zeros({}, {kBool, device}), x, 0.0));
  const Tensor lse = o.from_log_probs ? Tensor() : logsumexp(x, {2}, true);
  const Tensor ids = where(valid_in, target, zeros_like(target));
  const Tensor raw = gather(x, 2, ids.unsqueeze(1).expand({batch, T, S}).contiguous()),
               logp = lse.defined() ? raw - lse : raw,
               a = where(logp > o.min_log_prob, logp, o.min_log_prob);

  Problem p{o, args, runs_of(outputs), runs_of(targets)};
  std::map<std::pair<int64_t, int64_t>, Group> groups;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t most = std::min(longest(p.output_runs[at(b)]), longest(p.target_runs[at(b)]));
    if (most < 1) continue;
    p.samples += 1;
    for (const Order& order : orders_of(most, o)) {
      Group& g = groups[{order.n, order.entry}];
      g.samples.push_back(b);
      g.weights.push_back(order.weight);
    }
  }
  EditInvariantLosses r{nothing, nothing, nothing};
  for (const auto& [key, group] : groups)
    r.ngram_loss = r.ngram_loss + group_loss(p, group, key.first, key.second, a) * (1 / p.samples);
  if (T == S) {
    const Tensor both = logical_and(valid_out, valid_in);
    if (any(both).item<bool>())
      r.ce_loss = cross_entropy_part(x, logp.diagonal(0, 1, 2), lse, both, o.label_smoothing);
  }
  if (o.ngram_factor != 0) r.loss = r.loss + r.ngram_loss * o.ngram_factor;
  if (o.ce_factor != 0) r.loss = r.loss + r.ce_loss * o.ce_factor;
  return r;
}

}  // namespace dropin
