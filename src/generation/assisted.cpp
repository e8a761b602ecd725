#include "dropin/generation/assisted.h"

#include "generation/speculation.h"

namespace dropin {

using generation::Limits;

namespace {

Limits assisted_limits(const AssistedOptions& o, const LanguageModel& base) {
  const Limits l = generation::limits_of("AssistedDecoder", o, base);
  DROPIN_CHECK(o.num_return == 1, OptionError, l.who, ": num_return is ", o.num_return,
               ", expected 1: there is one result");
  DROPIN_CHECK(o.num_assistant_tokens >= 1, OptionError, l.who, ": num_assistant_tokens is ",
               o.num_assistant_tokens, ", expected at least 1");
  DROPIN_CHECK(o.temperature >= 0, OptionError, l.who, ": temperature is ", o.temperature,
               ", expected 0 or more");
  return l;
}

// The runs of a drafter.
class RunGuesser : public generation::Guesser {
 public:
  RunGuesser(Drafter& drafter, int64_t most, int64_t vocab)
      : drafter_(drafter), most_(most), vocab_(vocab) {}
  int64_t nodes() const override { return most_ + 1; }
  void start(const LanguageModel::Pass&) override { state_ = drafter_.init_state(); }
  Guess propose(const std::vector<int64_t>& text, int64_t depth) override {
    const int64_t n = std::min(depth, most_);
    std::vector<int64_t> run =
        n > 0 ? drafter_.draft(text, n, state_.get()) : std::vector<int64_t>();
    if (static_cast<int64_t>(run.size()) > n) run.resize(at(n));
    for (const int64_t t : run)
      DROPIN_CHECK(t >= 0 && t < vocab_, IndexError, "AssistedDecoder: ", drafter_.type(),
                   " drafts token ", t, ", expected 0 to ", vocab_ - 1);
    Guess g{draft_run(static_cast<int64_t>(run.size())), {text.back()}};
    g.tokens.insert(g.tokens.end(), run.begin(), run.end());
    return g;
  }
  void advance(const LanguageModel::Pass&, const std::vector<int64_t>&) override {}

 private:
  Drafter& drafter_;
  Box<DrafterState> state_;
  int64_t most_, vocab_;
};

}  // namespace

std::vector<std::string> AssistedDecoder::examples() {
  return {R"({"num_assistant_tokens": 3, "drafter": {"type": "TableLM", "vocab_size": 12,
              "embed_dim": 3}})",
          R"({"temperature": 0.8, "eos_id": 1, "drafter": {"type": "PromptLookupDrafter",
              "max_ngram": 2}})"};
}

AssistedDecoder::AssistedDecoder(const AssistedOptions& o) : Component(o) {
  build(language_model_of(who(), o.base), drafter_of(who(), o.drafter));
}
AssistedDecoder::AssistedDecoder(Box<LanguageModel> model, Box<Drafter> drafter,
                                 const AssistedOptions& o)
    : Component(o) {
  build(std::move(model), std::move(drafter));
}

void AssistedDecoder::build(Box<LanguageModel> model, Box<Drafter> drafts) {
  DROPIN_CHECK(drafts, OptionError, who(), ": drafter is null, expected a drafter");
  set_base(std::move(model));
  drafter_ = Child<Drafter>(add_child("drafter", Box<Module>(drafts.release())));
  assisted_limits(options_, base());
  DROPIN_CHECK(base().has_runs(), OptionError, who(), ": the base ", base().type(),
               " takes no tokens back, expected one with runs of drafts");
  if (const auto* m = dynamic_cast<const ModelDrafter*>(&drafter()))
    DROPIN_CHECK(m->model().vocab_size() == base().vocab_size(), OptionError, who(),
                 ": the drafter's model has ", m->model().vocab_size(),
                 " token ids, expected the base's ", base().vocab_size());
}

Box<Module> AssistedDecoder::make_like() const {
  Box<Module> d = drafter().make_like();
  return Box<Module>(new AssistedDecoder(
      base_like(), Box<Drafter>(dynamic_cast<Drafter*>(d.release())), options_));
}

Decoded AssistedDecoder::generate(const DecodeArgs& args) {
  no_grad guard;
  const Limits l = assisted_limits(options_, base());
  const VerifyOptions rules{.acceptance = options_.temperature > 0 ? "sample" : "greedy",
                            .temperature = options_.temperature};
  RunGuesser guesser(drafter(), options_.num_assistant_tokens, l.vocab);
  return generation::speculate(l, args, rules, nullptr, base(), guesser);
}

}  // namespace dropin
