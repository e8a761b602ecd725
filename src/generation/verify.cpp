#include "generation/verify.h"

#include <cmath>

namespace dropin {

namespace {

constexpr const char* kVerify = "verify_draft_tree";

// A walk over the nodes whose tokens the base says itself, by `next` of a node.
template <class Next>
Verified walk(const DraftTree& tree, const std::vector<int64_t>& tokens, Next&& next) {
  Verified r;
  for (int64_t node = 0; node >= 0;) {
    r.path.push_back(node);
    r.next_token = next(node);
    int64_t child = -1;
    for (int64_t c = node + 1; c < tree.size() && child < 0; ++c)
      if (tree.parent[at(c)] == node && tokens[at(c)] == r.next_token) child = c;
    node = child;
  }
  return r;
}

// Each node's log-probability of its token where the node is good, NaN where it is not.
std::vector<double> good_nodes(const DraftTree& tree, const std::vector<int64_t>& tokens,
                               const std::vector<double>& lp, int64_t vocab,
                               const VerifyOptions& o) {
  std::vector<double> limit(tree.parent.size()), r(tree.parent.size(), std::nan(""));
  for (int64_t i = 0; i < tree.size(); ++i) {
    double entropy = 0;
    for (int64_t k = 0; k < vocab; ++k) {
      const double p = std::exp(lp[at(i * vocab + k)]);
      entropy -= p * std::log(p + 1e-5);
    }
    limit[at(i)] = std::min(o.posterior_threshold, o.posterior_alpha * std::exp(-entropy));
  }
  for (int64_t i = 1; i < tree.size(); ++i) {
    const int64_t up = tree.parent[at(i)];
    const double x = lp[at(up * vocab + tokens[at(i)])];
    if (std::exp(x) > limit[at(up)]) r[at(i)] = x;
  }
  return r;
}

Verified typical(const DraftTree& tree, const std::vector<int64_t>& tokens,
                 const std::vector<double>& lp, int64_t vocab, const VerifyOptions& o) {
  const std::vector<double> good = good_nodes(tree, tokens, lp, vocab, o);
  Verified best{{0}, -1};
  double most = -kernels::kInf<double>;
  for (const auto& path : tree.paths) {
    std::size_t n = 1;
    double sum = 0;
    for (; n < path.size() && !std::isnan(good[at(path[n])]); ++n) sum += good[at(path[n])];
    if (n == 1 || n < best.path.size() || (n == best.path.size() && sum <= most)) continue;
    best.path.assign(path.begin(), path.begin() + static_cast<std::ptrdiff_t>(n));
    most = sum;
  }
  best.next_token = generation::best_index(lp.data() + best.path.back() * vocab, vocab);
  return best;
}

}  // namespace

Verified generation::verify_rows(const DraftTree& tree, const std::vector<int64_t>& tokens,
                                 std::vector<double> z, int64_t vocab, const VerifyOptions& o,
                                 const std::function<double(int64_t)>& uniform) {
  if (o.acceptance == "greedy")
    return walk(tree, tokens, [&](int64_t i) { return best_index(z.data() + i * vocab, vocab); });
  for (double& x : z) x /= o.temperature;
  if (o.acceptance == "sample")
    return walk(tree, tokens, [&](int64_t i) {
      return draw(z.data() + i * vocab, vocab, uniform(tree.depth[at(i)]));
    });
  for (int64_t i = 0; i < tree.size(); ++i) normalize_row(z.data() + i * vocab, vocab);
  return typical(tree, tokens, z, vocab, o);
}

namespace {

std::vector<int64_t> checked_tokens(const DraftTree& tree, const Tensor& tokens,
                                    const Tensor& logits) {
  DROPIN_CHECK(tokens.dtype() == kInt64 && is_floating(logits.dtype()), DTypeError, kVerify,
               ": tokens are ", tokens.dtype(), " and logits ", logits.dtype(),
               ", expected int64 and floats");
  DROPIN_CHECK(tokens.sizes() == Shape{tree.size()}, ShapeError, kVerify, ": tokens are ",
               tokens.sizes(), ", expected [", tree.size(), "], one for each node");
  DROPIN_CHECK(logits.dim() == 2 && logits.size(0) == tree.size() && logits.size(1) > 0, ShapeError,
               kVerify, ": logits are ", logits.sizes(), ", expected [", tree.size(), ", V]");
  std::vector<int64_t> ids = tokens.to_vector<int64_t>();
  for (const int64_t t : ids)
    DROPIN_CHECK(t >= 0 && t < logits.size(1), IndexError, kVerify, ": tokens hold ", t,
                 ", expected 0 to ", logits.size(1) - 1);
  return ids;
}

std::vector<double> checked_uniforms(const DraftTree& tree, const VerifyOptions& o,
                                     const Tensor& uniforms) {
  if (o.acceptance != "sample") return {};
  DROPIN_CHECK(uniforms.defined(), StateError, kVerify, ": acceptance sample needs uniforms");
  DROPIN_CHECK(
      uniforms.dim() == 1 && is_floating(uniforms.dtype()) && uniforms.size(0) > tree.max_depth(),
      ShapeError, kVerify, ": uniforms are ", uniforms.dtype(), " ", uniforms.sizes(),
      ", expected floats [", tree.max_depth() + 1, "]");
  std::vector<double> u = uniforms.to_vector();
  for (const double x : u)
    DROPIN_CHECK(x >= 0 && x < 1, OptionError, kVerify, ": uniforms hold ", x,
                 ", expected numbers in [0, 1)");
  return u;
}

}  // namespace

Verified verify_draft_tree(const DraftTree& tree, const Tensor& tokens, const Tensor& logits,
                           const VerifyOptions& o, const Tensor& uniforms,
                           const ProcessLogits& process_logits) {
  generation::check_acceptance(kVerify, o);
  const std::vector<int64_t> ids = checked_tokens(tree, tokens, logits);
  const std::vector<double> u = checked_uniforms(tree, o, uniforms);
  const int64_t vocab = logits.size(1);
  std::vector<double> z = logits.detach().to_vector();
  for (int64_t i = 0; i < tree.size(); ++i) {
    for (int64_t k = 0; k < vocab; ++k) {
      const double x = z[at(i * vocab + k)];
      DROPIN_CHECK(!std::isnan(x) && x != kernels::kInf<double>, OptionError, kVerify,
                   ": logits of node ", i, " hold ", x, ", expected finite numbers or -inf");
    }
    if (!process_logits) continue;
    std::vector<int64_t> path;
    for (int64_t k = i; k >= 0; k = tree.parent[at(k)]) path.insert(path.begin(), ids[at(k)]);
    process_logits(tree.depth[at(i)], path, z.data() + i * vocab);
  }
  return generation::verify_rows(tree, ids, std::move(z), vocab, o,
                                 [&u](int64_t k) { return u[at(k)]; });
}

}  // namespace dropin
