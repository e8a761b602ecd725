#include "dropin/generation/neurologic.h"

#include "generation/lookahead.h"

namespace dropin {

using generation::Clauses;
using generation::Finished;
using generation::Hypothesis;
using generation::Limits;
using generation::NeuroRules;
using generation::NeuroSearch;
using generation::Rows;

namespace {

template <class O>
NeuroRules neuro_rules(const Limits& l, const O& o) {
  NeuroRules r{generation::beam_rules(l, o, 2 * o.num_beams), o.prune_factor, o.sat_tolerance,
               o.partial_weight, o.eos_top};
  DROPIN_CHECK(r.prune >= 1, OptionError, l.who, ": prune_factor is ", r.prune,
               ", expected at least 1");
  DROPIN_CHECK(r.tolerance >= 0 && r.eos_top >= 0, OptionError, l.who, ": sat_tolerance is ",
               r.tolerance, " and eos_top ", r.eos_top, ", expected 0 or more");
  return r;
}

void check_literals(const Limits& l, const Constraints& constraints, int64_t batch) {
  for (const Literal& c : constraints.literals()) {
    DROPIN_CHECK(c.example >= 0 && c.example < batch, OptionError, l.who,
                 ": literal_example holds ", c.example, ", expected 0 to ", batch - 1);
    DROPIN_CHECK(!c.tokens.empty(), OptionError, l.who,
                 ": a literal is empty, expected at least one token");
    for (const int64_t t : c.tokens) {
      DROPIN_CHECK(t >= 0 && t < l.vocab, IndexError, l.who, ": a literal holds token ", t,
                   ", expected 0 to ", l.vocab - 1);
      DROPIN_CHECK(!l.is_end(t), OptionError, l.who, ": a literal holds the end token ", t,
                   ", expected tokens that go on");
    }
  }
}

void check_lookahead(const Limits& l, const NeuroLogicAStarOptions& o, const LanguageModel& base) {
  DROPIN_CHECK(o.lookahead == "greedy" || o.lookahead == "soft" || o.lookahead == "sample" ||
                   o.lookahead == "beam",
               OptionError, l.who, ": lookahead is \"", o.lookahead,
               "\", expected greedy, soft, sample or beam");
  DROPIN_CHECK(o.fallback == "none" || o.fallback == "likelihood", OptionError, l.who,
               ": fallback is \"", o.fallback, "\", expected none or likelihood");
  DROPIN_CHECK(o.lookahead_steps >= 0 && o.alpha >= 0, OptionError, l.who, ": lookahead_steps is ",
               o.lookahead_steps, " and alpha ", o.alpha, ", expected 0 or more");
  DROPIN_CHECK(o.lookahead_width >= 1 && o.lookahead_top_k >= 1 && o.lookahead_chunk >= 1,
               OptionError, l.who, ": lookahead_width is ", o.lookahead_width, ", lookahead_top_k ",
               o.lookahead_top_k, " and lookahead_chunk ", o.lookahead_chunk,
               ", expected at least 1");
  DROPIN_CHECK(o.soft_temperature > 0, OptionError, l.who, ": soft_temperature is ",
               o.soft_temperature, ", expected a positive number");
  DROPIN_CHECK(o.lookahead != "soft" || base.has_soft_step(), OptionError, l.who,
               ": lookahead is soft, but the base takes no distributions, expected a model with "
               "step_soft()");
}

// ahead(rows, searches, t): between a step's candidates and their choice.
template <class Ahead>
Decoded search(const Limits& l, const NeuroRules& rules, LanguageModel& base,
               const DecodeArgs& args, Ahead&& ahead) {
  no_grad guard;
  const auto prompts = generation::read_prompts(l, args);
  const auto batch = static_cast<int64_t>(prompts.size());
  check_literals(l, args.constraints, batch);
  std::vector<Clauses> clauses;
  for (int64_t b = 0; b < batch; ++b) clauses.emplace_back(args.constraints, b);
  std::vector<NeuroSearch> all;
  for (int64_t b = 0; b < batch; ++b) {
    Hypothesis start = generation::start_of(prompts[at(b)], b);
    start.clauses = &clauses[at(b)];
    start.occurred = clauses[at(b)].none();
    all.emplace_back(l, rules, start);
  }
  int64_t t = 0;
  generation::run_searches(l, Rows(l.who, base, prompts), all,
                           [&](const Rows& rows) { ahead(rows, all, ++t); });
  std::vector<std::vector<Finished>> results;
  for (const NeuroSearch& s : all) results.push_back(s.results());
  return generation::decoded(l, results, true, args.prompt.device());
}

template <class O>
Limits neuro_limits(std::string_view who, const O& o, const LanguageModel& base) {
  const Limits l = generation::limits_of(who, o, base);
  neuro_rules(l, o);
  if constexpr (requires { o.lookahead; }) check_lookahead(l, o, base);
  return l;
}

}  // namespace

std::vector<std::string> NeuroLogicDecoder::examples() {
  return {R"({"eos_id": 1, "num_beams": 3, "num_return": 4, "length_penalty": 0.2})"};
}
NeuroLogicDecoder::NeuroLogicDecoder(const NeuroLogicOptions& o) : DecoderOf(o) {
  neuro_limits(who(), o, base());
}
NeuroLogicDecoder::NeuroLogicDecoder(Box<LanguageModel> model, const NeuroLogicOptions& o)
    : DecoderOf(std::move(model), o) {
  neuro_limits(who(), o, base());
}
Decoded NeuroLogicDecoder::generate(const DecodeArgs& args) {
  const Limits l = neuro_limits(who(), options_, base());
  return search(l, neuro_rules(l, options_), base(), args,
                [](const Rows&, std::vector<NeuroSearch>&, int64_t) {});
}

std::vector<std::string> NeuroLogicAStarDecoder::examples() {
  return {R"({"eos_id": 1, "lookahead": "soft", "fallback": "likelihood"})",
          R"({"lookahead": "beam", "lookahead_width": 2, "num_return": 2})"};
}
NeuroLogicAStarDecoder::NeuroLogicAStarDecoder(const NeuroLogicAStarOptions& o) : DecoderOf(o) {
  neuro_limits(who(), o, base());
}
NeuroLogicAStarDecoder::NeuroLogicAStarDecoder(Box<LanguageModel> model,
                                               const NeuroLogicAStarOptions& o)
    : DecoderOf(std::move(model), o) {
  neuro_limits(who(), o, base());
}
Decoded NeuroLogicAStarDecoder::generate(const DecodeArgs& args) {
  const Limits l = neuro_limits(who(), options_, base());
  const bool random = options_.lookahead == "sample";
  Generator unused;
  const generation::Uniforms uniforms(random ? args.generator : &unused);
  return search(l, neuro_rules(l, options_), base(), args,
                [&](const Rows& rows, std::vector<NeuroSearch>& all, int64_t t) {
                  generation::look_ahead(options_, l, rows, all, uniforms, t);
                });
}

}  // namespace dropin
