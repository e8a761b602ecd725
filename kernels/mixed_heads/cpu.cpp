// A task takes 24 queries of all heads: a strip of tiles along the keys they see holds their
// probabilities, which is what mixing after the softmax needs, since it couples the heads. Memory
// is 24 x H x Lk a thread. Pass one: scores, mixed, and the greatest of each row; then exponentials
// and sums; then the second mixing and the values.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/mixed_heads/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include "dropin/core/parallel.h"
#include "kernels/mixed_heads/mixed-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

// acc += the strip's weights, mixed again, times the values; acc [H, 24, Dv rounded up].
void weigh_values(const MixedProblem& p, const MixedKeys& keys, const Strip& s, float* acc) {
  const int64_t dvp = whole_vectors(p.value_width);
  for (int64_t block = s.first; block < s.last; ++block) {
    mix(mixing_of(p, 1, s.of_queries, keys.factors + block * 2 * p.factors() * kMixedKeys), s.m,
        s.p + (block - s.first) * p.tile(), s.spare);
    const bool partial = p.partial(s.b, s.i0, s.m, block);
    if (partial) hide(p, s.b, s.i0, s.m, block, 0, s.spare);  // 0 times a NaN of a hidden key
    for (int64_t h = 0; h < p.heads; ++h)
      masked_product(partial && !keys.finite[at(h * p.blocks() + block)], s.m, dvp, kMixedKeys,
                     s.spare + h * kHeadStep, kMixedKeys, 1,
                     keys.values + (h * p.blocks() + block) * kMixedKeys * dvp, dvp,
                     acc + h * kMixedQueries * dvp, dvp, true);
  }
}

void MixedForward(const MixedProblem& p) {
  const int64_t d = p.width, dp = whole_vectors(d), dvp = whole_vectors(p.value_width),
                rows = p.heads * kMixedQueries, tiles = ceil_div(p.queries, kMixedQueries);
  cpu::Scratch<float> none(kMixedQueries * 2 * p.factors());
  std::fill_n(none.data(), kMixedQueries * 2 * p.factors(), 0.0f);
  MixedKeys keys;
  for (int64_t b = 0; b < p.batch; ++b) {
    pack_keys(p, b, false, keys);
    parallel_for(tiles, 1, [&](int64_t begin, int64_t end) {
      cpu::Scratch<float> work((p.blocks() + 1) * p.tile() + rows * (dp + dvp));
      float *strip = work.data(), *spare = strip + p.blocks() * p.tile(), *q = spare + p.tile(),
            *acc = q + rows * dp;
      for (int64_t u = begin; u < end; ++u) {
        // the long rows of a causal problem first
        const int64_t i0 = (p.spec.right == INT64_MAX ? u : tiles - 1 - u) * kMixedQueries,
                      m = std::min(kMixedQueries, p.queries - i0);
        int64_t from, to;
        p.key_range(i0, i0 + m, from, to);
        const Strip s{b,
                      i0,
                      m,
                      from / kMixedKeys,
                      ceil_div(to, kMixedKeys),
                      query_factors(p, b, i0, none),
                      nullptr,
                      strip,
                      spare};
        pack_heads(p.q, p.heads, b, i0, m, d, static_cast<float>(p.spec.scale), q, dp);
        probabilities(p, keys, s, q);
        std::fill_n(acc, rows * dvp, 0.0f);
        weigh_values(p, keys, s, acc);
        for (int64_t h = 0; h < p.heads; ++h)
          for (int64_t t = 0; t < m; ++t)
            std::copy_n(acc + (h * kMixedQueries + t) * dvp, p.value_width,
                        p.row(p.o, b, h, i0 + t));
      }
    });
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
namespace {

HWY_EXPORT(MixedForward);

abi::Status unpack_mixed(MixedProblem& p, const MixedHeadsInputs& in, const MixedHeadsSpec& spec) {
  const abi::TensorIn &q = in.q, &k = in.k, &v = in.v;
  if (!are_heads({&q, &k, &v})) return abi::unsupported(kHeads);
  if (k.sizes[1] != q.sizes[1] || spec.rank < 1 || spec.rank > kMixedRanks)
    return abi::unsupported("as many key heads as query heads, ranks from 1 to 8");
  for (const abi::TensorIn* t : {&in.of_queries, &in.of_keys, &in.fixed})
    if (t->data && (t->dtype != DType::Float32 || !t->contiguous()))
      return abi::unsupported("factors of contiguous float32");
  static_cast<MixedHeadsInputs&>(p) = in;
  p.spec = spec;
  p.batch = q.sizes[0], p.heads = q.sizes[1], p.queries = q.sizes[2], p.keys = k.sizes[2],
  p.width = q.sizes[3], p.value_width = v.sizes[3];
  return abi::ok();
}

abi::Status mixed_forward(const abi::KernelContext&, const MixedHeadsInputs& in,
                          const MixedHeadsSpec& spec, const abi::TensorOut& o) {
  MixedProblem p;
  if (abi::Status s = unpack_mixed(p, in, spec); s.code) return s;
  p.o = o;
  if (o.numel() > 0) HWY_DYNAMIC_DISPATCH(MixedForward)(p);
  return abi::ok();
}

abi::Status mixed_backward(const abi::KernelContext&, const abi::TensorIn& go,
                           const MixedHeadsInputs& in, const MixedHeadsSpec& spec,
                           const MixedHeadsGradients& out) {
  MixedProblem p;
  if (abi::Status s = unpack_mixed(p, in, spec); s.code) return s;
  p.go = go;
  p.grad = out;
  mixed_heads_gradients(p);
  return abi::ok();
}

}  // namespace

void provide_mixed_heads_cpu(abi::KernelTable& t) {
  t.provide<mixed_heads_forward>(&mixed_forward);
  t.provide<mixed_heads_backward>(&mixed_backward);
}

}  // namespace dropin::kernels
#endif  // HWY_ONCE
