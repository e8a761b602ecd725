#include "dropin/sequence/contract.h"

#include <algorithm>
#include <numeric>

namespace dropin {

Box<SequenceState> SequenceState::pick(const std::vector<std::int64_t>&) const {
  fail<StateError>({"SequenceState: this kind of state cannot be copied or reordered"});
}
void SequenceState::take_back(std::int64_t, const std::vector<std::int64_t>&) {
  fail<StateError>({"SequenceState: this kind of state cannot take tokens back"});
}

Box<SequenceState> SequenceState::select(const std::vector<std::int64_t>& indices) const {
  for (std::int64_t i : indices)
    DROPIN_CHECK(i >= 0 && i < batch_, IndexError, "SequenceState: select: index ", i,
                 ", expected 0 to ", batch_ - 1, " because the state has batch ", batch_);
  Box<SequenceState> s = pick(indices);
  s->batch_ = static_cast<std::int64_t>(indices.size());
  s->length_ = length_;
  s->padded_ = padded_;
  for (Padded& p : s->padded_) {
    std::vector<bool> rows;
    for (std::int64_t i : indices) rows.push_back(p.rows[static_cast<std::size_t>(i)]);
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
  const std::int64_t* first = i.data<std::int64_t>();
  return select(std::vector<std::int64_t>(first, first + i.numel()));
}
Box<SequenceState> SequenceState::clone() const {
  std::vector<std::int64_t> all(static_cast<std::size_t>(batch_));
  std::iota(all.begin(), all.end(), 0);
  return select(all);
}

void SequenceState::rollback(std::int64_t n) {
  DROPIN_CHECK(n >= 0 && n <= length_, StateError, "SequenceState: rollback(", n,
               "): the state has seen ", length_, " tokens");
  if (n == 0) return;
  const auto from = std::find_if(padded_.begin(), padded_.end(),
                                 [&](const Padded& p) { return p.at >= length_ - n; });
  std::vector<std::int64_t> real(static_cast<std::size_t>(batch_), n);
  for (auto p = from; p != padded_.end(); ++p)
    for (std::size_t b = 0; b < real.size(); ++b) real[b] -= p->rows[b];
  take_back(n, real);
  padded_.erase(from, padded_.end());
  length_ -= n;
}

void SequenceState::saw(std::int64_t n, const Tensor& padding) {
  for (std::int64_t i = 0; padding.defined() && i < n; ++i) {
    Padded p{length_ + i, {}};
    for (std::int64_t b = 0; b < batch_; ++b) p.rows.push_back(padding.data<bool>()[b * n + i]);
    if (std::find(p.rows.begin(), p.rows.end(), true) != p.rows.end())
      padded_.push_back(std::move(p));
  }
  length_ += n;
}

Box<SequenceState> SequenceMixer::init_state(std::int64_t, std::int64_t, const StateOptions&) {
  fail<OptionError>({type(), ": these options have no step(); a decoding member is causal"});
}
Tensor SequenceMixer::step(const Tensor&, SequenceState&, const StepArgs&) {
  fail<OptionError>({type(), ": these options have no step(); a decoding member is causal"});
}

SequenceArgs SequenceMixer::args_of(const NamedTensors& in) {
  return {.key_padding_mask = in.find("key_padding_mask"),
          .attn_mask = in.find("attn_mask"),
          .global_attention_mask = in.find("global_attention_mask")};
}
NamedTensors SequenceMixer::call(const NamedTensors& in) {
  return {{"y", forward(in.get("x", type()), args_of(in))}};
}

}  // namespace dropin
