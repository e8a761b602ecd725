// Sampling: filters, draws, and a look at what greedily follows.
#include <cmath>

#include "generation/decoding.h"

namespace dropin {

using generation::Hypothesis;
using generation::Limits;
using generation::Rows;

namespace {

Limits sampling_limits(const SamplingOptions& o, const LanguageModel& base) {
  const Limits l = generation::limits_of("SamplingDecoder", o, base);
  DROPIN_CHECK(o.temperature > 0 && std::isfinite(o.temperature), OptionError, l.who,
               ": temperature is ", o.temperature, ", expected a positive number");
  DROPIN_CHECK(o.top_k >= 0, OptionError, l.who, ": top_k is ", o.top_k, ", expected 0 or more");
  DROPIN_CHECK(o.top_p > 0 && o.top_p <= 1, OptionError, l.who, ": top_p is ", o.top_p,
               ", expected more than 0 and at most 1");
  DROPIN_CHECK(o.min_p >= 0 && o.min_p <= 1, OptionError, l.who, ": min_p is ", o.min_p,
               ", expected 0 to 1");
  DROPIN_CHECK(o.lookahead_steps >= 0 && o.alpha >= 0, OptionError, l.who, ": lookahead_steps is ",
               o.lookahead_steps, " and alpha ", o.alpha, ", expected 0 or more");
  DROPIN_CHECK(o.repetition_penalty > 0, OptionError, l.who, ": repetition_penalty is ",
               o.repetition_penalty, ", expected a positive number");
  return l;
}

// What is left of z, sorted by id; the rest becomes -inf.
void filter(const SamplingOptions& o, std::vector<double>& z) {
  const auto v = static_cast<int64_t>(z.size());
  auto drop_below = [&z](double least) {
    for (double& x : z)
      if (x < least) x = generation::kBanned;
  };
  if (o.top_k > 0) {
    const auto best = generation::best_of(z.data(), v, o.top_k);
    if (!best.empty()) drop_below(z[at(best.back())]);
  }
  if (o.top_p < 1) {
    const auto order = generation::best_of(z.data(), v, v);
    double total = 0, before = 0;
    for (const int64_t i : order) total += std::exp(z[at(i)] - z[at(order[0])]);
    const double top = order.empty() ? 0 : z[at(order[0])];
    for (const int64_t i : order) {
      const double share = std::exp(z[at(i)] - top) / total;
      if (before >= o.top_p) z[at(i)] = generation::kBanned;
      before += share;
    }
  }
  if (o.min_p > 0) {
    const int64_t best = generation::best_index(z.data(), v);
    if (best >= 0) drop_below(z[at(best)] + std::log(o.min_p));
  }
}

// Log-probabilities of tokens that occurred are multiplied.
void penalize(const SamplingOptions& o, const Hypothesis& h, std::vector<double>& z) {
  std::vector<bool> seen(z.size());
  for (const int64_t t : h.text) seen[at(t)] = true;
  for (std::size_t i = 0; i < z.size(); ++i)
    if (seen[i] && o.repetition_penalty != 1) z[i] *= o.repetition_penalty;
}

// z += alpha times what follows each kept token that ends nothing.
void add_lookahead(const SamplingOptions& o, const Limits& l, const Rows& rows,
                   const std::vector<Hypothesis*>& texts, std::vector<std::vector<double>>& z) {
  std::vector<int64_t> from, tokens, text;
  std::vector<Hypothesis> grown;
  for (std::size_t i = 0; i < texts.size(); ++i)
    for (int64_t w = 0; w < l.vocab; ++w) {
      if (z[i][at(w)] == generation::kBanned || l.is_end(w)) continue;
      from.push_back(texts[i]->row);
      tokens.push_back(w);
      text.push_back(static_cast<int64_t>(i));
      grown.push_back(*texts[i]);
      grown.back().append(w);
    }
  if (from.empty()) return;
  const auto h = generation::greedy_means(l, rows.next(from, tokens), grown, o.lookahead_steps);
  for (std::size_t j = 0; j < h.size(); ++j)
    if (std::isfinite(h[j])) z[at(text[j])][at(tokens[j])] += o.alpha * h[j];
}

}  // namespace

std::vector<std::string> SamplingDecoder::examples() {
  return {R"({"temperature": 0.7, "top_k": 5, "top_p": 0.9, "num_return": 2})",
          R"({"lookahead_steps": 2, "top_k": 4, "min_p": 0.05, "repetition_penalty": 1.2})"};
}

SamplingDecoder::SamplingDecoder(const SamplingOptions& o) : DecoderOf(o) {
  sampling_limits(o, base());
}
SamplingDecoder::SamplingDecoder(Box<LanguageModel> model, const SamplingOptions& o)
    : DecoderOf(std::move(model), o) {
  sampling_limits(o, base());
}

Decoded SamplingDecoder::generate(const DecodeArgs& args) {
  no_grad guard;
  const Limits l = sampling_limits(options_, base());
  generation::refuse_constraints(l, args);
  const auto prompts = generation::read_prompts(l, args);
  std::size_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, p.size());
  const auto batch = static_cast<int64_t>(prompts.size());
  const generation::Uniforms uniforms(l, args, batch, static_cast<int64_t>(longest) + l.max_new);
  const auto choose = [&](const Rows& rows, const std::vector<Hypothesis*>& texts,
                          std::vector<std::vector<double>>& lp) {
    std::vector<std::vector<double>> z;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      z.push_back(lp[i]);
      penalize(options_, *texts[i], z.back());
      for (double& x : z.back()) x /= options_.temperature;
      filter(options_, z.back());
    }
    if (options_.lookahead_steps > 0) add_lookahead(options_, l, rows, texts, z);
    std::vector<int64_t> r;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const Hypothesis& h = *texts[i];
      const double u = uniforms(h.example, h.result, static_cast<int64_t>(h.text.size()));
      r.push_back(generation::draw(z[i].data(), l.vocab, u));
    }
    return r;
  };
  return generation::decoded(l, generation::one_by_one(l, base(), prompts, choose), false,
                             args.prompt.device());
}

}  // namespace dropin
