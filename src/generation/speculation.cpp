#include "generation/speculation.h"

#include <cmath>

namespace dropin::generation {

namespace {

// One row of the batch.
class Speculation {
 public:
  struct Setting {
    const Limits& limits;
    const VerifyOptions& rules;
    const ProcessLogits& process;
    LanguageModel& base;
    Guesser& guesser;
    std::function<double(int64_t place)> uniform;
  };
  Speculation(const Setting& s, const std::vector<int64_t>& prompt, int64_t example)
      : s_(s), text_(start_of(prompt, example)), state_(s.base.init_drafts(s.guesser.nodes())) {}

  std::vector<int64_t> accepted;

  // The generated tokens, and the sum of their log-probabilities.
  Finished run() {
    const Device device = s_.base.parameters()[0].device();
    const auto pass = s_.base.read(tensor(text_.text).to(device), *state_);
    s_.guesser.start(pass);
    const DraftTree root_only = draft_run(0);
    int64_t root =
        judged(root_only, {0}, pass.logits.narrow(0, pass.logits.size(0) - 1, 1), 0).next_token;
    double lp = root < 0 ? 0 : lp_[at(root)];  // of the root
    while (root >= 0 && !emit_last(root, lp)) {
      const auto n = static_cast<int64_t>(text_.text.size());
      std::vector<int64_t> rooted = text_.text;
      rooted.push_back(root);
      const auto [tree, tokens] = s_.guesser.propose(rooted, s_.limits.max_len - 1 - n);
      const auto p = s_.base.tree_step(tensor(tokens).to(device), tree, *state_);
      const Verified v = judged(tree, tokens, p.logits, 1);
      accepted.push_back(static_cast<int64_t>(v.path.size()) - 1);
      if (!emit(v.path, tokens, tree, lp)) break;
      s_.base.keep(v.path, *state_);
      s_.guesser.advance(p, v.path);
      root = v.next_token;
      lp = root < 0 ? 0 : lp_[at(v.path.back() * s_.limits.vocab + root)];
    }
    return finished(text_, text_.sum);
  }

 private:
  // The root where nothing may follow it: then it is emitted.
  bool emit_last(int64_t root, double lp) {
    if (!s_.limits.is_end(root) && text_.length() + 1 < s_.limits.max_new) return false;
    text_.sum += lp;
    text_.append(root);
    return true;
  }
  // The tokens of a path, up to the end; false where the text is complete then.
  bool emit(const std::vector<int64_t>& path, const std::vector<int64_t>& tokens,
            const DraftTree& tree, double root_lp) {
    for (const int64_t node : path) {
      const int64_t token = tokens[at(node)];
      const int64_t up = tree.parent[at(node)];
      text_.sum += up < 0 ? root_lp : lp_[at(up * s_.limits.vocab + token)];
      text_.append(token);
      if (s_.limits.is_end(token) || text_.length() == s_.limits.max_new) return false;
    }
    return true;
  }
  // Which nodes stay, by the logits behind each. `nodes`: 1, or 0 where the text's own last token
  // is the root.
  Verified judged(const DraftTree& tree, const std::vector<int64_t>& tokens, const Tensor& logits,
                  int64_t nodes) {
    const int64_t vocab = s_.limits.vocab, step = static_cast<int64_t>(accepted.size());
    DROPIN_CHECK(logits.sizes() == Shape({tree.size(), vocab}), ShapeError, s_.limits.who,
                 ": the base's logits are ", logits.sizes(), ", expected [", tree.size(), ", ",
                 vocab, "]");
    std::vector<double> lp = logits.to(kFloat64, kCPU).to_vector();
    for (const double v : lp)
      DROPIN_CHECK(!std::isnan(v) && v != kernels::kInf<double>, StateError, s_.limits.who,
                   ": the base's logits hold ", std::isnan(v) ? "NaN" : "+inf", " at step ", step,
                   " in row ", text_.example, ", expected numbers");
    std::vector<Hypothesis> texts;  // of each node
    for (int64_t i = 0; i < tree.size(); ++i) {
      texts.push_back(i == 0 ? text_ : texts[at(tree.parent[at(i)])]);
      if (nodes > 0) texts.back().append(tokens[at(i)]);
      double* row = lp.data() + i * vocab;
      normalize_row(row, vocab);
      s_.limits.ban(texts.back(), row);
      if (s_.process) s_.process(texts.back().length(), texts.back().text, row);
    }
    const int64_t place = static_cast<int64_t>(text_.text.size()) + nodes;
    lp_ = lp;
    return verify_rows(tree, tokens, std::move(lp), vocab, s_.rules,
                       [&](int64_t k) { return s_.uniform(place + k); });
  }

  Setting s_;
  Hypothesis text_;
  Box<LanguageState> state_;
  std::vector<double> lp_;  // behind each node of the last tree
};

}  // namespace

Decoded speculate(const Limits& l, const DecodeArgs& args, const VerifyOptions& rules,
                  const ProcessLogits& process, LanguageModel& base, Guesser& guesser) {
  refuse_constraints(l, args);
  const auto prompts = read_prompts(l, args);
  const auto batch = static_cast<int64_t>(prompts.size());
  std::size_t longest = 0;
  for (const auto& p : prompts) longest = std::max(longest, p.size());
  Generator unused;
  DecodeArgs drawn = args;
  if (rules.acceptance != "sample") {
    drawn.uniforms = {};
    drawn.generator = &unused;
  }
  const Uniforms uniforms(l, drawn, batch, static_cast<int64_t>(longest) + l.max_new);
  std::vector<std::vector<Finished>> results;
  std::vector<std::vector<int64_t>> accepted;
  std::size_t steps = 0;
  for (int64_t b = 0; b < batch; ++b) {
    Speculation row({l, rules, process, base, guesser,
                     [&uniforms, b](int64_t place) { return uniforms(b, 0, place); }},
                    prompts[at(b)], b);
    results.push_back({row.run()});
    accepted.push_back(row.accepted);
    steps = std::max(steps, row.accepted.size());
  }
  Decoded d = decoded(l, results, false, args.prompt.device());
  std::vector<int64_t> flat;
  for (auto& a : accepted) {
    a.resize(steps, -1);
    flat.insert(flat.end(), a.begin(), a.end());
  }
  d.accept_lengths = tensor(flat, {batch, static_cast<int64_t>(steps)}).to(args.prompt.device());
  return d;
}

}  // namespace dropin::generation
