#include "dropin/sequence/relative_position_attention.h"

#include <algorithm>
#include <cmath>

#include "dropin/module/init.h"
#include "dropin/module/parameters.h"
#include "dropin/ops/masked.h"
#include "sequence/query_parts.h"

namespace dropin {

std::vector<std::string> RelativePositionAttention::examples() {
  return {R"({"method": "shaw", "value_embedding": true, "max_position": 3})",
          R"({"method": "m1", "max_position": 4, "causal": true})",
          R"({"method": "m2", "max_position": 1, "bias": false})",
          R"({"method": "m3", "max_position": 5, "value_embedding": true, "causal": true})"};
}

// Distances of n queries from K keys. Counted: query a stands at offset + a. Named: by a row of the
// table for each pair.
class RelativePositionAttention::Distances {
 public:
  Distances(int64_t max_position, bool directed, int64_t n, int64_t keys, int64_t offset)
      : far_(max_position - 1), directed_(directed), n_(n), keys_(keys), offset_(offset) {}
  /// of [B, n, K] int64: query minus key.
  Distances(int64_t max_position, bool directed, const Tensor& of)
      : far_(max_position - 1), directed_(directed), n_(of.size(1)), keys_(of.size(2)), of_(of) {}
  Distances part(const detail::QueryPart& p) const {
    Distances d = *this;
    d.n_ = p.count;
    d.offset_ = offset_ + p.first;
    if (of_.defined()) d.of_ = of_.narrow(1, p.first, p.count);
    return d;
  }
  Distances undirected(bool yes) const {
    Distances d = *this;
    d.directed_ = !yes;
    return d;
  }

  /// q [B, H, n, e] . table[r_ij] -> [B, H, n, K].
  Tensor of_queries(const Tensor& q, const Tensor& table) const {
    if (of_.defined()) return gather(matmul(q, table.mT()), -1, pairs(q.size(1)));
    return skewed(matmul(q, window(table, false).mT()), n_, keys_);
  }
  /// k [B, H, K, e] . table[r_ij] -> [B, H, n, K].
  Tensor of_keys(const Tensor& k, const Tensor& table) const {
    if (of_.defined())
      return gather(matmul(k, table.mT()), -1, pairs(k.size(1)).mT().contiguous()).mT();
    Tensors parts;  // as many keys as queries at a time: a product has keys + queries columns
    const int64_t most = std::max<int64_t>(n_, 64);
    for (int64_t first = 0; first < keys_; first += most) {
      Distances d = *this;
      d.keys_ = std::min(most, keys_ - first);
      d.offset_ = offset_ - first;
      parts.push_back(
          skewed(matmul(k.narrow(2, first, d.keys_), d.window(table, true).mT()), d.keys_, n_)
              .mT());
    }
    return parts.size() == 1 ? parts[0] : concat(parts, -1);
  }
  /// sum_j p_ij table[r_ij], p [B, H, n, K] -> [B, H, n, e].
  Tensor summed(const Tensor& p, const Tensor& table) const {
    if (of_.defined()) {
      const Tensor none = zeros({p.size(0), p.size(1), n_, table.size(0)}, p.options());
      return matmul(scatter_add(none, -1, pairs(p.size(1)), p), table);
    }
    return matmul(straightened(p), window(table, false));
  }
  /// table[r_ij]: [1 or B, n, K, width].
  Tensor rows(const Tensor& table) const {
    Tensor d = of_;
    if (!d.defined())
      d = (arange(offset_, offset_ + n_).unsqueeze(1) - arange(keys_).unsqueeze(0)).unsqueeze(0);
    const Tensor at = row(d);
    return index_select(table, 0, at.to(table.device()).reshape({-1}))
        .reshape({at.size(0), n_, keys_, table.size(1)});
  }

 private:
  Tensor row(const Tensor& d) const {
    return directed_ ? clamp(d, -far_, far_) + far_ : clamp(abs(d), 0, far_);
  }
  Tensor pairs(int64_t heads) const {
    return row(of_).unsqueeze(1).expand({of_.size(0), heads, n_, keys_}).contiguous();
  }
  /// The table's rows of distances offset + n - 1 - m, m = 0 .. n + K - 2, or in the other order.
  Tensor window(const Tensor& table, bool ascending) const {
    const int64_t top = offset_ + n_ - 1, bottom = top - (n_ + keys_ - 2);
    const Tensor d = ascending ? arange(bottom, top + 1) : arange(top, bottom - 1, -1);
    return index_select(table, 0, row(d).to(table.device()));
  }
  /// Row a of x [B, H, n, n + K - 1] from column n - 1 - a on: [B, H, n, K], a view.
  static Tensor skewed(const Tensor& x, int64_t n, int64_t keys) {
    if (n < 2) return x;
    const int64_t wide = n + keys - 2;
    return x.flatten(2)
        .narrow(2, n - 1, n * wide)
        .reshape({x.size(0), x.size(1), n, wide})
        .narrow(3, 0, keys);
  }
  /// The inverse: [B, H, n, K] -> [B, H, n, n + K - 1], 0 elsewhere.
  Tensor straightened(const Tensor& p) const {
    if (n_ < 2) return p;
    return pad(pad(p, {0, n_ - 2}).flatten(2), {n_ - 1, 1})
        .reshape({p.size(0), p.size(1), n_, n_ + keys_ - 1});
  }

  int64_t far_;
  bool directed_;
  int64_t n_, keys_, offset_ = 0;
  Tensor of_;
};

RelativePositionAttention::RelativePositionAttention(const RelativePositionAttentionOptions& o)
    : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, "none", o.dropout);
  if (o.method == "relative_key") options_.method = "shaw";
  if (o.method == "relative_key_query") options_.method = "m4";
  const std::string& m = options_.method;
  DROPIN_CHECK(m == "shaw" || m == "m1" || m == "m2" || m == "m3" || m == "m4", OptionError, who(),
               ": method is \"", o.method,
               "\", expected shaw, m1, m2, m3, m4, relative_key or relative_key_query");
  DROPIN_CHECK(o.max_position >= 1, OptionError, who(), ": max_position is ", o.max_position,
               ", expected at least 1");
  add_projections(o.embed_dim, o.bias, o.bias);
  const int64_t all = 2 * o.max_position - 1, dh = o.embed_dim / o.num_heads;
  const Tensor table = m == "m1"   ? ones({o.max_position, 1})
                       : m == "m2" ? ones({all, 1})
                       : m == "m3" ? ones({all, dh})
                                   : init::normal({all, dh}, 0.02);
  distance_ = &child<Parameters>("distance_embedding").as()->add("weight", table);
  values_ =
      o.value_embedding
          ? &child<Parameters>("value_embedding").as()->add("weight", init::normal({all, dh}, 0.02))
          : nullptr;
}

Tensor RelativePositionAttention::scores(const std::string& m, const Tensor& q, const Tensor& k,
                                         const Tensor& table, const Distances& d) {
  if (m == "m3") {  // [B, H, n, K, e] by [B, H, K, e]
    const Tensor turned = q.unsqueeze(3) * d.rows(table).unsqueeze(1);
    return sum(turned * k.unsqueeze(2), {-1});
  }
  const Tensor s = matmul(q, k.mT());
  if (m == "m1" || m == "m2")
    return s * d.undirected(m == "m1").rows(table).squeeze(-1).unsqueeze(1);
  const Tensor with_q = s + d.of_queries(q, table);
  return m == "m4" ? with_q + d.of_keys(k, table) : with_q;
}

Tensor RelativePositionAttention::mix(const Tensor& q, const Tensor& k, const Tensor& v,
                                      const Distances& d, const SequenceArgs& args) const {
  const int64_t n = q.size(2), keys = k.size(2);
  if (n == 0 || keys == 0) return q;
  const bool added = args.attn_mask.defined() && args.attn_mask.dtype() != kBool;
  const Tensors inputs{
      q, k, v, *distance_, values_ ? *values_ : Tensor(), added ? args.attn_mask : Tensor()};
  const int64_t pair = options_.method == "m3" ? q.size(3) : 2;
  return detail::in_query_parts(
      n, q.size(0) * q.size(1) * keys * pair, inputs,
      [d, args, keys, o = options_, training = is_training()](const Tensors& in,
                                                              const detail::QueryPart& part) {
        const Tensor queries = in[0].narrow(2, part.first, part.count);
        const Distances here = d.part(part);
        const Tensor s = scores(o.method, queries, in[1], in[3], here) *
                         (1 / std::sqrt(static_cast<double>(queries.size(3))));
        const Tensor forbidden =
            detail::forbidden_pairs(args, o.causal, part, keys, queries.device());
        const Tensor p =
            dropout(masked_softmax(detail::with_mask_added(s, detail::rows_of_mask(in[5], part)),
                                   forbidden),
                    o.dropout, training);
        const Tensor z = weighted_values(p, in[2], forbidden.defined());
        return in[4].defined() ? z + here.summed(p, in[4]) : z;
      });
}

AttentionParams RelativePositionAttention::params(const SequenceArgs& args) const {
  const auto& o = options_;
  AttentionParams p;
  p.causal = o.causal;
  p.key_padding_mask = args.key_padding_mask;
  p.attn_mask = args.attn_mask;
  p.dropout_p = is_training() ? o.dropout : 0;
  p.relative_middle = o.max_position - 1;
  if (values_) p.relative_values = *values_;
  const Tensor& a = *distance_;
  if (o.method == "m1") {  // the same both ways
    const Tensor back = flip(a.narrow(0, 1, o.max_position - 1), {0});
    p.relative_factors = concat({back, a}, 0).squeeze(-1);
  } else if (o.method == "m2") {
    p.relative_factors = a.squeeze(-1);
  } else {
    p.relative = a;
    p.relative_of_keys = o.method == "m4";
  }
  return p;
}

Tensor RelativePositionAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const int64_t l = x.size(1);
  detail::check_attn_mask(who(), args.attn_mask, x.size(0), o.num_heads, l, l);
  auto heads = [&](const Child<Linear>& proj) { return split_heads(proj(x), o.num_heads); };
  const Tensor q = heads(q_proj_),
               k = detail::without_padding(heads(k_proj_), args.key_padding_mask),
               v = detail::without_padding(heads(v_proj_), args.key_padding_mask);
  if (o.method != "m3")  // whose scores are no products of matrices
    if (const AttentionParams p = params(args); attention_is_tiled(q, k, v, p))
      return out_proj_(merge_heads(attention(q, k, v, p)));
  return out_proj_(merge_heads(mix(q, k, v, Distances(o.max_position, true, l, l, 0), args)));
}

Box<SequenceState> RelativePositionAttention::init_state(int64_t batch, int64_t max_len,
                                                         const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  detail::check_state_sizes(who(), batch, max_len, options);
  return Box<KeyValueState>(new KeyValueState(
      batch, max_len, o.num_heads, max_len, o.embed_dim / o.num_heads, parameters()[0].options()));
}

Tensor RelativePositionAttention::step(const Tensor& x_t, SequenceState& state,
                                       const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<KeyValueState>(who(), state);
  const detail::StepTokens tokens =
      s.check_step(who(), x_t, args, {.width = o.embed_dim, .causal = o.causal, .positions = true},
                   o.num_heads, o.embed_dim / o.num_heads);
  no_grad guard;
  auto heads = [&](const Child<Linear>& proj) {
    return tokens.packed(split_heads(proj(x_t), o.num_heads), 2);
  };
  const Tensor q = heads(q_proj_), k = heads(k_proj_), v = heads(v_proj_);
  const Tensor y =
      detail::step_rows(s.rows, tokens, q.sizes(), 2, q.options(), [&](const detail::RowRun& run) {
        const int64_t t = s.length_of(run), held = t + run.fresh;
        Distances d(o.max_position, true, run.fresh, held, t);
        if (s.append_positions(run, tokens)) {
          const Tensor at = run.of(s.positions);
          d = Distances(
              o.max_position, true,
              at.narrow(1, t, run.fresh).unsqueeze(2) - at.narrow(1, 0, held).unsqueeze(1));
        }
        const auto [keys, values] = s.append(run, run.fresh_of(k, 2), run.fresh_of(v, 2));
        return mix(run.fresh_of(q, 2), keys, values, d, {});
      });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

}  // namespace dropin
