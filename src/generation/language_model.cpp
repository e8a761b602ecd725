#include "dropin/generation/language_model.h"

#include "dropin/generation/draft_tree.h"
#include "dropin/generation/llama.h"
#include "generation/states.h"

namespace dropin {

Tensor LanguageModel::step_soft(const Tensor&, LanguageState&) {
  fail<OptionError>({type(), ": takes no distributions, expected a model with step_soft()"});
}

Tensor LanguageModel::prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                              LanguageState& state) {
  for (const int64_t n : lengths)
    DROPIN_CHECK(n == lengths[0], StateError, type(), ": prompts are of ", lengths[0], " and ", n,
                 " tokens, expected one length or a model with prefill() of its own");
  Tensor logits;
  for (int64_t t = 0; t < (lengths.empty() ? 0 : lengths[0]); ++t)
    logits = step(prompts.select(1, t).contiguous(), state);
  return logits;
}

Box<LanguageState> LanguageModel::init_drafts(int64_t) { return init_state(1); }
LanguageModel::Pass LanguageModel::read(const Tensor&, LanguageState&) {
  fail<OptionError>({type(), ": has no tree masks, expected a base that takes trees of drafts"});
}
LanguageModel::Pass LanguageModel::tree_step(const Tensor& tokens, const DraftTree&,
                                             LanguageState& state) {
  return read(tokens, state);
}
void LanguageModel::keep(const std::vector<int64_t>&, LanguageState& state) { read({}, state); }

Box<LanguageModel> language_model_of(std::string_view who, const Json& spec) {
  const auto [type, options] = generation::typed(who, "base", spec);
  if (type == "TableLM")
    return Box<LanguageModel>(new TableLM(options_from_json<TableLMOptions>(options, type)));
  if (type == "LlamaLM")
    return Box<LanguageModel>(new LlamaLM(options_from_json<LlamaOptions>(options, type)));
  DROPIN_CHECK(type == "Transformer", OptionError, who, ": base is of type \"", type,
               "\", expected TableLM, LlamaLM or Transformer; other models are given as modules");
  return Box<LanguageModel>(
      new TransformerLM(options_from_json<TransformerOptions>(options, type)));
}

std::pair<std::string, Json> generation::typed(std::string_view who, const char* option,
                                               const Json& spec) {
  const Json* type = spec.is_object() ? spec.find("type") : nullptr;
  DROPIN_CHECK(type && type->is_string(), OptionError, who, ": option ", option, " is ",
               spec.dump(), ", expected an object with a type");
  Json options = Json::object();
  for (const auto& [k, v] : spec.items())
    if (k != "type") options.set(k, v);
  return {type->as_string(), options};
}

// --- Transformer

namespace {
struct TransformerRows : LanguageState {
  explicit TransformerRows(TransformerState s) : state(std::move(s)) {}
  int64_t rows() const override { return state.batch(); }
  Box<LanguageState> select(const std::vector<int64_t>& rows) const override {
    return Box<LanguageState>(new TransformerRows(state.select(rows)));
  }
  TransformerState state;
  int64_t drafted = 0;  // tokens of the last tree_step() that keep() has not judged
};

Box<Transformer> as_transformer(Box<Module> m) {
  return Box<Transformer>(dynamic_cast<Transformer*>(m.release()));
}
}  // namespace

TransformerLM::TransformerLM(const TransformerOptions& o) : Component(o) {
  model_ = child<Transformer>("model", o);
}
TransformerLM::TransformerLM(Box<Transformer> model)
    : Component(model ? model->options() : TransformerOptions{}) {
  DROPIN_CHECK(model, OptionError, who(), ": model is null, expected a Transformer");
  model_ = Child<Transformer>(add_child("model", Box<Module>(model.release())));
}
Box<Module> TransformerLM::make_like() const {
  return Box<Module>(new TransformerLM(as_transformer(model().make_like())));
}

Box<LanguageState> TransformerLM::init_state(int64_t rows) {
  return Box<LanguageState>(new TransformerRows(model().init_state(rows)));
}
Tensor TransformerLM::step(const Tensor& tokens, LanguageState& state) {
  return model()
      .step(tokens.unsqueeze(1), generation::own_rows<TransformerRows>(who(), state).state)
      .select(1, 0);
}
Tensor TransformerLM::step_soft(const Tensor& probs, LanguageState& state) {
  auto& rows = generation::own_rows<TransformerRows>(who(), state);
  return model().step_soft(probs.unsqueeze(1), rows.state).select(1, 0);
}

Tensor TransformerLM::prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                              LanguageState& state) {
  const int64_t n = prompts.size(0), width = prompts.size(1);
  auto& rows = generation::own_rows<TransformerRows>(who(), state);
  StepArgs args;
  Tensor ids = prompts;
  bool padded = false;
  for (const int64_t length : lengths) padded = padded || length != width;
  if (padded) {
    ids = zeros({n, width}, kInt64);
    Tensor mask = zeros({n, width}, kBool);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t length = lengths[static_cast<std::size_t>(i)], gap = width - length;
      ids[i].narrow(0, gap, length).copy_(prompts[i].narrow(0, 0, length));
      mask[i].narrow(0, 0, gap).fill_(true);
    }
    ids = ids.to(prompts.device());
    args.key_padding_mask = mask.to(prompts.device());
  }
  return model().step(ids, rows.state, args).select(1, -1);
}

// --- its runs of drafts

Box<LanguageState> TransformerLM::init_drafts(int64_t nodes) {
  return Box<LanguageState>(new TransformerRows(model().init_state(1, {.keep = nodes})));
}
LanguageModel::Pass TransformerLM::read(const Tensor& prompt, LanguageState& state) {
  auto& rows = generation::own_rows<TransformerRows>(who(), state);
  return {{}, model().step(prompt.unsqueeze(0), rows.state).select(0, 0)};
}
LanguageModel::Pass TransformerLM::tree_step(const Tensor& tokens, const DraftTree& tree,
                                             LanguageState& state) {
  for (int64_t i = 0; i < tree.size(); ++i)
    DROPIN_CHECK(tree.parent[static_cast<std::size_t>(i)] == i - 1, OptionError, who(),
                 ": has no tree masks, expected a tree of one branch");
  const Pass pass = read(tokens, state);
  generation::own_rows<TransformerRows>(who(), state).drafted = tree.size();
  return pass;
}
void TransformerLM::keep(const std::vector<int64_t>& path, LanguageState& state) {
  auto& rows = generation::own_rows<TransformerRows>(who(), state);
  const auto kept = static_cast<int64_t>(path.size());
  DROPIN_CHECK(kept <= rows.drafted, StateError, who(), ": ", kept,
               " drafts stay, expected at most the ", rows.drafted, " that were read");
  rows.state.rollback(rows.drafted - kept);
  rows.drafted = 0;
}

}  // namespace dropin
