#include "dropin/generation/drafter.h"

#include "dropin/generation/draft_tree.h"
#include "generation/decoding.h"
#include "generation/states.h"

namespace dropin {

Box<Drafter> drafter_of(std::string_view who, const Json& spec) {
  if (spec.is_null()) return Box<Drafter>(new PromptLookupDrafter(PromptLookupOptions{}));
  const auto [type, options] = generation::typed(who, "drafter", spec);
  if (type == "PromptLookupDrafter")
    return Box<Drafter>(
        new PromptLookupDrafter(options_from_json<PromptLookupOptions>(options, type)));
  return Box<Drafter>(new ModelDrafter(language_model_of(who, spec)));
}

std::vector<int64_t> Drafter::draft(const std::vector<int64_t>& text, int64_t n) {
  const Box<DrafterState> state = init_state();
  return draft(text, n, state.get());
}

// --- prompt look-up

PromptLookupDrafter::PromptLookupDrafter(const PromptLookupOptions& o) : Component(o) {
  DROPIN_CHECK(o.min_ngram >= 1 && o.min_ngram <= o.max_ngram, OptionError, who(),
               ": min_ngram is ", o.min_ngram, " and max_ngram ", o.max_ngram,
               ", expected 1 <= min_ngram <= max_ngram");
}

std::vector<int64_t> PromptLookupDrafter::draft(const std::vector<int64_t>& text, int64_t n,
                                                DrafterState*) {
  const auto size = static_cast<int64_t>(text.size());
  int64_t longest = 0, behind = 0;  // the match, and what comes behind it
  for (int64_t end = size - 1; end >= 1 && longest < options_.max_ngram; --end) {
    int64_t k = 0;
    while (k < options_.max_ngram && k < end && text[at(end - 1 - k)] == text[at(size - 1 - k)])
      ++k;
    if (k <= longest) continue;
    longest = k;
    behind = end;
  }
  std::vector<int64_t> r;
  if (longest < options_.min_ngram) return r;
  for (int64_t i = 0; i < n; ++i)
    r.push_back(behind + i < size ? text[at(behind + i)] : r[at(behind + i - size)]);
  return r;
}

// --- a smaller model

ModelDrafter::ModelDrafter(const ModelDrafterOptions& o)
    : ModelDrafter(language_model_of("ModelDrafter", o.model), o) {}
ModelDrafter::ModelDrafter(Box<LanguageModel> model)
    : ModelDrafter(std::move(model), ModelDrafterOptions{}) {}
ModelDrafter::ModelDrafter(Box<LanguageModel> m, const ModelDrafterOptions& o) : Component(o) {
  DROPIN_CHECK(m, OptionError, who(), ": model is null, expected a model");
  model_ = Child<LanguageModel>(add_child("model", Box<Module>(m.release())));
}
Box<Module> ModelDrafter::make_like() const {
  Box<Module> m = model().make_like();
  return Box<Module>(
      new ModelDrafter(Box<LanguageModel>(dynamic_cast<LanguageModel*>(m.release())), options_));
}

namespace {

struct ReadSoFar : DrafterState {
  std::vector<int64_t> text;
  Box<LanguageState> rows;  // one row, which holds the text; null before the first
};

// Reads what is new of a text -> logits [1, V] behind it.
Tensor read_on(LanguageModel& model, const std::vector<int64_t>& text, ReadSoFar& so_far) {
  const Device device = model.parameters()[0].device();
  const bool goes_on = so_far.rows && so_far.text.size() < text.size() &&
                       std::equal(so_far.text.begin(), so_far.text.end(), text.begin());
  if (!goes_on) so_far = {};
  const std::vector<int64_t> fresh(text.begin() + static_cast<std::ptrdiff_t>(so_far.text.size()),
                                   text.end());
  const auto n = static_cast<int64_t>(fresh.size());
  Tensor logits;
  if (!so_far.rows) {
    so_far.rows = model.init_state(1);
    logits = model.prefill(tensor(fresh, {1, n}).to(device), {n}, *so_far.rows);
  } else if (model.has_runs()) {
    const DraftTree run = draft_run(n - 1);
    std::vector<int64_t> all;
    for (int64_t i = 0; i < n; ++i) all.push_back(i);
    const auto pass = model.tree_step(tensor(fresh).to(device), run, *so_far.rows);
    logits = pass.logits.narrow(0, n - 1, 1);
    model.keep(all, *so_far.rows);
  } else {
    for (const int64_t t : fresh)
      logits = model.step(tensor(std::vector<int64_t>{t}).to(device), *so_far.rows);
  }
  so_far.text = text;
  return logits;
}

}  // namespace

Box<DrafterState> ModelDrafter::init_state() { return Box<ReadSoFar>(new ReadSoFar); }

std::vector<int64_t> ModelDrafter::draft(const std::vector<int64_t>& text, int64_t n,
                                         DrafterState* state) {
  auto* so_far = dynamic_cast<ReadSoFar*>(state);
  DROPIN_CHECK(so_far, StateError, who(), ": was given ", state ? "another drafter's" : "no",
               " state, expected one of init_state()");
  no_grad guard;
  const auto size = static_cast<int64_t>(text.size());
  n = std::min(n, model().max_len() - size + 1);
  std::vector<int64_t> r;
  if (n < 1) return r;
  Tensor logits = read_on(model(), text, *so_far);
  Box<LanguageState> ahead = n > 1 ? so_far->rows->select({0}) : Box<LanguageState>();
  while (true) {
    const std::vector<double> z = logits.to(kFloat64, kCPU).to_vector();
    const int64_t token = generation::best_index(z.data(), static_cast<int64_t>(z.size()));
    if (token < 0) return r;
    r.push_back(token);
    if (static_cast<int64_t>(r.size()) == n) return r;
    logits = model().step(tensor(std::vector<int64_t>{token}).to(logits.device()), *ahead);
  }
}

}  // namespace dropin
