#include "generation/decoding.h"

#include <cmath>
#include <numeric>

#include "dropin/core/parallel.h"

namespace dropin::generation {

void Hypothesis::append(int64_t token) {
  text.push_back(token);
  if (clauses) clauses->append(output(), occurred);
}

Hypothesis start_of(const std::vector<int64_t>& prompt, int64_t example) {
  Hypothesis h;
  h.text = prompt;
  h.prompt = static_cast<int64_t>(prompt.size());
  h.row = h.example = example;
  return h;
}

// --- bans

void Limits::ban(const Hypothesis& h, double* lp) const {
  if (h.length() < min_new)
    for (const int64_t e : ends) lp[e] = kBanned;
  const TokenSpan text = h.text;
  const auto n = at(ngram);
  for (std::size_t i = 0; n > 0 && i + n <= text.size(); ++i)
    if (ends_with(text, text.subspan(i, n), n - 1)) lp[text[i + n - 1]] = kBanned;
  if (h.clauses) h.clauses->ban(h.output(), h.occurred, lp);
}

std::vector<double> Limits::masked(const Hypothesis& h, const double* lp) const {
  std::vector<double> r(lp, lp + vocab);
  ban(h, r.data());
  return r;
}

void check_limits(const Limits& l, int64_t min_new, int64_t end) {
  DROPIN_CHECK(l.max_new >= 1, OptionError, l.who, ": max_new_tokens is ", l.max_new,
               ", expected at least 1");
  DROPIN_CHECK(min_new >= 0 && l.ngram >= 0, OptionError, l.who, ": min_new_tokens is ", min_new,
               " and no_repeat_ngram ", l.ngram, ", expected 0 or more");
  DROPIN_CHECK(l.returns >= 1, OptionError, l.who, ": num_return is ", l.returns,
               ", expected at least 1");
  DROPIN_CHECK(end >= 0 && end < l.vocab, OptionError, l.who, ": the end token ", end,
               " is none of the base's, expected 0 to ", l.vocab - 1);
}

// --- prompts

namespace {
std::vector<int64_t> prompt_lengths(const Limits& l, const DecodeArgs& args) {
  const int64_t batch = args.prompt.size(0), width = args.prompt.size(1);
  if (!args.prompt_lengths.defined()) return std::vector<int64_t>(at(batch), width);
  const Tensor& t = args.prompt_lengths;
  DROPIN_CHECK(t.dtype() == kInt64 && t.sizes() == Shape{batch}, ShapeError, l.who,
               ": prompt_lengths is ", t.dtype(), " ", t.sizes(), ", expected int64 [", batch, "]");
  return t.to_vector<int64_t>();
}
}  // namespace

Prompts read_prompts(const Limits& l, const DecodeArgs& args) {
  const Tensor& t = args.prompt;
  DROPIN_CHECK(t.defined() && t.dtype() == kInt64 && t.dim() == 2, ShapeError, l.who,
               ": prompt is ", t.defined() ? name(t.dtype()) : "undefined", " ",
               t.defined() ? t.sizes() : Shape{}, ", expected int64 [B, P]");
  const int64_t batch = t.size(0), width = t.size(1);
  const std::vector<int64_t> ids = t.to_vector<int64_t>(), lengths = prompt_lengths(l, args);
  Prompts r;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t n = lengths[at(b)];
    DROPIN_CHECK(n >= 1 && n <= width, OptionError, l.who, ": prompt ", b, " has ", n,
                 " tokens, expected 1 to ", width);
    DROPIN_CHECK(n <= l.max_len && l.max_new <= l.max_len - n, OptionError, l.who, ": prompt ", b,
                 " has ", n, " tokens and max_new_tokens is ", l.max_new, ", expected at most ",
                 l.max_len, " together");
    const int64_t* row = ids.data() + b * width;
    for (int64_t i = 0; i < n; ++i)
      DROPIN_CHECK(row[i] >= 0 && row[i] < l.vocab, IndexError, l.who, ": prompt ", b,
                   " holds token ", row[i], ", expected 0 to ", l.vocab - 1);
    r.emplace_back(row, row + n);
  }
  return r;
}

void refuse_constraints(const Limits& l, const DecodeArgs& args) {
  DROPIN_CHECK(args.constraints.empty(), OptionError, l.who,
               ": takes no constraints, expected none; NeuroLogicDecoder does");
}

// --- the model's rows

Rows::Rows(std::string_view who, LanguageModel& model, const Prompts& prompts) : Rows(who, model) {
  std::vector<int64_t> lengths;
  std::size_t width = 0;
  for (const auto& p : prompts) {
    lengths.push_back(static_cast<int64_t>(p.size()));
    width = std::max(width, p.size());
  }
  const auto n = static_cast<int64_t>(prompts.size());
  std::vector<int64_t> ids;
  for (const auto& p : prompts) {
    ids.insert(ids.end(), p.begin(), p.end());
    ids.resize(ids.size() + width - p.size(), 0);
  }
  example_.resize(prompts.size());
  std::iota(example_.begin(), example_.end(), 0);
  state_ = model.init_state(n);
  if (n == 0) return;
  const Device device = model.parameters()[0].device();
  read(model.prefill(tensor(ids, {n, static_cast<int64_t>(width)}).to(device), lengths, *state_));
}

Rows Rows::select(const std::vector<int64_t>& rows) const {
  Rows r(who_, *model_);
  r.state_ = state_->select(rows);
  for (const int64_t i : rows) r.example_.push_back(example_[at(i)]);
  r.vocab_ = vocab_;
  r.steps_ = steps_;
  return r;
}
void Rows::step(const std::vector<int64_t>& tokens) {
  read(model_->step(tensor(tokens).to(model_->parameters()[0].device()), *state_));
}
void Rows::step_soft(const Tensor& probs) { read(model_->step_soft(probs, *state_)); }
Rows Rows::next(const std::vector<int64_t>& rows, const std::vector<int64_t>& tokens) const {
  Rows r = select(rows);
  r.step(tokens);
  return r;
}

void Rows::advance(const std::vector<int64_t>& rows, const std::vector<int64_t>& tokens) {
  bool same = static_cast<int64_t>(rows.size()) == count();
  for (std::size_t i = 0; i < rows.size(); ++i) same = same && rows[i] == static_cast<int64_t>(i);
  if (!same) *this = select(rows);
  step(tokens);
}

void normalize_row(double* z, int64_t n) {
  const double top = *std::max_element(z, z + n);
  if (top == kBanned) return;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(z[i] - top);
  const double log_sum = std::log(sum);
  for (int64_t i = 0; i < n; ++i) z[i] = z[i] - top - log_sum;
}

void Rows::read(const Tensor& logits) {
  DROPIN_CHECK(logits.dim() == 2 && logits.size(0) == count(), ShapeError, who_,
               ": the base's logits are ", logits.sizes(), ", expected [", count(),
               ", vocab_size]");
  ++steps_;
  vocab_ = logits.size(1);
  lp_ = logits.to(kFloat64, kCPU).to_vector();
  for (int64_t r = 0; r < count(); ++r)
    for (int64_t i = 0; i < vocab_; ++i) {
      const double v = lp_[at(r * vocab_ + i)];
      DROPIN_CHECK(!std::isnan(v) && v != kernels::kInf<double>, StateError, who_,
                   ": the base's logits hold ", std::isnan(v) ? "NaN" : "+inf", " at step ", steps_,
                   " in row ", example_[at(r)], ", expected numbers");
    }
  parallel_for(count(), 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) normalize_row(lp_.data() + r * vocab_, vocab_);
  });
}

// --- choices

std::vector<int64_t> best_of(const double* values, int64_t n, int64_t k) {
  std::vector<int64_t> r;
  for (int64_t i = 0; i < n; ++i)
    if (values[i] != kBanned) r.push_back(i);
  auto before = [values](int64_t a, int64_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  };
  if (k < static_cast<int64_t>(r.size())) {
    std::nth_element(r.begin(), r.begin() + k, r.end(), before);
    r.resize(at(k));
  }
  std::sort(r.begin(), r.end(), before);
  return r;
}

int64_t best_index(const double* values, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i)
    if (values[i] != kBanned && (best < 0 || values[i] > values[best])) best = i;
  return best;
}

int64_t draw(const double* z, int64_t n, double u) {
  const int64_t best = best_index(z, n);
  if (best < 0) return -1;
  double total = 0, sum = 0;
  for (int64_t i = 0; i < n; ++i) total += std::exp(z[i] - z[best]);
  int64_t last = best;
  for (int64_t i = 0; i < n; ++i) {
    const double share = std::exp(z[i] - z[best]) / total;
    sum += share;
    if (sum > u) return i;
    if (share > 0) last = i;
  }
  return last;
}

std::vector<double> greedy_means(const Limits& l, Rows rows, std::vector<Hypothesis> texts,
                                 int64_t steps) {
  std::vector<double> sums(texts.size(), 0), counts(texts.size(), 0);
  std::vector<int64_t> who(texts.size());  // of each row
  std::iota(who.begin(), who.end(), 0);
  for (int64_t tau = 0; tau < steps && !who.empty(); ++tau) {
    std::vector<int64_t> kept, tokens, still;
    for (int64_t r = 0; r < rows.count(); ++r) {
      const int64_t i = who[at(r)];
      Hypothesis& h = texts[at(i)];
      const int64_t token = best_index(l.masked(h, rows[r]).data(), l.vocab);
      if (token < 0) continue;
      sums[at(i)] += rows[r][token];
      counts[at(i)] += 1;
      h.append(token);
      if (l.is_end(token) || static_cast<int64_t>(h.text.size()) > l.max_len) continue;
      kept.push_back(r);
      tokens.push_back(token);
      still.push_back(i);
    }
    who = still;
    if (tau + 1 < steps && !who.empty()) rows.advance(kept, tokens);
  }
  for (std::size_t i = 0; i < sums.size(); ++i)
    sums[i] = counts[i] > 0 ? sums[i] / counts[i] : std::nan("");
  return sums;
}

}  // namespace dropin::generation
