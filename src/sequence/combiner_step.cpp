// CombinerAttention::step(): summaries of finished regions are kept, so a token reads its row and
// one summary for each region it sees.
#include <algorithm>

#include "dropin/ops/masked.h"
#include "dropin/sequence/combiner_attention.h"
#include "sequence/combiner.h"

namespace dropin {

using combiner::Keys;
using combiner::Region;
using combiner::Summary;

// Queries, keys and values of all tokens, their inputs where summaries need them, and summaries: 0:
// of rows (fixed), of blocks by level (logsparse), of row and column (axial_rowmajor), of a column
// down to a token (axial); 1 and 2: of a row before and after a column (axial).
struct CombinerAttention::State : KeyValueState {
  using KeyValueState::KeyValueState;
  Tensor queries, inputs, summary_keys[3], summary_values[3];
  void parts(auto&& f) {
    KeyValueState::parts(f);
    f(queries);
    f(inputs);
    for (Tensor* t : {&summary_keys[0], &summary_keys[1], &summary_keys[2], &summary_values[0],
                      &summary_values[1], &summary_values[2]})
      f(*t);
  }
  /// Keeps summaries [R, H, n, e] from place `at` on.
  void keep(int which, const detail::RowRun& run, int64_t at, const Tensor& k, const Tensor& v) {
    run.of(summary_keys[which]).narrow(2, at, k.size(2)).copy_(k);
    run.of(summary_values[which]).narrow(2, at, v.size(2)).copy_(v);
  }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
};

Box<SequenceState> CombinerAttention::init_state(int64_t batch, int64_t max_len,
                                                 const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  DROPIN_CHECK(o.span > 0 || o.variant == "logsparse", OptionError, who(),
               ": step() needs a span; with span = 0 the rows change with the length");
  detail::check_state_sizes(who(), batch, max_len, options);
  const int64_t h = o.num_heads, e = o.embed_dim / h;
  const TensorOptions like = parameters()[0].options();
  auto s = Box<State>(new State(batch, max_len, h, max_len, e, like));
  s->queries = zeros_like(s->keys);
  if (o.row_summary == "proj") s->inputs = zeros({batch, max_len, o.embed_dim}, like);
  const int64_t places = o.variant == "fixed"       ? max_len / o.span
                         : o.variant == "logsparse" ? 2 * max_len
                                                    : max_len;
  const bool columns = o.variant != "axial_horizontal",
             rows = o.variant == "axial_horizontal" || o.variant == "axial_mixture";
  for (int i = 0; i < 3; ++i) {
    if (i == 0 ? !columns : !rows) continue;
    s->summary_keys[i] = zeros({batch, h, places, e}, like);
    s->summary_values[i] = zeros_like(s->summary_keys[i]);
  }
  return s;
}

namespace {

// Keys [R, H, m, e] that all queries [R, H, n, e] share; forbidden [n, m].
Keys shared_keys(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& forbidden,
                 bool direct) {
  return {matmul(q, k.mT()), forbidden.reshape({1, 1, forbidden.size(0), forbidden.size(1)}),
          [v](const Tensor& p) { return weighted_values(p, v, true); }, direct};
}
// Keys [R, H, n, m, e], of each query its own; all are seen, or none.
Keys own_keys(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& forbidden,
              bool direct) {
  return {matmul(k, q.unsqueeze(-1)).squeeze(-1), forbidden,
          [v](const Tensor& p) { return matmul(p.unsqueeze(-2), v).squeeze(-2); }, direct};
}
Tensor all_seen(int64_t n, int64_t m, const Device& d) { return zeros({n, m}, {kBool, d}); }

// Of x [R, H, L, e] in `rows` full rows of s: columns [c, c + n), [R, H, n, rows, e].
Tensor columns_of(const Tensor& x, int64_t rows, int64_t s, int64_t c, int64_t n) {
  return x.narrow(2, 0, rows * s)
      .reshape({x.size(0), x.size(1), rows, s, x.size(3)})
      .narrow(3, c, n)
      .transpose(2, 3);
}
// Tokens that are all real.
Region region_of(const Tensor& pool_q, const Tensor& pool_k, const Tensor& k, const Tensor& v) {
  return {pool_q, pool_k, k, v, ones({k.size(0), 1, k.size(2)}, {kBool, k.device()})};
}
// Where summaries of logsparse's level begin among those of all levels.
int64_t level_begin(int64_t level, int64_t max_len) {
  int64_t at = 0;
  for (int64_t l = 0; l < level; ++l) at += max_len >> l;
  return at;
}

}  // namespace

void CombinerAttention::summarise(State& s, const detail::RowRun& run, int64_t first,
                                  int64_t count) const {
  const auto& o = options_;
  const int64_t span = o.span, last = first + count;  // tokens [first, last) are new
  auto region = [&](int64_t from, int64_t to, int64_t step) {
    auto cut = [&](const Tensor& x) { return run.of(x).slice(2, from, to, step); };
    const Tensor q = cut(s.queries), k = cut(s.keys);
    return region_of(acted(q, pool_q_), acted(k, pool_k_), k, cut(s.values));
  };
  auto keep_whole = [&](int64_t at, const Region& r) {
    const Summary w = combiner::whole(r, o.pool);
    s.keep(0, run, at, w.k.unsqueeze(2), w.v.unsqueeze(2));
  };
  if (o.variant == "logsparse") {
    for (int64_t l = 0; last % (int64_t{1} << l) == 0 && (int64_t{1} << l) <= last; ++l)
      keep_whole(level_begin(l, s.max_len) + (last >> l) - 1,
                 region(last - (int64_t{1} << l), last, 1));
    return;
  }
  if (o.variant == "axial_vertical" || o.variant == "axial_mixture")
    for (int64_t t = first; t < last; ++t) keep_whole(t, region(t % span, t + 1, span));
  if (last % span != 0) return;  // the row goes on
  const int64_t row = last - span;
  const Region all = region(row, last, 1);
  if (o.variant == "fixed") keep_whole(row / span, all);
  if (o.variant == "axial_rowmajor") {
    const auto [k, v] =
        row_major(run.of(s.queries).narrow(2, row, span), all.k, all.v,
                  s.inputs.defined() ? run.of(s.inputs).narrow(1, row, span) : Tensor());
    s.keep(0, run, row, k, v);
  }
  if (o.variant == "axial_horizontal" || o.variant == "axial_mixture") {
    const Summary before = combiner::before(all, o.pool), after = combiner::after(all, o.pool);
    s.keep(1, run, row, before.k, before.v);
    s.keep(2, run, row, after.k, after.v);
  }
}

Tensor CombinerAttention::step_row(const State& s, const detail::RowRun& run,
                                   const Tensor& q) const {
  const auto& o = options_;
  const int64_t n = q.size(2), t = s.length_of(run) - n, span = o.span, u = t / span, c = t % span;
  const Device device = q.device();
  const Tensor keys = run.of(s.keys), values = run.of(s.values);
  const Tensor i = arange(c, c + n).unsqueeze(1).to(device);
  std::vector<Keys> parts{shared_keys(q, keys.narrow(2, u * span, c + n),
                                      values.narrow(2, u * span, c + n),
                                      arange(c + n).unsqueeze(0).to(device) > i, true)};
  auto by_columns = [&](const Tensor& k, const Tensor& v, const Tensor& hidden, bool direct) {
    if (u > 0)
      parts.push_back(
          own_keys(q, columns_of(k, u, span, c, n), columns_of(v, u, span, c, n), hidden, direct));
  };
  auto summaries = [&](int which, const Tensor& hidden) {
    by_columns(run.of(s.summary_keys[which]), run.of(s.summary_values[which]), hidden, false);
  };
  const Tensor seen = all_seen(n, u, device).reshape({1, 1, n, u});
  if (o.variant == "fixed") {
    if (u > 0)
      parts.push_back(shared_keys(q, run.of(s.summary_keys[0]).narrow(2, 0, u),
                                  run.of(s.summary_values[0]).narrow(2, 0, u),
                                  all_seen(n, u, device), false));
  } else if (o.variant == "axial_rowmajor") {
    summaries(0, seen);
  } else {
    by_columns(keys, values, seen, true);
    if (o.variant != "axial_horizontal" && u > 0)
      parts.push_back(shared_keys(q, run.of(s.summary_keys[0]).narrow(2, (u - 1) * span, span),
                                  run.of(s.summary_values[0]).narrow(2, (u - 1) * span, span),
                                  arange(span).unsqueeze(0).to(device) == i, false));
    if (o.variant != "axial_vertical") {
      const Tensor column = i.reshape({1, 1, n, 1});
      summaries(1, logical_or(seen, column == 0));
      summaries(2, logical_or(seen, column == span - 1));
    }
  }
  return combiner::attend(parts, o.dropout, is_training());
}

Tensor CombinerAttention::step_log(const State& s, const detail::RowRun& run,
                                   const Tensor& q) const {
  const int64_t t = s.length_of(run) - 1;
  const Tensor none = all_seen(1, 1, q.device());
  std::vector<Keys> parts{
      shared_keys(q, run.of(s.keys).narrow(2, t, 1), run.of(s.values).narrow(2, t, 1), none, true)};
  for (int64_t l = 0; t >> l > 0; ++l) {
    if (!(t >> l & 1)) continue;
    const int64_t at = level_begin(l, s.max_len) + (t >> l) - 1;
    parts.push_back(shared_keys(q, run.of(s.summary_keys[0]).narrow(2, at, 1),
                                run.of(s.summary_values[0]).narrow(2, at, 1), none, false));
  }
  return combiner::attend(parts, options_.dropout, is_training());
}

Tensor CombinerAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens =
      s.check_step(who(), x_t, args, {.width = o.embed_dim, .causal = o.causal}, o.num_heads,
                   o.embed_dim / o.num_heads);
  no_grad guard;
  const bool log = o.variant == "logsparse";
  const Tensor x = tokens.packed(x_t, 1), q = scaled_queries(x),
               k = split_heads(k_proj_(x), o.num_heads), v = split_heads(v_proj_(x), o.num_heads);
  const Tensor y =
      detail::step_rows(s.rows, tokens, q.sizes(), 2, q.options(), [&](const detail::RowRun& run) {
        Tensors out;
        for (int64_t done = 0; done < run.fresh;) {  // a row, or a token of logsparse, at a time
          const int64_t t = s.length_of(run),
                        count = log ? 1 : std::min(run.fresh - done, o.span - t % o.span);
          auto own = [&](const Tensor& heads) { return run.of(heads).narrow(2, done, count); };
          run.of(s.queries).narrow(2, t, count).copy_(own(q));
          if (s.inputs.defined())
            run.of(s.inputs).narrow(1, t, count).copy_(run.of(x).narrow(1, done, count));
          s.append(run, own(k), own(v));
          out.push_back(log ? step_log(s, run, own(q)) : step_row(s, run, own(q)));
          summarise(s, run, t, count);
          done += count;
        }
        return out.size() == 1 ? out[0] : concat(out, 2);
      });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

}  // namespace dropin
