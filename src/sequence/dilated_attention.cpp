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
  const auto w = static_cast<std::int64_t>(o.segment_length.size()),
             r = static_cast<std::int64_t>(o.dilated_ratio.size());
  DROPIN_CHECK(w > 0 && w == r, OptionError, who(), ": segment_length has ", w,
               " and dilated_ratio ", r, " entries, expected the same number, at least 1");
  for (std::int64_t x : o.segment_length)
    DROPIN_CHECK(x >= 1, OptionError, who(), ": segment_length has ", x, ", expected at least 1");
  for (std::int64_t x : o.dilated_ratio)
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

std::int64_t DilatedAttention::offset(std::size_t pattern, std::int64_t head) const {
  const std::int64_t r = options_.dilated_ratio[pattern], h = options_.num_heads;
  return options_.head_offset == "modulo" ? head % r : head / ((h + r - 1) / r);
}

AttentionParams DilatedAttention::pattern(std::size_t i) const {
  AttentionParams p;
  p.causal = options_.causal;
  p.dropout_p = is_training() ? options_.dropout : 0;
  p.segment = options_.segment_length[i];
  for (std::int64_t j = 0; j < options_.num_heads; ++j) {
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
  std::vector<AttentionParams> patterns;
  for (std::size_t i = 0; i < o.segment_length.size(); ++i) {
    patterns.push_back(pattern(i));
    patterns.back().key_padding_mask = args.key_padding_mask;
  }
  return out_proj_(merge_heads(
      attention_mixture(q, k, split_heads(v_proj_(x), o.num_heads), patterns, o.mix_grad).o));
}

namespace {

// [B, H, m, Dh] of this rank -> [B, H, size m, Dh] of all ranks in order; backward sums what the
// ranks found out about this rank's rows.
Tensor gather_ranks(const Tensor& x_, Communicator& c) {
  const Tensor x = x_.contiguous();
  const Shape s = x.sizes();
  Tensor all = empty({c.size(), s[0], s[1], s[2], s[3]}, x.options());
  c.all_gather(x.data_ptr(), x.numel() * item_size(x.dtype()), all.data_ptr());
  const Tensor y =
      all.permute({1, 2, 0, 3, 4}).reshape({s[0], s[1], c.size() * s[2], s[3]}).contiguous();
  return record_many(
      "gather_ranks", {y}, {x_}, {}, [&c, s](const Saved&, const Tensors& g) -> Tensors {
        const Tensor pieces =
            g[0].reshape({s[0], s[1], c.size(), s[2], s[3]}).permute({2, 0, 1, 3, 4}).contiguous();
        Tensor mine = empty(s, pieces.options());
        if (pieces.dtype() == kFloat64)
          c.reduce_scatter_sum(pieces.data<double>(), mine.numel(), mine.data<double>());
        else
          c.reduce_scatter_sum(pieces.data<float>(), mine.numel(), mine.data<float>());
        return {mine};
      })[0];
}

}  // namespace

Tensor DilatedAttention::forward_distributed(const Tensor& x, Communicator& c) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, {});
  DROPIN_CHECK(x.dtype() == kFloat32 || x.dtype() == kFloat64, DTypeError, who(), ": x_local is ",
               x.dtype(), ", expected float32 or float64");
  const std::int64_t l = x.size(1), b = x.size(0), h = o.num_heads, dh = o.embed_dim / h;
  DROPIN_CHECK(l > 0, ShapeError, who(), ": x_local is ", x.sizes(),
               ", expected at least one token per rank");
  for (std::int64_t w : o.segment_length) {
    DROPIN_CHECK(w % l == 0 || l % w == 0, ShapeError, who(), ": segment_length ", w, " and the ",
                 l, " tokens of a rank are not multiples of each other");
    DROPIN_CHECK(w <= l || c.size() % (w / l) == 0, ShapeError, who(), ": segments of ", w,
                 " tokens span ", w / l, " ranks, of which the ", c.size(),
                 " ranks are not a multiple");
  }
  const std::int64_t start = c.rank() * l;
  const Tensor q = rope(split_heads(q_proj_(x), h), o.rope, o.rope_base, start),
               k = rope(split_heads(k_proj_(x), h), o.rope, o.rope_base, start),
               v = split_heads(v_proj_(x), h);
  std::vector<AttentionParams> local;
  std::vector<AttentionWithLse> parts;
  for (std::size_t i = 0; i < o.segment_length.size(); ++i)
    if (o.segment_length[i] <= l) local.push_back(pattern(i));
  if (!local.empty()) parts.push_back(attention_mixture(q, k, v, local, o.mix_grad));
  for (std::size_t i = 0; i < o.segment_length.size(); ++i) {
    const std::int64_t w = o.segment_length[i], r = o.dilated_ratio[i], ranks = w / l;
    if (w <= l) continue;
    const std::int64_t leader = c.rank() / ranks * ranks, m = (l + r - 1) / r;
    // row a of rank `of` takes part in head j when its index in the segment is offset(i, j) modulo
    // r
    auto row = [&](std::int64_t of, std::int64_t j, std::int64_t t) {
      const std::int64_t base = (of - leader) * l, first = ((offset(i, j) - base) % r + r) % r,
                         a = first + t * r;
      return a < l ? a : std::int64_t{-1};
    };
    Tensor index = empty({1, h, m, 1}, kInt64), target = empty({1, h, m, 1}, kInt64),
           hidden = empty({1, h, m, ranks * m}, kBool);
    for (std::int64_t j = 0; j < h; ++j)
      for (std::int64_t t = 0; t < m; ++t) {
        const std::int64_t a = row(c.rank(), j, t);
        index.data<std::int64_t>()[j * m + t] = std::max<std::int64_t>(a, 0);
        target.data<std::int64_t>()[j * m + t] =
            a < 0 ? l : a;  // rows of none go to a row that is cut off
        for (std::int64_t of = 0; of < ranks; ++of)
          for (std::int64_t u = 0; u < m; ++u) {
            const std::int64_t key = row(leader + of, j, u);
            hidden.data<bool>()[(j * m + t) * ranks * m + of * m + u] =
                key < 0 || (o.causal && (leader + of) * l + key > start + a);
          }
      }
    const Tensor picked = detail::broadcast_to(index.to(x.device()), {b, h, m, dh});
    Communicator& segment = c.group(leader, ranks);
    AttentionParams p;
    p.dropout_p = is_training() ? o.dropout : 0;
    p.attn_mask = hidden.to(x.device());
    const AttentionWithLse a =
        attention_with_lse(gather(q, 2, picked), gather_ranks(gather(k, 2, picked), segment),
                           gather_ranks(gather(v, 2, picked), segment), p);
    const Tensor to = target.to(x.device());
    AttentionWithLse spread;
    spread.o = scatter(zeros({b, h, l + 1, dh}, a.o.options()), 2,
                       detail::broadcast_to(to, {b, h, m, dh}), a.o)
                   .narrow(2, 0, l);
    spread.lse =
        scatter(full({b, h, l + 1}, -std::numeric_limits<double>::infinity(), a.lse.options()), 2,
                detail::broadcast_to(to.squeeze(-1), {b, h, m}), a.lse)
            .narrow(2, 0, l);
    parts.push_back(spread);
  }
  return out_proj_(merge_heads(merge_attention(parts, o.mix_grad).o));
}

namespace {

// The keys and values [B, H, capacity, Dh] of tokens start .. length - 1.
struct DilatedState : SequenceState {
  Tensor keys, values;
  std::int64_t start = 0, length = 0, max_len = 0;
};

}  // namespace

Box<SequenceState> DilatedAttention::init_state(std::int64_t batch, std::int64_t max_len) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  DROPIN_CHECK(batch >= 0 && max_len >= 0, OptionError, who(), ": init_state(", batch, ", ",
               max_len, "): sizes must not be negative");
  const std::int64_t longest = *std::max_element(o.segment_length.begin(), o.segment_length.end()),
                     capacity = longest < max_len / 2 ? 2 * longest : max_len;
  auto s = Box<DilatedState>(new DilatedState);
  s->keys =
      zeros({batch, o.num_heads, capacity, o.embed_dim / o.num_heads}, parameters()[0].options());
  s->values = zeros_like(s->keys);
  s->max_len = max_len;
  return s;
}

Tensor DilatedAttention::step(const Tensor& x_t, SequenceState& state) {
  auto* s = dynamic_cast<DilatedState*>(&state);
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  DROPIN_CHECK(s, StateError, who(), ": step() was given the state of another layer type");
  detail::check_sequence(who(), x_t, o.embed_dim, {});
  DROPIN_CHECK(x_t.size(0) == s->keys.size(0), ShapeError, who(), ": x_t has batch ", x_t.size(0),
               ", the state ", s->keys.size(0));
  DROPIN_CHECK(s->length + x_t.size(1) <= s->max_len, StateError, who(),
               ": the state is full: ", s->length, " tokens and ", x_t.size(1),
               " more exceed its capacity of ", s->max_len);
  no_grad guard;
  const std::int64_t h = o.num_heads, n = x_t.size(1), b = x_t.size(0), dh = o.embed_dim / h;
  const Tensor q = rope(split_heads(q_proj_(x_t), h), o.rope, o.rope_base, s->length),
               k = rope(split_heads(k_proj_(x_t), h), o.rope, o.rope_base, s->length);
  const Tensor v = split_heads(v_proj_(x_t), h);
  Tensor y = empty({b, h, n, dh}, x_t.options());
  for (std::int64_t done = 0; done < n; ++done) {
    const std::int64_t t = s->length;
    if (t - s->start == s->keys.size(2)) {  // the current segments' keys move to the front
      std::int64_t keep = t;
      for (std::int64_t w : o.segment_length) keep = std::min(keep, t / w * w);
      for (Tensor* c : {&s->keys, &s->values})
        c->narrow(2, 0, t - keep).copy_(c->narrow(2, keep - s->start, t - keep).clone());
      s->start = keep;
    }
    s->keys.narrow(2, t - s->start, 1).copy_(k.narrow(2, done, 1));
    s->values.narrow(2, t - s->start, 1).copy_(v.narrow(2, done, 1));
    s->length = t + 1;
    std::vector<AttentionWithLse> parts;
    for (std::size_t i = 0; i < o.segment_length.size(); ++i) {
      const std::int64_t w = o.segment_length[i], r = o.dilated_ratio[i], segment = t / w * w,
                         turn = (t - segment) % r;
      AttentionWithLse a{zeros({b, h, 1, dh}, x_t.options()),
                         full({b, h, 1}, -std::numeric_limits<double>::infinity(), x_t.options())};
      // the heads in which this token takes part: neighbours ("grouped") or every r-th ("modulo")
      std::int64_t first = 0;
      while (first < h && offset(i, first) != turn) ++first;
      if (first < h) {
        const std::int64_t every = o.head_offset == "modulo" ? r : 1;
        std::int64_t last = first;
        while (last + every < h && offset(i, last + every) == turn) last += every;
        auto heads = [&](const Tensor& x) { return x.slice(1, first, last + 1, every); };
        auto mine = [&](const Tensor& c) {
          return heads(c).slice(2, segment + turn - s->start, t + 1 - s->start, r);
        };
        const AttentionWithLse some =
            attention_with_lse(heads(q.narrow(2, done, 1)), mine(s->keys), mine(s->values));
        heads(a.o).copy_(some.o);
        heads(a.lse).copy_(some.lse);
      }
      parts.push_back(a);
    }
    y.narrow(2, done, 1).copy_(merge_attention(parts).o);
  }
  return out_proj_(merge_heads(y));
}

}  // namespace dropin
