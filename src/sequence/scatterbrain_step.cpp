// ScatterbrainAttention::step(): the low-rank part is a sum over the keys that grows.
#include <algorithm>
#include <limits>

#include "dropin/sequence/scatterbrain_attention.h"
#include "sequence/scatterbrain.h"

namespace dropin {

// Keys and values, and sums over each entry's first `counted` keys: phi(k) (v, 1), relative to
// e^scale.
struct ScatterbrainAttention::State : KeyValueState {
  using KeyValueState::KeyValueState;
  Tensor sums, scale;  ///< [B, H, 2r, e + 1], [B, H, 1, 1]
  std::vector<detail::StateRow> counted;
  void parts(auto&& f) {
    KeyValueState::parts(f);
    f(sums);
    f(scale);
    f(counted);
  }
  /// Forgets the sums of a run.
  void reset(const detail::RowRun& run) {
    run.of(sums).zero_();
    run.of(scale).fill_(-std::numeric_limits<double>::infinity());
  }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
};

namespace {
constexpr int64_t kChunk = 64;  // tokens that are added at a time

Tensor with_ones(const Tensor& v) {
  return concat({v, ones({v.size(0), v.size(1), v.size(2), 1}, v.options())}, -1);
}
}  // namespace

Box<SequenceState> ScatterbrainAttention::init_state(int64_t batch, int64_t max_len,
                                                     const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(causal(), OptionError, who(),
               ": step() needs causal = true and sparse = \"local\"; clusters depend on the whole "
               "sequence");
  detail::check_state_sizes(who(), batch, max_len, options);
  const int64_t h = o.num_heads, e = o.embed_dim / h;
  const TensorOptions like = parameters()[0].options();
  auto s = Box<State>(new State(batch, max_len, h, max_len, e, like));
  s->sums = zeros({batch, h, 2 * projection_->size(0), e + 1}, like);
  s->scale = full({batch, h, 1, 1}, -std::numeric_limits<double>::infinity(), like);
  s->counted = s->rows;
  return s;
}

Tensor ScatterbrainAttention::add_keys(State& s, const detail::RowRun& run, const Tensor& log_k,
                                       const Tensor& values, const Tensor& phi_q) const {
  const Tensor before = run.of(s.scale),
               top = maximum(before, scatterbrain::scale_of(log_k, {-2, -1})),
               sums = run.of(s.sums) * exp(before - top), phi = exp(log_k - top);
  Tensor y;
  if (phi_q.defined()) y = matmul(phi_q, sums) + scatterbrain::low_rank(phi_q, phi, values, true);
  run.of(s.sums).copy_(sums + matmul(phi.mT(), values));
  run.of(s.scale).copy_(top);
  return y;
}

void ScatterbrainAttention::recount(State& s, const detail::RowRun& run) const {
  const int64_t t = s.length_of(run);
  s.reset(run);
  for (int64_t first = 0; first < t; first += kChunk) {
    const int64_t n = std::min(kChunk, t - first);
    add_keys(s, run, log_features(run.of(s.keys).narrow(2, first, n)),
             with_ones(run.of(s.values).narrow(2, first, n)), {});
  }
}

Tensor ScatterbrainAttention::step_chunk(State& s, const detail::RowRun& run, const Tensor& q,
                                         const Tensor& k, const Tensor& v) const {
  const auto& o = options_;
  const double inf = std::numeric_limits<double>::infinity();
  const int64_t t = s.length_of(run), n = q.size(2), near = std::min(t, o.local_context / 2),
                first = t - near, e = v.size(3);
  const auto [keys, held] = s.append(run, k, v);
  const Tensor log_k = log_features(keys.narrow(2, first, near + n)), log_q = log_features(q),
               scale_q = scatterbrain::scale_of(log_q, {-1}), phi_q = exp(log_q - scale_q);
  const Tensor values = with_ones(held.narrow(2, first, near + n)),
               all = add_keys(s, run, log_k.narrow(2, near, n), values.narrow(2, near, n), phi_q),
               scale_k = run.of(s.scale);
  const Tensor i = arange(near, near + n).unsqueeze(1), j = arange(near + n).unsqueeze(0);
  const Tensor hidden =
      logical_or(j > i, logical_or(j < i - o.local_context / 2, j >= i + (o.local_context + 1) / 2))
          .to(q.device());
  const Tensor scores =
      masked_fill(matmul(q * temperature(), keys.narrow(2, first, near + n).mT()), hidden, -inf);
  const Tensor reference = maximum(scale_q + scale_k, amax(scores, {-1}, true)),
               estimated = exp(scale_q + scale_k - reference);
  const Tensor exact = dropout(exp(scores - reference), o.dropout, is_training()),
               share = masked_fill(matmul(phi_q * estimated, exp(log_k - scale_k).mT()), hidden, 0);
  const Tensor total = all * estimated + matmul(exact - share, values);
  return total.narrow(-1, 0, e) / clamp(total.narrow(-1, e, 1), 1e-24, inf);
}

Tensor ScatterbrainAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens =
      s.check_step(who(), x_t, args, {.width = o.embed_dim, .causal = causal()}, o.num_heads,
                   o.embed_dim / o.num_heads);
  no_grad guard;
  auto heads = [&](const Child<Linear>& proj) {
    return tokens.packed(split_heads(proj(x_t), o.num_heads), 2);
  };
  const Tensor q = heads(q_proj_), k = heads(k_proj_), v = heads(v_proj_);
  const Tensor y =
      detail::step_rows(s.rows, tokens, q.sizes(), 2, q.options(), [&](const detail::RowRun& run) {
        auto rows_of = [&](auto f) {
          for (int64_t b = run.begin; b < run.begin + run.rows; ++b)
            f(s.counted[static_cast<std::size_t>(b)]);
        };
        bool stale = false;  // some tokens were taken back
        rows_of([&](const detail::StateRow& r) { stale |= r.length != s.length_of(run); });
        if (stale) recount(s, run);
        Tensors out;
        for (int64_t done = 0; done < run.fresh; done += kChunk) {
          auto own = [&](const Tensor& x) {
            return run.of(x).narrow(2, done, std::min(kChunk, run.fresh - done));
          };
          out.push_back(step_chunk(s, run, own(q), own(k), own(v)));
        }
        rows_of([&](detail::StateRow& r) { r.length = s.length_of(run); });
        return out.size() == 1 ? out[0] : concat(out, 2);
      });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

}  // namespace dropin
