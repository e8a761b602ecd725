// Drafters: they guess the tokens behind a text, and an AssistedDecoder's base judges the guess.
#pragma once
#include "dropin/generation/language_model.h"

namespace dropin {

/// What a drafter keeps of one text.
class DrafterState {
 public:
  virtual ~DrafterState() = default;
};

/// Guesses one run of tokens. Derive, and give it to an AssistedDecoder. What it keeps of a text
/// is in the state, not in the drafter: several threads may draft with one.
class Drafter : public Module {
 public:
  using Family = Drafter;
  /// Of a new text; null where nothing is kept.
  virtual Box<DrafterState> init_state() { return {}; }
  /// At most n tokens that may follow the text, which has at least one token. `state` is of
  /// init_state() and the texts before, each of which mostly begins this one.
  virtual std::vector<int64_t> draft(const std::vector<int64_t>& text, int64_t n,
                                     DrafterState* state) = 0;
  /// The same of a text alone.
  std::vector<int64_t> draft(const std::vector<int64_t>& text, int64_t n);
};

/// The drafter that {"type": "PromptLookupDrafter", ...} or a model's {"type": "Transformer", ...}
/// names; null: PromptLookupDrafter. OptionError naming `who` for anything else.
Box<Drafter> drafter_of(std::string_view who, const Json& spec);

struct PromptLookupOptions {
  int64_t max_ngram = 3, min_ngram = 1;
  static void fields(auto&& f) {
    using O = PromptLookupOptions;
    f("max_ngram", &O::max_ngram, "longest run at the text's end that is looked for");
    f("min_ngram", &O::min_ngram, "shortest one");
  }
};
/// What followed the last earlier occurrence of the text's end, the longest end that occurs first;
/// where that reaches the end of the text it goes on with itself (Saxena 2023, prompt lookup
/// decoding; Yang et al. 2023, arXiv 2304.04487). OptionError unless 1 <= min_ngram <= max_ngram.
class PromptLookupDrafter : public Component<PromptLookupDrafter, PromptLookupOptions, Drafter> {
 public:
  explicit PromptLookupDrafter(const PromptLookupOptions& o);
  using Drafter::draft;
  std::vector<int64_t> draft(const std::vector<int64_t>& text, int64_t n,
                             DrafterState* state) override;
};

struct ModelDrafterOptions {
  Json model;
  static void fields(auto&& f) {
    f("model", &ModelDrafterOptions::model, "{\"type\": \"TableLM\", ...}; else given as a module");
  }
};
/// A smaller model's greedy continuation (Leviathan et al. 2023, arXiv 2211.17192). Child "model".
/// It reads each token of a text once; drafts are tried on a copy of its state. StateError where
/// the state is not of a ModelDrafter.
class ModelDrafter : public Component<ModelDrafter, ModelDrafterOptions, Drafter> {
 public:
  explicit ModelDrafter(const ModelDrafterOptions& o);
  /// Of the caller's model.
  explicit ModelDrafter(Box<LanguageModel> model);
  Box<Module> make_like() const override;
  Box<DrafterState> init_state() override;
  using Drafter::draft;
  std::vector<int64_t> draft(const std::vector<int64_t>& text, int64_t n,
                             DrafterState* state) override;
  LanguageModel& model() const { return *model_; }

 private:
  ModelDrafter(Box<LanguageModel> model, const ModelDrafterOptions& o);
  Child<LanguageModel> model_;
};

}  // namespace dropin
