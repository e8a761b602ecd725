// Convolutions by oneDNN: plain arrays to its layouts, the primitive, and back.
#include <memory>
#include <unordered_map>

#include "src/cpu/onednn_primitives.h"
#include "src/cpu/scratch.h"

namespace dropin::cpu::onednn {
namespace {

using dnnl::memory;
using Pass = ConvPass;

dnnl::stream& stream() {
  // A pointer: usable after this thread's destructors have run (a new one is made and stays).
  static thread_local constinit dnnl::stream* s = nullptr;
  static thread_local const struct Reaper {
    ~Reaper() {
      delete s;
      s = nullptr;
    }
  } reaper;
  if (!s) s = new dnnl::stream(engine());
  return *s;
}

memory view(const memory::desc& d, const void* p) {
  return memory(d, engine(), const_cast<void*>(p));
}

Scratch<float> room(const memory::desc& d) {
  return Scratch<float>(static_cast<int64_t>((d.get_size() + 3) / 4));
}

/// `p` in layout `want`: itself, or reordered into `hold`.
memory brought(const dnnl::primitive& how, const memory::desc& plain, const memory::desc& want,
               const float* p, Scratch<float>& hold) {
  if (!how) return view(want, p);
  hold = room(want);
  memory from = view(plain, p), to = view(want, hold.data());
  how.execute(stream(), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  return to;
}

/// Where the primitive writes: the user's array, or `hold`, to be taken out by `take`.
memory target(const dnnl::primitive& how, const memory::desc& want, float* p,
              Scratch<float>& hold) {
  if (!how) return view(want, p);
  hold = room(want);
  return view(want, hold.data());
}
void take(const dnnl::primitive& how, const memory& from, const memory::desc& plain, float* p) {
  if (!how) return;
  memory to = view(plain, p);
  how.execute(stream(), {{DNNL_ARG_FROM, const_cast<memory&>(from)}, {DNNL_ARG_TO, to}});
}

}  // namespace

bool conv_supported(ConvPass pass, const Conv& c) { return primitive_of(pass, c) != nullptr; }

class ConvWeights {
 public:
  const float* plain = nullptr;
  memory::desc desc;
  Scratch<float> data;  // empty: the plain array is in the right layout
  const float* pointer() const { return data.data() ? data.data() : plain; }
};
void destroy(ConvWeights* w) { delete w; }

ConvWeights* prepare_weights(ConvPass pass, const Conv& c, const float* w) {
  const auto e = primitive_of(pass, c);
  if (!e) return nullptr;
  auto out = std::make_unique<ConvWeights>();
  out->plain = w;
  out->desc = e->weights;
  if (e->weights_in) {
    const OneThread one;
    out->data = room(e->weights);
    memory from = view(e->plain_weights, w), to = view(e->weights, out->data.data());
    e->weights_in.execute(stream(), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  }
  return out.release();
}

bool conv_forward(const Conv& c, const ConvWeights& w, const float* x, const float* bias,
                  float* y) {
  const auto e = primitive_of(Pass::Forward, c);
  if (!e) return false;
  const OneThread one;
  Scratch<float> x_hold, w_hold, y_hold, pad = room(e->scratchpad);
  memory src = brought(e->src_in, e->plain_src, e->src, x, x_hold),
         dst = target(e->dst_out, e->dst, y, y_hold), scratchpad = view(e->scratchpad, pad.data());
  memory weights = w.desc == e->weights
                       ? view(e->weights, w.pointer())
                       : brought(e->weights_in, e->plain_weights, e->weights, w.plain, w_hold);
  std::unordered_map<int, memory> args{{DNNL_ARG_SRC, src},
                                       {DNNL_ARG_WEIGHTS, weights},
                                       {DNNL_ARG_DST, dst},
                                       {DNNL_ARG_SCRATCHPAD, scratchpad}};
  if (c.bias) args.emplace(DNNL_ARG_BIAS, view(e->bias, bias));
  e->run.execute(stream(), args);
  take(e->dst_out, dst, e->plain_dst, y);
  return true;
}

bool conv_backward_input(const Conv& c, const ConvWeights& w, const float* gy, float* gx) {
  const auto e = primitive_of(Pass::BackwardInput, c);
  if (!e) return false;
  const OneThread one;
  Scratch<float> gy_hold, w_hold, gx_hold, pad = room(e->scratchpad);
  memory dst = brought(e->dst_in, e->plain_dst, e->dst, gy, gy_hold),
         src = target(e->src_out, e->src, gx, gx_hold),
         scratchpad = view(e->scratchpad, pad.data());
  memory weights = w.desc == e->weights
                       ? view(e->weights, w.pointer())
                       : brought(e->weights_in, e->plain_weights, e->weights, w.plain, w_hold);
  e->run.execute(stream(), {{DNNL_ARG_DIFF_DST, dst},
                            {DNNL_ARG_WEIGHTS, weights},
                            {DNNL_ARG_DIFF_SRC, src},
                            {DNNL_ARG_SCRATCHPAD, scratchpad}});
  take(e->src_out, src, e->plain_src, gx);
  return true;
}

bool conv_backward_weight(const Conv& c, const float* x, const float* gy, float* gw, float* gb) {
  const auto e = primitive_of(Pass::BackwardWeight, c);
  if (!e) return false;
  const OneThread one;
  Scratch<float> x_hold, gy_hold, gw_hold, pad = room(e->scratchpad);
  memory src = brought(e->src_in, e->plain_src, e->src, x, x_hold),
         dst = brought(e->dst_in, e->plain_dst, e->dst, gy, gy_hold);
  memory weights = target(e->weights_out, e->weights, gw, gw_hold),
         scratchpad = view(e->scratchpad, pad.data());
  std::unordered_map<int, memory> args{{DNNL_ARG_SRC, src},
                                       {DNNL_ARG_DIFF_DST, dst},
                                       {DNNL_ARG_DIFF_WEIGHTS, weights},
                                       {DNNL_ARG_SCRATCHPAD, scratchpad}};
  if (c.bias) args.emplace(DNNL_ARG_DIFF_BIAS, view(e->bias, gb));
  e->run.execute(stream(), args);
  take(e->weights_out, weights, e->plain_weights, gw);
  return true;
}

}  // namespace dropin::cpu::onednn
