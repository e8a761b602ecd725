// What step() keeps in general: tokens and rows, copies of a state, tokens taken back.
#include <algorithm>
#include <numeric>

#include "dropin/sequence/common.h"
#include "kernels/hd.h"

namespace dropin {

Box<SequenceState> SequenceState::pick(const std::vector<int64_t>&) const {
  fail<StateError>({"SequenceState: this kind of state cannot be copied or reordered"});
}
void SequenceState::take_back(int64_t, const std::vector<int64_t>&) {
  fail<StateError>({"SequenceState: this kind of state cannot take tokens back"});
}

Box<SequenceState> SequenceState::select(const std::vector<int64_t>& indices) const {
  for (int64_t i : indices)
    DROPIN_CHECK(i >= 0 && i < batch_, IndexError, "SequenceState: select: index ", i,
                 ", expected 0 to ", batch_ - 1, " because the state has batch ", batch_);
  Box<SequenceState> s = pick(indices);
  s->batch_ = static_cast<int64_t>(indices.size());
  s->length_ = length_;
  s->padded_ = padded_;
  for (Padded& p : s->padded_) {
    std::vector<bool> rows;
    for (int64_t i : indices) rows.push_back(p.rows[static_cast<std::size_t>(i)]);
    p.rows = std::move(rows);
  }
  return s;
}
Box<SequenceState> SequenceState::select(const Tensor& indices) const {
  DROPIN_CHECK(indices.dtype() == kInt64, DTypeError, "SequenceState: select: indices are ",
               indices.dtype(), ", expected int64");
  DROPIN_CHECK(indices.dim() == 1, ShapeError, "SequenceState: select: indices are ",
               indices.sizes(), ", expected [n]");
  const Tensor i = indices.to(Device{}).contiguous();
  const int64_t* first = i.data<int64_t>();
  return select(std::vector<int64_t>(first, first + i.numel()));
}
Box<SequenceState> SequenceState::clone() const {
  std::vector<int64_t> all(static_cast<std::size_t>(batch_));
  std::iota(all.begin(), all.end(), 0);
  return select(all);
}

void SequenceState::rollback(int64_t n) {
  DROPIN_CHECK(n >= 0 && n <= length_, StateError, "SequenceState: rollback(", n,
               "): the state has seen ", length_, " tokens");
  if (n == 0) return;
  const auto from = std::find_if(padded_.begin(), padded_.end(),
                                 [&](const Padded& p) { return p.at >= length_ - n; });
  std::vector<int64_t> real(static_cast<std::size_t>(batch_), n);
  for (auto p = from; p != padded_.end(); ++p)
    for (std::size_t b = 0; b < real.size(); ++b) real[b] -= p->rows[b];
  take_back(n, real);
  padded_.erase(from, padded_.end());
  length_ -= n;
}

void SequenceState::saw(int64_t n, const Tensor& padding) {
  for (int64_t i = 0; padding.defined() && i < n; ++i) {
    Padded p{length_ + i, {}};
    for (int64_t b = 0; b < batch_; ++b) p.rows.push_back(padding.data<bool>()[b * n + i]);
    if (std::find(p.rows.begin(), p.rows.end(), true) != p.rows.end())
      padded_.push_back(std::move(p));
  }
  length_ += n;
}

namespace {
// x [B, W, ...] -> [B, width, ...]: row b from column first[b] on, along `dim`.
Tensor shifted(const Tensor& x, int64_t dim, const std::vector<int64_t>& first, int64_t width) {
  const auto batch = static_cast<int64_t>(first.size());
  const bool alike =
      std::all_of(first.begin(), first.end(), [&](int64_t f) { return f == first[0]; });
  if (alike) return x.narrow(dim, batch ? first[0] : 0, width).clone();
  Tensor y = empty(
      [&] {
        Shape s = x.sizes();
        s[static_cast<int>(dim)] = width;
        return s;
      }(),
      x.options());
  for (int64_t b = 0; b < batch; ++b)
    y.narrow(0, b, 1).copy_(x.narrow(0, b, 1).narrow(dim, first[at(b)], width));
  return y;
}

// `index` [B, n] along dimension `dim` of something shaped as x.
Tensor along(const Tensor& index, const Tensor& x, int64_t dim) {
  Shape s = x.sizes();
  for (int i = 1; i < x.dim(); ++i)
    if (i != dim) s[i] = 1;
  return index.reshape(s);
}
}  // namespace

Tensor detail::StepTokens::packed(const Tensor& x, int64_t dim) const {
  if (!padding.defined()) return x;
  const Tensor clean = masked_fill(x, along(hidden, x, dim), 0);
  return gather(clean, dim, broadcast_to(along(order, x, dim), x.sizes()));
}
Tensor detail::StepTokens::unpacked(const Tensor& y, int64_t dim) const {
  if (!padding.defined()) return y;
  return masked_fill(gather(y, dim, broadcast_to(along(place, y, dim), y.sizes())),
                     along(hidden, y, dim), 0);
}

detail::StepTokens detail::check_step(std::string_view who, const Tensor& x_t,
                                      const SequenceState& state, const StepArgs& args,
                                      const StepLimits& limits) {
  DROPIN_CHECK(limits.causal, OptionError, who, ": step() needs causal = true");
  DROPIN_CHECK(x_t.dim() == 3 && x_t.size(2) == limits.width, ShapeError, who, ": x_t is ",
               x_t.sizes(), ", expected [B, n, ", limits.width, "]");
  DROPIN_CHECK(is_floating(x_t.dtype()), DTypeError, who, ": x_t is ", x_t.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(x_t.size(0) == state.batch(), ShapeError, who, ": x_t has batch ", x_t.size(0),
               ", the state ", state.batch());
  check_mask(who, "key_padding_mask", args.key_padding_mask, x_t);
  check_mask(who, "global_attention_mask", args.global_attention_mask, x_t);
  if (!limits.global_tokens)
    refuse(who, "global_attention_mask", args.global_attention_mask, kNoGlobalTokens);
  if (!limits.positions) refuse(who, "positions", args.positions, kNoPositions);
  const int64_t batch = x_t.size(0), n = x_t.size(1);
  if (args.positions.defined()) {
    DROPIN_CHECK(args.positions.dtype() == kInt64, DTypeError, who, ": positions are ",
                 args.positions.dtype(), ", expected int64");
    DROPIN_CHECK(args.positions.sizes() == (Shape{batch, n}), ShapeError, who, ": positions are ",
                 args.positions.sizes(), ", expected [", batch, ", ", n, "]");
  }
  StepTokens t;
  t.n = n;
  t.fresh.assign(at(batch), n);
  t.positions = args.positions;
  if (!args.key_padding_mask.defined()) return t;
  const Tensor padding = args.key_padding_mask.to(Device{}).contiguous();
  const bool* hidden = padding.data<bool>();
  if (std::find(hidden, hidden + batch * n, true) == hidden + batch * n) return t;
  t.padding = padding.clone();
  t.hidden = args.key_padding_mask;
  t.order = zeros({batch, n}, kInt64);
  t.place = zeros({batch, n}, kInt64);
  int64_t *order = t.order.data<int64_t>(), *place = t.place.data<int64_t>();
  for (int64_t b = 0; b < batch; ++b, hidden += n, order += n, place += n) {
    int64_t real = 0, last = n;
    for (int64_t i = 0; i < n; ++i) {
      place[i] = hidden[i] ? --last : real++;
      order[place[i]] = i;
    }
    t.fresh[at(b)] = real;
  }
  t.order = t.order.to(x_t.device());
  t.place = t.place.to(x_t.device());
  if (t.positions.defined()) t.positions = t.packed(t.positions, 1);
  return t;
}

void detail::check_room(std::string_view who, const std::vector<StateRow>& rows,
                        const StepTokens& tokens, int64_t max_len) {
  for (std::size_t b = 0; b < rows.size(); ++b)
    DROPIN_CHECK(rows[b].length + tokens.fresh[b] <= max_len, StateError, who,
                 ": the state is full: ", rows[b].length, " tokens and ", tokens.fresh[b],
                 " more exceed its capacity of ", max_len);
}

void detail::check_state_sizes(std::string_view who, int64_t batch, int64_t max_len,
                               const StateOptions& options, bool global_tokens) {
  DROPIN_CHECK(batch >= 0 && max_len >= 0, OptionError, who, ": init_state(", batch, ", ", max_len,
               "): sizes must not be negative");
  DROPIN_CHECK(options.keep >= 0, OptionError, who, ": init_state: keep is ", options.keep,
               ", expected 0 or a number of tokens");
  DROPIN_CHECK(global_tokens || !options.global_tokens, OptionError, who,
               ": init_state: global_tokens is not supported: ", kNoGlobalTokens);
}

std::vector<detail::RowRun> detail::runs_of(const std::vector<StateRow>& rows,
                                            const StepTokens& tokens) {
  std::vector<RowRun> runs;
  for (std::size_t b = 0; b < rows.size(); ++b)
    if (b > 0 && rows[b] == rows[b - 1] && tokens.fresh[b] == tokens.fresh[b - 1])
      ++runs.back().rows;
    else
      runs.push_back({static_cast<int64_t>(b), 1, tokens.fresh[b]});
  return runs;
}

void detail::RowPicker::operator()(Tensor& t, int64_t dim) const {
  if (!t.defined()) return;
  no_grad guard;
  std::vector<int64_t> rows = rows_;
  const auto n = static_cast<int64_t>(rows.size());
  t = index_select(t, dim, from_blob(rows.data(), {n}, kInt64).to(t.device()).clone());
}
void detail::RowPicker::operator()(std::vector<Tensors>& lists, int64_t dim) const {
  for (Tensors& list : lists)
    for (Tensor& t : list) (*this)(t, dim);
}
void detail::RowPicker::operator()(std::vector<StateRow>& rows) const {
  std::vector<StateRow> r;
  for (int64_t b : rows_) r.push_back(rows[at(b)]);
  rows = std::move(r);
}

namespace {
void check_kept(int64_t n, int64_t kept) {
  DROPIN_CHECK(n <= kept, StateError, "SequenceState: rollback(", n, "): the state keeps ", kept,
               " of its last tokens; init_state(batch, max_len, {.keep = n}) keeps more");
}
}  // namespace

void detail::Snapshots::push(Tensors state) {
  before.push_back(std::move(state));
  if (static_cast<int64_t>(before.size()) > keep) before.erase(before.begin());
}
Tensors detail::Snapshots::take_back(int64_t n) {
  check_kept(n, static_cast<int64_t>(before.size()));
  const std::size_t left = before.size() - at(n);
  Tensors state = before[left];
  before.resize(left);
  return state;
}

detail::RecentTokens::RecentTokens(int64_t batch, int64_t window_in, int64_t channels,
                                   const StateOptions& options, const TensorOptions& like)
    : data(zeros({batch, options.keep + window_in, channels}, like)),
      window(window_in),
      keep(options.keep) {}
Tensor detail::RecentTokens::before(const Tensor& x) const {
  return concat({data.narrow(1, keep, window), x}, 1);
}
void detail::RecentTokens::push(const Tensor& x, const StepTokens& tokens) {
  data = shifted(concat({data, x}, 1), 1, tokens.fresh, keep + window);
  kept = std::min(keep, kept + tokens.n);
}
void detail::RecentTokens::take_back(int64_t n, const std::vector<int64_t>& real) {
  check_kept(n, kept);
  // older tokens move up, and what stands before them is never looked at
  std::vector<int64_t> first;
  for (int64_t r : real) first.push_back(n - r);
  const Tensor none = zeros({data.size(0), n, data.size(2)}, data.options());
  data = shifted(concat({none, data}, 1), 1, first, keep + window);
  kept -= n;
}

}  // namespace dropin
