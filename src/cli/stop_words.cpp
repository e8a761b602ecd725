#include "cli/stop_words.h"

#include "dropin/generation/draft_tree.h"
#include "kernels/hd.h"

namespace dropin::cli {

namespace {

struct StopRows : LanguageState {
  Box<LanguageState> inner;
  std::vector<std::string> texts;  // what was generated in each row
  std::vector<std::string> nodes;  // texts up to each node of the last tree
  int64_t rows() const override { return inner->rows(); }
  Box<LanguageState> select(const std::vector<int64_t>& rows) const override {
    Box<StopRows> s(new StopRows);
    s->inner = inner->select(rows);
    for (const int64_t r : rows) s->texts.push_back(texts[at(r)]);
    return s;
  }
};

Box<StopRows> stop_rows(Box<LanguageState> inner) {
  Box<StopRows> s(new StopRows);
  s->texts.resize(at(inner->rows()));
  s->inner = std::move(inner);
  return s;
}
StopRows& stop_rows_of(LanguageState& s) { return dynamic_cast<StopRows&>(s); }

void append_bytes(std::vector<std::string>& texts, const Tensor& tokens) {
  const std::vector<int64_t> ids = tokens.to_vector<int64_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) texts[i] += static_cast<char>(ids[i]);
}

}  // namespace

StopWordsLM::StopWordsLM(Box<LanguageModel> model, std::vector<std::string> words)
    : words_(std::move(words)) {
  DROPIN_CHECK(model && model->vocab_size() == kBytes, OptionError,
               "StopWordsLM: expected a model of 256 ids");
  for (const std::string& w : words_)
    DROPIN_CHECK(!w.empty(), OptionError, "StopWordsLM: a stop word is empty");
  model_ = Child<LanguageModel>(add_child("model", Box<Module>(model.release())));
}

Json StopWordsLM::options_json() const {
  Json list = Json::array(), r = Json::object();
  for (const std::string& w : words_) list.push_back(w);
  r.set("words", list);
  return r;
}
Box<Module> StopWordsLM::make_like() const {
  Box<Module> m = model().make_like();
  return Box<Module>(
      new StopWordsLM(Box<LanguageModel>(dynamic_cast<LanguageModel*>(m.release())), words_));
}

std::string_view StopWordsLM::ended_by(std::string_view text) const {
  for (const std::string& w : words_)
    if (text.ends_with(w)) return w;
  return {};
}

// Logits [N, 256] -> [N, 257].
Tensor StopWordsLM::widened(const Tensor& logits, const std::vector<std::string>& texts) const {
  constexpr double kNever = -kernels::kInf<double>;
  const int64_t n = logits.size(0);
  Tensor r = concat({logits.to(kFloat64, kCPU), full({n, 1}, kNever, kFloat64)}, 1).contiguous();
  double* z = r.data<double>();
  for (int64_t i = 0; i < n; ++i, z += vocab_size()) {
    if (ended_by(texts[at(i)]).empty()) continue;
    std::fill(z, z + kBytes, kNever);
    z[kStop] = 0;
  }
  return r;
}

Box<LanguageState> StopWordsLM::init_state(int64_t rows) {
  return stop_rows(model().init_state(rows));
}
Tensor StopWordsLM::step(const Tensor& tokens, LanguageState& state) {
  StopRows& s = stop_rows_of(state);
  const Tensor logits = model().step(tokens, *s.inner);
  append_bytes(s.texts, tokens);
  return widened(logits, s.texts);
}
Tensor StopWordsLM::step_soft(const Tensor& probs, LanguageState& state) {
  StopRows& s = stop_rows_of(state);
  const Tensor bytes = probs.narrow(1, 0, kBytes);
  const Tensor logits = model().step_soft(bytes, *s.inner);
  append_bytes(s.texts, argmax(bytes, -1));
  return widened(logits, s.texts);
}
Tensor StopWordsLM::prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                            LanguageState& state) {
  StopRows& s = stop_rows_of(state);
  return widened(model().prefill(prompts, lengths, *s.inner), s.texts);
}

// --- runs of drafts

Box<LanguageState> StopWordsLM::init_drafts(int64_t nodes) {
  return stop_rows(model().init_drafts(nodes));
}
LanguageModel::Pass StopWordsLM::read(const Tensor& prompt, LanguageState& state) {
  const Tensor logits = model().read(prompt, *stop_rows_of(state).inner).logits;
  return {{}, widened(logits, std::vector<std::string>(at(logits.size(0))))};
}
LanguageModel::Pass StopWordsLM::tree_step(const Tensor& tokens, const DraftTree& tree,
                                           LanguageState& state) {
  StopRows& s = stop_rows_of(state);
  const Tensor logits = model().tree_step(tokens, tree, *s.inner).logits;
  const std::vector<int64_t> ids = tokens.to_vector<int64_t>();
  s.nodes.clear();
  for (int64_t i = 0; i < tree.size(); ++i) {
    const int64_t up = tree.parent[at(i)];
    s.nodes.push_back((up < 0 ? s.texts[0] : s.nodes[at(up)]) + static_cast<char>(ids[at(i)]));
  }
  return {{}, widened(logits, s.nodes)};
}
void StopWordsLM::keep(const std::vector<int64_t>& path, LanguageState& state) {
  StopRows& s = stop_rows_of(state);
  model().keep(path, *s.inner);
  if (!path.empty()) s.texts[0] = s.nodes[at(path.back())];
}

}  // namespace dropin::cli
