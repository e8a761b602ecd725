#include "dropin/generation/draft_tree.h"
#include "dropin/generation/language_model.h"
#include "generation/states.h"
#include "kernels/hd.h"

namespace dropin {

namespace {
// The last token of each row: an id, or where it is soft a distribution.
struct TableRows : LanguageState {
  std::vector<int64_t> last;
  std::vector<std::vector<double>> soft;  // empty where the token is an id
  std::vector<int64_t> nodes;             // tokens of the last tree
  int64_t rows() const override { return static_cast<int64_t>(last.size()); }
  Box<LanguageState> select(const std::vector<int64_t>& rows) const override {
    Box<TableRows> s(new TableRows);
    for (const int64_t r : rows) {
      DROPIN_CHECK(r >= 0 && r < this->rows(), IndexError, "TableLM: row ", r, " among ",
                   this->rows());
      s->last.push_back(last[at(r)]);
      s->soft.push_back(soft[at(r)]);
    }
    return s;
  }
};

TableRows& table_rows(LanguageState& state, const Tensor& tokens) {
  auto& s = generation::own_rows<TableRows>("TableLM", state);
  DROPIN_CHECK(tokens.size(0) == s.rows(), ShapeError, "TableLM: tokens are ", tokens.sizes(),
               ", expected one for each of ", s.rows(), " rows");
  return s;
}
}  // namespace

TableLM::TableLM(const TableLMOptions& o) : Component(o) {
  DROPIN_CHECK(o.vocab_size > 0 && o.embed_dim > 0, OptionError, who(), ": vocab_size ",
               o.vocab_size, " and embed_dim ", o.embed_dim, " must be positive");
  table_ = &parameter("table", init::normal({o.vocab_size, o.vocab_size, o.embed_dim}, 1));
  lm_head_ = child<Linear>(
      "lm_head", {.in_features = o.embed_dim, .out_features = o.vocab_size, .bias = false});
}

Box<LanguageState> TableLM::init_state(int64_t rows) {
  DROPIN_CHECK(rows >= 0, OptionError, who(), ": ", rows, " rows, expected 0 or more");
  Box<TableRows> s(new TableRows);
  s->last.assign(at(rows), 0);
  s->soft.resize(at(rows));
  return s;
}

// Products in float64, summed in one order: equal rows give equal logits.
Tensor TableLM::logits(const Tensor& hidden) const {
  const Tensor w = lm_head_->parameters()[0].to(kFloat64, kCPU).contiguous();
  const Tensor h = hidden.contiguous();
  const int64_t n = h.size(0), d = options_.embed_dim, v = options_.vocab_size;
  Tensor y = empty({n, v}, kFloat64);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < v; ++k) {
      const double *a = h.data<double>() + i * d, *b = w.data<double>() + k * d;
      double sum = 0;
      for (int64_t j = 0; j < d; ++j) sum += a[j] * b[j];
      y.data<double>()[i * v + k] = sum;
    }
  return y;
}

LanguageModel::Pass TableLM::pass(const std::vector<int64_t>& before,
                                  const std::vector<int64_t>& tokens) const {
  no_grad guard;
  std::vector<int64_t> rows;
  const int64_t v = options_.vocab_size;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    DROPIN_CHECK(tokens[i] >= 0 && tokens[i] < v, IndexError, who(), ": token ", tokens[i],
                 ", expected 0 to ", v - 1);
    rows.push_back(before[i] * v + tokens[i]);
  }
  const Tensor flat = table_->reshape({v * v, options_.embed_dim});
  const Tensor h = index_select(flat, 0, tensor(rows).to(table_->device())).to(kFloat64, kCPU);
  return {h, logits(h)};
}

Tensor TableLM::step(const Tensor& tokens, LanguageState& state) {
  TableRows& s = table_rows(state, tokens);
  const std::vector<int64_t> next = tokens.to_vector<int64_t>();
  bool soft = false;
  for (const auto& p : s.soft) soft = soft || !p.empty();
  if (soft) return step_soft(one_hot(tokens, options_.vocab_size).to(kFloat64), state);
  const Tensor y = pass(s.last, next).logits;
  s.last = next;
  return y;
}

Tensor TableLM::step_soft(const Tensor& probs, LanguageState& state) {
  no_grad guard;
  TableRows& s = table_rows(state, probs);
  const int64_t v = options_.vocab_size, d = options_.embed_dim, n = s.rows();
  DROPIN_CHECK(probs.sizes() == Shape({n, v}), ShapeError, who(), ": probs are ", probs.sizes(),
               ", expected [", n, ", ", v, "]");
  const Tensor table = table_->to(kFloat64, kCPU).contiguous();
  const Tensor p = probs.to(kFloat64, kCPU).contiguous();
  Tensor h = zeros({n, d}, kFloat64);
  for (int64_t i = 0; i < n; ++i) {
    const double* now = p.data<double>() + i * v;
    double* sum = h.data<double>() + i * d;
    std::vector<double>& before = s.soft[at(i)];
    if (before.empty()) {
      before.assign(at(v), 0);
      before[at(s.last[at(i)])] = 1;
    }
    for (int64_t a = 0; a < v; ++a)
      for (int64_t b = 0; b < v && before[at(a)] != 0; ++b) {
        const double share = before[at(a)] * now[b];
        const double* row = table.data<double>() + (a * v + b) * d;
        for (int64_t j = 0; j < d && share != 0; ++j) sum[j] += share * row[j];
      }
    before.assign(now, now + v);
  }
  return logits(h);
}

Tensor TableLM::prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                        LanguageState& state) {
  TableRows& s = table_rows(state, prompts);
  const std::vector<int64_t> ids = prompts.to_vector<int64_t>();
  const int64_t width = prompts.size(1);
  std::vector<int64_t> before, last;
  for (int64_t i = 0; i < s.rows(); ++i) {
    const int64_t n = lengths[at(i)];
    last.push_back(ids[at(i * width + n - 1)]);
    before.push_back(n > 1 ? ids[at(i * width + n - 2)] : 0);
  }
  const Tensor y = pass(before, last).logits;
  s.last = last;
  return y;
}

LanguageModel::Pass TableLM::read(const Tensor& prompt, LanguageState& state) {
  auto& s = generation::own_rows<TableRows>(who(), state);
  const std::vector<int64_t> ids = prompt.to_vector<int64_t>();
  std::vector<int64_t> before = {0};
  before.insert(before.end(), ids.begin(), ids.end() - 1);
  const Pass p = pass(before, ids);
  s.last = {ids.back()};
  return p;
}

LanguageModel::Pass TableLM::tree_step(const Tensor& tokens, const DraftTree& tree,
                                       LanguageState& state) {
  auto& s = generation::own_rows<TableRows>(who(), state);
  const std::vector<int64_t> ids = tokens.to_vector<int64_t>();
  std::vector<int64_t> before;
  for (std::size_t i = 0; i < ids.size(); ++i)
    before.push_back(tree.parent[i] < 0 ? s.last[0] : ids[at(tree.parent[i])]);
  const Pass p = pass(before, ids);
  s.nodes = ids;
  return p;
}
void TableLM::keep(const std::vector<int64_t>& path, LanguageState& state) {
  auto& s = generation::own_rows<TableRows>(who(), state);
  s.last = {s.nodes[at(path.back())]};
}

}  // namespace dropin
