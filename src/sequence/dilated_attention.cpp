// Attention in segments of several lengths and strides.
#include "dropin/sequence/dilated_attention.h"

#include <algorithm>
#include <limits>

namespace dropin {

std::vector<std::string> DilatedAttention::examples() {
  return {
      R"({"segment_length": [4], "dilated_ratio": [1]})",
      R"({"segment_length": [2, 4, 8], "dilated_ratio": [1, 2, 4], "causal": true, "mix_grad": true})",
      R"({"segment_length": [3, 20], "dilated_ratio": [2, 3], "head_offset": "modulo", "rope": "half", "mix_grad": true})"};
}

DilatedAttention::DilatedAttention(const DilatedAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, o.rope, o.dropout);
  const auto w = static_cast<int64_t>(o.segment_length.size()),
             r = static_cast<int64_t>(o.dilated_ratio.size());
  DROPIN_CHECK(w > 0 && w == r, OptionError, who(), ": segment_length has ", w,
               " and dilated_ratio ", r, " entries, expected the same number, at least 1");
  for (int64_t x : o.segment_length)
    DROPIN_CHECK(x >= 1, OptionError, who(), ": segment_length has ", x, ", expected at least 1");
  for (int64_t x : o.dilated_ratio)
    DROPIN_CHECK(x >= 1, OptionError, who(), ": dilated_ratio has ", x, ", expected at least 1");
  DROPIN_CHECK(o.head_offset == "grouped" || o.head_offset == "modulo", OptionError, who(),
               ": head_offset is \"", o.head_offset, "\", expected grouped or modulo");
  if (std::find(o.dilated_ratio.begin(), o.dilated_ratio.end(), 1) == o.dilated_ratio.end())
    warn_once(
        "DilatedAttention: no dilated_ratio is 1, so tokens that no pattern covers in a head get 0 "
        "there");
  const LinearOptions square{
      .in_features = o.embed_dim, .out_features = o.embed_dim, .bias = o.bias};
  q_proj_ = child<Linear>("q_proj", square);
  k_proj_ = child<Linear>("k_proj", square);
  v_proj_ = child<Linear>("v_proj", square);
  out_proj_ = child<Linear>("out_proj", square);
  no_grad guard;
  for (auto* p : {&q_proj_, &k_proj_, &v_proj_})
    p->as()->weight().copy_(init::xavier_uniform({o.embed_dim, o.embed_dim}, o.embed_dim,
                                                 o.embed_dim, 0.70710678118654752));
  out_proj_.as()->weight().copy_(
      init::xavier_uniform({o.embed_dim, o.embed_dim}, o.embed_dim, o.embed_dim));
  if (o.bias) out_proj_.as()->bias().zero_();
}

int64_t DilatedAttention::offset(std::size_t pattern, int64_t head) const {
  const int64_t r = options_.dilated_ratio[pattern], h = options_.num_heads;
  return options_.head_offset == "modulo" ? head % r : head / ((h + r - 1) / r);
}

AttentionParams DilatedAttention::pattern(std::size_t i) const {
  AttentionParams p;
  p.causal = options_.causal;
  p.dropout_p = is_training() ? options_.dropout : 0;
  p.segment = options_.segment_length[i];
  for (int64_t j = 0; j < options_.num_heads; ++j) {
    p.step.push_back(options_.dilated_ratio[i]);
    p.first.push_back(offset(i, j));
  }
  return p;
}

Tensor DilatedAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  const Tensor q = rope(split_heads(q_proj_(x), o.num_heads), o.rope, o.rope_base),
               k = rope(split_heads(k_proj_(x), o.num_heads), o.rope, o.rope_base);
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const Tensor mask =
      detail::check_attn_mask(who(), args.attn_mask, x.size(0), o.num_heads, x.size(1), x.size(1));
  std::vector<AttentionParams> patterns;
  for (std::size_t i = 0; i < o.segment_length.size(); ++i) {
    patterns.push_back(pattern(i));
    patterns.back().key_padding_mask = args.key_padding_mask;
    patterns.back().attn_mask = mask;
  }
  return out_proj_(merge_heads(
      attention_mixture(q, k, split_heads(v_proj_(x), o.num_heads), patterns, o.mix_grad).o));
}

// Keys and values from the oldest current segment on, and those of `keep` tokens before.
struct DilatedAttention::State : KeyValueState {
  using KeyValueState::KeyValueState;
  std::vector<int64_t> segments;
  int64_t keep = 0;
  int64_t first_needed(int64_t t) const override {
    int64_t first = t;
    for (int64_t w : segments) first = std::min(first, t / w * w);
    return first;
  }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
};

Box<SequenceState> DilatedAttention::init_state(int64_t batch, int64_t max_len,
                                                const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  detail::check_state_sizes(who(), batch, max_len, options);
  const int64_t longest = *std::max_element(o.segment_length.begin(), o.segment_length.end()),
                capacity =
                    longest < (max_len - options.keep) / 2 ? 2 * longest + options.keep : max_len;
  auto s = Box<State>(new State(batch, max_len, o.num_heads, capacity, o.embed_dim / o.num_heads,
                                parameters()[0].options()));
  s->segments = o.segment_length;
  s->keep = options.keep;
  return s;
}

Tensor DilatedAttention::step_run(State& s, const detail::RowRun& run, const Tensor& q,
                                  const Tensor& k, const Tensor& v) const {
  const auto& o = options_;
  const int64_t h = o.num_heads, b = run.rows, dh = o.embed_dim / h;
  Tensor y = empty(q.sizes(), q.options());
  for (int64_t done = 0; done < run.fresh; ++done) {
    const detail::StateRow& row = s.rows[static_cast<std::size_t>(run.begin)];
    const int64_t t = row.length;
    if (t - row.start == s.keys.size(2))
      s.forget(run, s.first_needed(std::max<int64_t>(t - s.keep, 0)));
    const int64_t start = row.start;
    const auto [keys, values] = s.append(run, k.narrow(2, done, 1), v.narrow(2, done, 1));
    std::vector<AttentionWithLse> parts;
    for (std::size_t i = 0; i < o.segment_length.size(); ++i) {
      const int64_t w = o.segment_length[i], r = o.dilated_ratio[i], segment = t / w * w,
                    turn = (t - segment) % r;
      AttentionWithLse a{zeros({b, h, 1, dh}, q.options()),
                         full({b, h, 1}, -std::numeric_limits<double>::infinity(), q.options()),
                         zeros({b, h, 1}, q.options())};
      // the heads in which this token takes part: neighbours ("grouped") or every r-th ("modulo")
      int64_t first = 0;
      while (first < h && offset(i, first) != turn) ++first;
      if (first < h) {
        const int64_t every = o.head_offset == "modulo" ? r : 1;
        int64_t last = first;
        while (last + every < h && offset(i, last + every) == turn) last += every;
        auto heads = [&](const Tensor& x) { return x.slice(1, first, last + 1, every); };
        auto mine = [&](const Tensor& c) {
          return heads(c).slice(2, segment + turn - start, t + 1 - start, r);
        };
        const AttentionWithLse some =
            attention_with_lse(heads(q.narrow(2, done, 1)), mine(keys), mine(values));
        heads(a.o).copy_(some.o);
        heads(a.lse).copy_(some.lse);
        heads(a.rest).copy_(some.rest);
      }
      parts.push_back(a);
    }
    y.narrow(2, done, 1).copy_(merge_attention(parts).o);
  }
  return y;
}

Tensor DilatedAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens = s.check_step(
      who(), x_t, args, {.width = o.embed_dim, .causal = o.causal, .positions = o.rope != "none"},
      o.num_heads, o.embed_dim / o.num_heads);
  no_grad guard;
  const Tensor q = tokens.packed(split_heads(q_proj_(x_t), o.num_heads), 2),
               k = tokens.packed(split_heads(k_proj_(x_t), o.num_heads), 2),
               v = tokens.packed(split_heads(v_proj_(x_t), o.num_heads), 2);
  const Tensor y =
      detail::step_rows(s.rows, tokens, q.sizes(), 2, q.options(), [&](const detail::RowRun& run) {
        const int64_t t = s.length_of(run);
        auto turn = [&](const Tensor& x) {
          return detail::rope_of(run, tokens, run.fresh_of(x, 2), o.rope, o.rope_base, t);
        };
        return step_run(s, run, turn(q), turn(k), run.fresh_of(v, 2));
      });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

}  // namespace dropin
