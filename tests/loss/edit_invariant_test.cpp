// EISL against its definition in plain loops, the cases where it is cross entropy, and bad input.
#include <algorithm>

#include "dropin/loss/sequence_loss.h"
#include "loss/edit_ids.h"
#include "support.h"

namespace dropin::testing {
namespace {

using Flags = std::vector<std::vector<bool>>;

// Windows of n valid positions in a row.
std::vector<int> windows(const std::vector<bool>& valid, int n) {
  std::vector<int> r;
  for (int i = 0; i + n <= static_cast<int>(valid.size()); ++i)
    if (std::all_of(valid.begin() + i, valid.begin() + i + n, [](bool v) { return v; }))
      r.push_back(i);
  return r;
}

int longest(const std::vector<bool>& valid) {
  int n = 0;
  while (!windows(valid, n + 1).empty()) ++n;
  return n;
}

// L_n of one sample from the floored log-probabilities a[t][s]; `noise` may be undefined.
double order_loss(const Options& o, const std::vector<std::vector<double>>& a, const Tensor& noise,
                  const std::vector<bool>& outputs, const std::vector<bool>& targets, int n) {
  const auto I = windows(outputs, n), J = windows(targets, n);
  double total = 0;
  for (const int j : J) {
    double z = 0, weighed = 0;
    for (const int i : I) {
      double c = 0;
      for (int m = 0; m < n; ++m)
        c += a[static_cast<std::size_t>(i + m)][static_cast<std::size_t>(j + m)];
      if (o.position == "logsumexp") {
        z += std::exp(c);
        continue;
      }
      c /= n;
      const double g = noise.defined() ? noise.select(0, i).select(0, j).item() : 0;
      z += std::exp((c + g) / o.tau);
      weighed += std::exp((c + g) / o.tau) * c;
    }
    total += o.position == "logsumexp" ? std::log(z) / n : weighed / z;
  }
  return -total / static_cast<double>(J.size());
}

// ngram_loss by the page's steps.
double reference(const Options& o, const Tensor& logits, const std::vector<int64_t>& target,
                 const Flags& outputs, const Flags& targets, const Tensor& gumbel) {
  const Tensor logp = o.from_log_probs ? logits : log_softmax(logits, 2);
  const int64_t S = static_cast<int64_t>(targets[0].size());
  double total = 0;
  int samples = 0;
  for (std::size_t b = 0; b < targets.size(); ++b) {
    const auto sample = static_cast<int64_t>(b);
    std::vector<std::vector<double>> a;
    for (int64_t t = 0; t < logits.size(1); ++t) {
      a.emplace_back();
      for (int64_t s = 0; s < S; ++s) {
        const int64_t id = target[static_cast<std::size_t>(sample * S + s)];
        const bool counts = targets[b][static_cast<std::size_t>(s)];
        a.back().push_back(
            counts
                ? std::max(logp.select(0, sample).select(0, t).select(0, id).item(), o.min_log_prob)
                : 0);
      }
    }
    const int most = std::min(longest(outputs[b]), longest(targets[b]));
    if (most < 1) continue;
    ++samples;
    std::vector<std::array<double, 3>> kept;  // order, weight, entry
    double sum = 0;
    for (std::size_t k = 0; k < o.ngrams.size(); ++k) {
      const auto n = static_cast<double>(o.ngrams[k] > 0 ? o.ngrams[k] : most + o.ngrams[k]);
      if (n < 1 || n > most) continue;
      const double w = o.weights.empty() ? 1 : o.weights[k];
      auto same = std::find_if(kept.begin(), kept.end(), [n](const auto& x) { return x[0] == n; });
      if (same == kept.end())
        kept.push_back({n, w, static_cast<double>(k)});
      else if (!o.weights.empty())
        (*same)[1] += w;
    }
    for (const auto& x : kept) sum += x[1];
    if (sum == 0) {
      kept = {{static_cast<double>(most), 1, 0}};
      sum = 1;
    }
    for (const auto& [n, w, entry] : kept) {
      const Tensor noise = gumbel.defined() && o.position == "gumbel_softmax"
                               ? gumbel.select(0, static_cast<int64_t>(entry)).select(0, sample)
                               : Tensor();
      total += w / sum * order_loss(o, a, noise, outputs[b], targets[b], static_cast<int>(n));
    }
  }
  return samples ? total / samples : 0;
}

TEST(EditInvariantSequenceLoss, AgreesWithItsDefinition) {
  const int64_t B = 4, T = 6, S = 5, V = 7;
  const Tensor logits = random({B, T, V}, kFloat64, 3) * 4.0;
  std::vector<int64_t> target;
  for (int64_t i = 0; i < B * S; ++i) target.push_back((i * i + 2) % V);
  Tensor out_mask = zeros({B, T}, kBool), in_mask = zeros({B, S}, kBool);
  Flags outputs(B, std::vector<bool>(T, true)), targets(B, std::vector<bool>(S, true));
  auto hide = [](Tensor& mask, Flags& flags, int64_t b, int64_t i) {
    mask.select(0, b).narrow(0, i, 1).fill_(true);
    flags[static_cast<std::size_t>(b)][static_cast<std::size_t>(i)] = false;
  };
  hide(out_mask, outputs, 0, 2);  // holes
  hide(in_mask, targets, 1, 1);
  hide(in_mask, targets, 1, 4);
  for (int64_t i = 0; i < S; ++i) hide(in_mask, targets, 2, i);  // nothing at all
  for (const char* position : {"softmax", "logsumexp", "gumbel_softmax"})
    for (const std::vector<int64_t>& ngrams :
         std::vector<std::vector<int64_t>>{{1}, {2, 0}, {3, -1, 2, 3}, {9}, {-7, 4}, {5, 1}})
      for (const bool weighted : {false, true})
        for (const bool normalized : {false, true}) {
          Options o;
          o.ngrams = ngrams;
          o.position = position;
          o.tau = 0.7;
          o.min_log_prob = -5;
          o.from_log_probs = normalized;
          for (std::size_t k = 0; weighted && k < ngrams.size(); ++k)
            o.weights.push_back(k == 0 && ngrams.size() > 1 ? 0 : 1.5 + static_cast<double>(k));
          EditInvariantArgs args;
          args.output_padding_mask = out_mask;
          args.target_padding_mask = in_mask;
          args.gumbel = random({static_cast<int64_t>(ngrams.size()), B, T, S}, kFloat64, 8);
          const Tensor x = normalized ? log_softmax(logits, 2) : logits;
          const double got =
              EditInvariantSequenceLoss(x, ids(target, {B, S}), args, o).ngram_loss.item();
          EXPECT_NEAR(got, reference(o, x, target, outputs, targets, args.gumbel), 1e-12)
              << position << " " << ngrams[0] << " weighted " << weighted;
        }
}

TEST(EditInvariantSequenceLoss, OfTheWholeLengthIsCrossEntropy) {
  const Tensor logits = random({3, 6, 9}),
               target = ids({1, 2, 3, 4, 5, 6, 0, 0, 8, 7, 7, 1, 5, 4, 3, 2, 1, 0}, {3, 6});
  for (const char* position : {"softmax", "logsumexp"}) {
    Options o;
    o.ngrams = {0};
    o.position = position;
    o.ce_factor = 1;
    const auto l = EditInvariantSequenceLoss(logits, target, {}, o);
    const double want = cross_entropy(logits.transpose(1, 2), target).item();
    EXPECT_NEAR(l.ngram_loss.item(), want, 1e-14) << position;
    EXPECT_NEAR(l.ce_loss.item(), want, 1e-14);
    EXPECT_NEAR(l.loss.item(), 2 * want, 1e-14);
  }
}

TEST(EditInvariantSequenceLoss, LogsumexpIsTheLowerAndOrderOfTheBatchDoesNotMatter) {
  const Tensor logits = random({3, 6, 9}) * 3.0,
               target = ids({1, 2, 3, 4, 5, 6, 0, 0, 8, 7, 7, 1, 5, 4, 3, 2, -100, -100}, {3, 6});
  Options o;
  o.position = "softmax";
  const double soft = EditInvariantSequenceLoss(logits, target, {}, o).loss.item();
  const Tensor turned = flip(logits, {0}), other = flip(target, {0});
  EXPECT_NEAR(EditInvariantSequenceLoss(turned, other, {}, o).loss.item(), soft, 1e-14);
  o.position = "logsumexp";
  EXPECT_LE(EditInvariantSequenceLoss(logits, target, {}, o).loss.item(), soft);
}

TEST(EditInvariantSequenceLoss, ForgivesAShiftThatCrossEntropyPunishes) {
  Tensor logits = zeros({1, 8, 12}, kFloat64);
  for (int64_t t = 0; t < 8; ++t) logits.select(0, 0).select(0, t).narrow(0, t, 1).fill_(10);
  const Tensor target = ids({1, 2, 3, 4, 5, 6, 7, 8}, {1, 8});
  Options o;
  o.ngrams = {2, 3, 4};
  o.position = "softmax";
  const auto l = EditInvariantSequenceLoss(logits, target, {}, o);
  // only the last n-gram is nowhere in the output
  EXPECT_LT(l.ngram_loss.item() * 5, l.ce_loss.item());
}

}  // namespace
}  // namespace dropin::testing
