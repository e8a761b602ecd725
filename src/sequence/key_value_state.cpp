// The state of attention: keys and values of earlier tokens, and where they stand.
#include "dropin/sequence/common.h"
#include "kernels/hd.h"

namespace dropin {

KeyValueState::KeyValueState(int64_t batch, int64_t max_len_in, int64_t heads, int64_t capacity,
                             int64_t width, const TensorOptions& like)
    : SequenceState(batch), max_len(max_len_in) {
  keys = zeros({batch, heads, capacity, width}, like);
  values = zeros_like(keys);
  rows.resize(at(batch));
}

void KeyValueState::check_heads(std::string_view who, int64_t heads, int64_t width) const {
  DROPIN_CHECK(keys.size(1) == heads && keys.size(3) == width, StateError, who,
               ": the state is for ", keys.size(1), " heads of width ", keys.size(3),
               ", this layer has ", heads, " of ", width);
}

std::pair<Tensor, Tensor> KeyValueState::append(const detail::RowRun& run, const Tensor& k,
                                                const Tensor& v) {
  const detail::StateRow row = rows[at(run.begin)];
  const int64_t held = row.length - row.start, n = k.size(2);
  const Tensor own_keys = run.of(keys), own_values = run.of(values);
  own_keys.narrow(2, held, n).copy_(k);
  own_values.narrow(2, held, n).copy_(v);
  for (int64_t b = run.begin; b < run.begin + run.rows; ++b) rows[at(b)].length += n;
  return {own_keys.narrow(2, 0, held + n), own_values.narrow(2, 0, held + n)};
}

bool KeyValueState::append_positions(const detail::RowRun& run, const detail::StepTokens& tokens) {
  if (!tokens.positions.defined() && !positions.defined()) return false;
  auto counted = [&](int64_t from, int64_t to) {
    return arange(static_cast<double>(from), static_cast<double>(to)).to(kInt64).to(keys.device());
  };
  if (!positions.defined()) {
    const Shape all{keys.size(0), keys.size(2)};
    positions = detail::broadcast_to(counted(0, keys.size(2)), all).clone();
  }
  const int64_t t = rows[at(run.begin)].length;
  run.of(positions)
      .narrow(1, t, run.fresh)
      .copy_(tokens.positions.defined()
                 ? run.fresh_of(tokens.positions, 1)
                 : detail::broadcast_to(counted(t, t + run.fresh), {run.rows, run.fresh}));
  return true;
}

Tensor KeyValueState::alibi(const detail::RowRun& run, int64_t heads,
                            const TensorOptions& like) const {
  const int64_t t = rows[at(run.begin)].length, held = t + run.fresh;
  const Tensor p = run.of(positions).to(kFloat64),
               distance = abs(p.narrow(1, t, run.fresh).reshape({run.rows, 1, run.fresh, 1}) -
                              p.narrow(1, 0, held).reshape({run.rows, 1, 1, held}));
  return (-alibi_slopes(heads, {kFloat64, like.device}).reshape({1, heads, 1, 1}) * distance)
      .to(like.dtype == kFloat64 ? kFloat64 : kFloat32);
}

void KeyValueState::set_alibi(AttentionParams& p, const detail::RowRun& run,
                              const detail::StepTokens& tokens, int64_t heads,
                              const TensorOptions& like) {
  p.alibi = !append_positions(run, tokens);
  if (!p.alibi) p.attn_mask = alibi(run, heads, like);
}

detail::StepTokens KeyValueState::check_step(std::string_view who, const Tensor& x_t,
                                             const StepArgs& args, const detail::StepLimits& limits,
                                             int64_t heads, int64_t width) const {
  detail::StepTokens tokens = detail::check_step(who, x_t, *this, args, limits);
  check_heads(who, heads, width);
  detail::check_room(who, rows, tokens, max_len);
  return tokens;
}

void KeyValueState::forget(const detail::RowRun& run, int64_t first) {
  const detail::StateRow row = rows[at(run.begin)];
  const int64_t gone = first - row.start, left = row.length - first;
  for (const Tensor& all : {run.of(keys), run.of(values)})
    all.narrow(2, 0, left).copy_(all.narrow(2, gone, left).clone());
  for (int64_t b = run.begin; b < run.begin + run.rows; ++b) rows[at(b)].start = first;
}

void KeyValueState::take_back(int64_t n, const std::vector<int64_t>& real) {
  for (std::size_t b = 0; b < rows.size(); ++b) {
    const int64_t t = rows[b].length - real[b];
    DROPIN_CHECK(first_needed(t) >= rows[b].start, StateError, "SequenceState: rollback(", n,
                 "): token ", t, " needs tokens from ", first_needed(t),
                 " on, and the state keeps those from ", rows[b].start,
                 " on; init_state(batch, max_len, {.keep = n}) keeps more");
  }
  for (std::size_t b = 0; b < rows.size(); ++b) rows[b].length -= real[b];
}

Tensor detail::rope_of(const RowRun& run, const StepTokens& tokens, const Tensor& x,
                       const std::string& style, double base, int64_t start) {
  return tokens.positions.defined() ? rope(x, style, base, run.fresh_of(tokens.positions, 1))
                                    : rope(x, style, base, start);
}

}  // namespace dropin
