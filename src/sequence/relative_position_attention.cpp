#include "dropin/sequence/relative_position_attention.h"

#include <cmath>

#include "dropin/module/init.h"
#include "dropin/module/parameters.h"
#include "dropin/ops/masked.h"

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
    return skewed(matmul(k, window(table, true).mT()), keys_, n_).mT();
  }
  /// sum_j p_ij table[r_ij], p [B, H, n, K] -> [B, H, n, e].
  Tensor summed(const Tensor& p, const Tensor& table) const {
    if (of_.defined()) {
      const Tensor none = zeros({p.size(0), p.size(1), n_, table.size(0)}, p.options());
      return matmul(scatter_add(none, -1, pairs(p.size(1)), p), table);
    }
    return matmul(straightened(p), window(table, false));
  }
  /// table[r_ij] of queries [first, first + count): [1 or B, count, K, width].
  Tensor rows(const Tensor& table, int64_t first, int64_t count) const {
    Tensor d = of_;
    if (!d.defined())
      d = (arange(offset_, offset_ + n_).unsqueeze(1) - arange(keys_).unsqueeze(0)).unsqueeze(0);
    const Tensor at = row(d.narrow(1, first, count));
    return index_select(table, 0, at.to(table.device()).reshape({-1}))
        .reshape({at.size(0), count, keys_, table.size(1)});
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

namespace {
// sum_d q_id k_jd a_ijd, a few queries at a time, each computed again in backward.
Tensor threefold(const Tensor& q, const Tensor& k,
                 const std::function<Tensor(const Tensor&, int64_t, int64_t)>& rows_of,
                 const Tensor& table) {
  const int64_t n = q.size(2),
                one = std::max<int64_t>(1, q.size(0) * q.size(1) * k.size(2) * q.size(3)),
                chunk = std::clamp<int64_t>((int64_t{1} << 22) / one, 1, std::max<int64_t>(n, 1));
  Tensors out;
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t count = std::min(chunk, n - first);
    auto scores = [=](const Tensors& in) -> Tensors {  // [B, H, count, K, e] by [B, H, K, e]
      const Tensor turned = in[0].unsqueeze(3) * rows_of(in[2], first, count).unsqueeze(1);
      return {sum(turned * in[1].unsqueeze(2), {-1})};
    };
    const Tensors in{q.narrow(2, first, count), k, table};
    out.push_back(chunk < n && grad_enabled() ? checkpoint(scores, in)[0] : scores(in)[0]);
  }
  return out.size() == 1 ? out[0] : concat(out, 2);
}
}  // namespace

Tensor RelativePositionAttention::scores(const Tensor& q, const Tensor& k,
                                         const Distances& d) const {
  const std::string& m = options_.method;
  if (m == "m3")
    return threefold(
        q, k,
        [d](const Tensor& table, int64_t first, int64_t count) {
          return d.rows(table, first, count);
        },
        *distance_);
  const Tensor s = matmul(q, k.mT());
  if (m == "m1" || m == "m2")
    return s * d.undirected(m == "m1").rows(*distance_, 0, q.size(2)).squeeze(-1).unsqueeze(1);
  const Tensor with_q = s + d.of_queries(q, *distance_);
  return m == "m4" ? with_q + d.of_keys(k, *distance_) : with_q;
}

Tensor RelativePositionAttention::mix(const Tensor& q, const Tensor& k, const Tensor& v,
                                      const Distances& d, const Tensor& forbidden,
                                      const Tensor& added) const {
  if (q.size(2) == 0 || k.size(2) == 0) return q;
  const Tensor s = scores(q, k, d) * (1 / std::sqrt(static_cast<double>(q.size(3))));
  const Tensor p = dropout(masked_softmax(detail::with_mask_added(s, added), forbidden),
                           options_.dropout, is_training());
  const Tensor z = weighted_values(p, v, forbidden.defined());
  return values_ ? z + d.summed(p, *values_) : z;
}

Tensor RelativePositionAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const int64_t l = x.size(1);
  detail::check_attn_mask(who(), args.attn_mask, x.size(0), o.num_heads, l, l);
  auto heads = [&](const Child<Linear>& proj) { return split_heads(proj(x), o.num_heads); };
  return out_proj_(merge_heads(
      mix(heads(q_proj_), detail::without_padding(heads(k_proj_), args.key_padding_mask),
          detail::without_padding(heads(v_proj_), args.key_padding_mask),
          Distances(o.max_position, true, l, l, 0),
          detail::forbidden_pairs(args, o.causal, l, l, x.device()), args.attn_mask)));
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
        return mix(run.fresh_of(q, 2), keys, values, d,
                   detail::forbidden_pairs({}, true, run.fresh, held, q.device()), {});
      });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

}  // namespace dropin
