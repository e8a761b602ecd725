// The tiled attention kernels' way in: what they share is in tiled.h, each element type has a file
// of its own.
#include "kernels/attention/kernel.h"
#include "kernels/attention/tiled.h"

namespace dropin::kernels::cuda {
namespace attention {
#define X(NAME)                                                            \
  Status forward_##NAME(const KernelContext&, const Job&, unsigned tiles); \
  Status backward_##NAME(const KernelContext&, const Job&, unsigned, unsigned);
X(f32) X(bf16) X(f16)
#undef X
}  // namespace attention

namespace {

using attention::Array;
using attention::Job;

Array array(const TensorIn& t) {
  return {const_cast<void*>(t.data), t.strides[0], t.strides[1], t.strides[2]};
}
attention::Mask mask(const TensorIn& t) {
  return {t.data, t.strides[0], t.strides[1], t.strides[2], t.strides[3]};
}

Status describe(const AttentionInputs& in, const AttentionSpec& spec, Job& p) {
  const TensorIn &q = in.q, &k = in.k, &v = in.v;
  DROPIN_REQUIRE(
      q.ndim == 4 && k.ndim == 4 && v.ndim == 4 && q.dtype == k.dtype && q.dtype == v.dtype,
      "q, k and v must have 4 dimensions and one type");
  if (in.table.data || in.value_table.data || in.factors.data || in.grid.data)
    return abi::unsupported("learned distances, or places on a grid");
  if (q.sizes[3] > 128 || v.sizes[3] > 128) return abi::unsupported("heads wider than 128");
  p.q = array(q), p.k = array(k), p.v = array(v);
  p.slopes = in.slopes.as<float>(), p.key_mask = in.key_mask.as<bool>();
  p.forbidden = mask(in.forbidden), p.added = mask(in.added);
  p.B = q.sizes[0], p.H = q.sizes[1], p.Lq = q.sizes[2], p.D = q.sizes[3], p.Hk = k.sizes[1],
  p.Lk = k.sizes[2], p.Dv = v.sizes[3];
  p.segment = spec.segment, p.offset = spec.offset, p.alibi_offset = spec.alibi_offset;
  auto near = [](int64_t v) {
    return static_cast<int>(v < -attention::kFar  ? -attention::kFar
                            : v > attention::kFar ? attention::kFar
                                                  : v);
  };
  p.left = near(spec.left), p.right = near(spec.right);
  p.scale = static_cast<float>(spec.scale), p.bias = static_cast<float>(spec.bias);
  p.sigmoid = spec.kind == ScoreKind::Sigmoid, p.accumulate = spec.accumulate,
  p.own_mean = spec.own_mean;
  DROPIN_REQUIRE(p.B * p.H <= 65535, "too many heads for one launch");
  return abi::ok();
}

/// The greatest number of row tiles that a head has.
unsigned tiles_of(const AttentionSpec& spec, int64_t heads, int64_t rows) {
  if (!spec.step) return blocks_exactly(rows, attention::kRows);
  const int64_t length = spec.segment > 0 && spec.segment < rows ? spec.segment : rows,
                segments = length ? ceil_div(rows, length) : 0;
  int64_t most = 0;
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t each = ceil_div(ceil_div(length, spec.step[h]), attention::kRows);
    const int64_t n = each * (spec.first && spec.first[h] >= 0 ? 1 : spec.step[h]) * segments;
    most = n > most ? n : most;
  }
  return static_cast<unsigned>(most);
}

struct Strands {
  Scratch<int64_t> memory;
  Strands(const KernelContext& c, const AttentionSpec& spec, int64_t heads)
      : memory(c, spec.step ? 2 * heads : 0) {}
  Status take(const KernelContext& c, const AttentionSpec& spec, int64_t heads, Job& p) {
    p.step = p.first = nullptr;
    if (!spec.step) return abi::ok();
    if (!memory.ok()) return abi::out_of_memory("no device memory for the strands");
    DROPIN_TRY(upload(c, memory.get(), spec.step, heads * static_cast<int64_t>(sizeof(int64_t))));
    p.step = memory.get();
    if (spec.first) {
      DROPIN_TRY(upload(c, memory.get() + heads, spec.first,
                        heads * static_cast<int64_t>(sizeof(int64_t))));
      p.first = memory.get() + heads;
    }
    return abi::ok();
  }
};

Status forward(const KernelContext& c, const AttentionInputs& in, const AttentionSpec& spec,
               const TensorOut& o, const TensorOut& lse, const TensorOut& rest) {
  Job p{};
  DROPIN_TRY(describe(in, spec, p));
  DROPIN_REQUIRE(o.dtype == in.q.dtype, "o must have q's type");
  p.o = array(o), p.lse = lse.as<float>(), p.rest = rest.as<float>();
  if (p.B * p.H * p.Lq == 0) return abi::ok();
  Strands strands(c, spec, p.H);
  DROPIN_TRY(strands.take(c, spec, p.H, p));
  const unsigned tiles = tiles_of(spec, p.H, p.Lq);
  switch (in.q.dtype) {
    case DType::Float32:
      return attention::forward_f32(c, p, tiles);
    case DType::BFloat16:
      return attention::forward_bf16(c, p, tiles);
    case DType::Float16:
      return attention::forward_f16(c, p, tiles);
    default:
      return abi::unsupported("needs float32, bfloat16 or float16");
  }
}

Status backward(const KernelContext& c, const TensorIn& go, const TensorIn& glse,
                const AttentionInputs& in, const AttentionSpec& spec,
                const AttentionResults& results, const AttentionGradients& out) {
  Job p{};
  DROPIN_TRY(describe(in, spec, p));
  for (const TensorIn* t :
       {&go, &results.o, static_cast<const TensorIn*>(&out.q), static_cast<const TensorIn*>(&out.k),
        static_cast<const TensorIn*>(&out.v)})
    DROPIN_REQUIRE(t->dtype == in.q.dtype, "gradients must have q's type");
  p.go = array(go), p.o = array(results.o);
  p.gq = array(out.q), p.gk = array(out.k), p.gv = array(out.v);
  p.lse = const_cast<float*>(results.lse.as<float>()),
  p.rest = const_cast<float*>(results.rest.as<float>()), p.glse = glse.as<float>();
  DROPIN_SCRATCH(float, delta, c, p.B* p.H* p.Lq);
  p.delta = delta.get();
  Strands strands(c, spec, p.H);
  DROPIN_TRY(strands.take(c, spec, p.H, p));
  const unsigned query_tiles = tiles_of(spec, p.H, p.Lq), key_tiles = tiles_of(spec, p.Hk, p.Lk);
  switch (in.q.dtype) {
    case DType::Float32:
      return attention::backward_f32(c, p, query_tiles, key_tiles);
    case DType::BFloat16:
      return attention::backward_bf16(c, p, query_tiles, key_tiles);
    case DType::Float16:
      return attention::backward_f16(c, p, query_tiles, key_tiles);
    default:
      return abi::unsupported("needs float32, bfloat16 or float16");
  }
}

}  // namespace

void provide_attention(KernelTable& t) {
  provide<attention_forward, &forward>(t);
  provide<attention_backward, &backward>(t);
}

}  // namespace dropin::kernels::cuda
