#include "src/cpu/onednn.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dnnl.hpp>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/core/disabled.h"
#include "src/cpu/scratch.h"

namespace dropin::cpu {
namespace {

std::atomic<int64_t> g_created{0};

bool products_work();

std::atomic<bool>& enabled_flag() {
  static std::atomic<bool> flag{!disabled_by_environment("onednn") && products_work()};
  return flag;
}

// oneDNN keeps code and tables in static objects that end with the program, in reverse order of
// their making. A handler registered after each of them was made runs before it ends: from then on
// our own kernels serve, so that destructors of the user's globals may still run a model.
std::atomic<bool> g_ended{false};
void watch_the_end() {
  std::atexit([] { g_ended.store(true); });
}

// A second oneDNN in the process, as LibTorch brings one, can take the start-up of this one's
// products to itself where it is linked first: the standard library's invoker of call_once has the
// same weak name in both. Then nothing here runs, and our own kernels serve.
bool products_work() {
  float a[64], c[64] = {};
  std::fill(std::begin(a), std::end(a), 1.0f);
  if (onednn::sgemm(false, false, 8, 8, 8, a, 8, a, 8, 0, c, 8) && c[63] == 8) return true;
  std::fputs(
      "dropin: note: another oneDNN is linked before dropin's, which does not run; the library's "
      "own "
      "kernels serve. To have both, link dropin before LibTorch.\n",
      stderr);
  return false;
}

}  // namespace

bool onednn_enabled() {
  return enabled_flag().load(std::memory_order_relaxed) && !g_ended.load(std::memory_order_relaxed);
}
void set_onednn_enabled(bool on) { enabled_flag().store(on); }
int64_t onednn_primitives_created() { return g_created.load(); }

const char* onednn_version() {
  static const auto text = [] {
    struct {
      char s[32];
    } t;
    const dnnl_version_t* v = ::dnnl_version();
    std::snprintf(t.s, sizeof t.s, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return t;
  }();
  return text.s;
}

namespace onednn {
namespace {

using dnnl::memory;

/// The OpenMP runtime that oneDNN itself uses, which need not be the one our compiler would link:
/// looked up beside oneDNN's own symbols.
struct OpenMP {
  int (*get_max_threads)() = nullptr;
  void (*set_num_threads)(int) = nullptr;
  OpenMP() {
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
    void* library = nullptr;
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&::dnnl_sgemm), &info))
      library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    for (void* where : {library, RTLD_DEFAULT}) {
      if (set_num_threads || (!where && where != RTLD_DEFAULT)) continue;
      get_max_threads = reinterpret_cast<int (*)()>(dlsym(where, "omp_get_max_threads"));
      set_num_threads = reinterpret_cast<void (*)(int)>(dlsym(where, "omp_set_num_threads"));
    }
    if (!get_max_threads) set_num_threads = nullptr;
#endif
  }
};

/// In its scope oneDNN uses the calling thread only. The setting belongs to the thread; the user's
/// own is put back.
class OneThread {
 public:
  OneThread() {
    if (omp().set_num_threads && (before_ = omp().get_max_threads()) != 1) omp().set_num_threads(1);
  }
  ~OneThread() {
    if (before_ > 1) omp().set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  static const OpenMP& omp() {
    static const OpenMP o;
    return o;
  }
  int before_ = 1;
};

dnnl::engine& engine() {
  static auto& e = *new dnnl::engine(dnnl::engine::kind::cpu,
                                     0);  // never destroyed: used until the last thread ends
  return e;
}

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

memory::dims image_strides(int64_t c, const int64_t* size, int64_t image) {
  return {image ? image : c * size[0] * size[1], size[0] * size[1], size[1], 1};
}
memory::desc plain_image(int64_t n, int64_t c, const int64_t* size, int64_t image) {
  return memory::desc({n, c, size[0], size[1]}, memory::data_type::f32,
                      image_strides(c, size, image));
}
/// The blocks of channels that the vectors of this machine hold.
memory::format_tag blocked_tag() {
  const unsigned have = static_cast<unsigned>(dnnl::get_effective_cpu_isa()),
                 avx512 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  return (have & avx512) == avx512 ? memory::format_tag::nChw16c : memory::format_tag::nChw8c;
}
memory::desc any_image(int64_t n, int64_t c, const int64_t* size) {
  return memory::desc({n, c, size[0], size[1]}, memory::data_type::f32, memory::format_tag::any);
}
memory::dims weight_dims(const Conv& c) {
  if (c.groups == 1) return {c.out, c.in, c.kernel[0], c.kernel[1]};
  return {c.groups, c.out / c.groups, c.in / c.groups, c.kernel[0], c.kernel[1]};
}
memory::desc plain_weights(const Conv& c) {
  const int64_t kk = c.kernel[0] * c.kernel[1];
  const int64_t o = c.weight_stride ? c.weight_stride : c.in / c.groups * kk;
  memory::dims strides{o, kk, c.kernel[1], 1};
  if (c.groups > 1) strides.insert(strides.begin(), o * (c.out / c.groups));
  return memory::desc(weight_dims(c), memory::data_type::f32, strides);
}

/// What one pass over one set of shapes needs: the primitive, its layouts, and the reorders from
/// and to plain NCHW (null when none is needed).
struct Entry {
  dnnl::primitive run, weights_in, weights_out, src_in, dst_in, src_out,
      dst_out;  // src: the input image, dst: the output image (or its gradient)
  memory::desc src, weights, bias, dst, plain_src, plain_weights, plain_dst, scratchpad;
};

using Pass = ConvPass;

dnnl::primitive reorder(const memory::desc& from, const memory::desc& to) {
  if (from == to) return {};
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::reorder::primitive_desc pd(engine(), from, engine(), to, attr);
  // No reorder asks for a scratchpad in f32; if one ever does, it gets none and the library's own
  // mode is used.
  return pd.scratchpad_desc().get_size() == 0
             ? dnnl::reorder(pd)
             : dnnl::reorder(dnnl::reorder::primitive_desc(engine(), from, engine(), to));
}

template <class PD>
bool is_reference(const PD& pd) {
  return std::strncmp(pd.impl_info_str(), "ref", 3) == 0;
}

/// Null when there is only oneDNN's reference loop.
std::shared_ptr<const Entry> create(Pass pass, const Conv& c) {
  using namespace dnnl;
  auto e = std::make_shared<Entry>();
  const auto f32 = memory::data_type::f32;
  const memory::desc src = any_image(c.batch, c.in, c.size),
                     dst = any_image(c.batch, c.out, c.out_size);
  const memory::desc weights(weight_dims(c), f32, memory::format_tag::any),
      bias({c.out}, f32, memory::format_tag::a);
  const memory::dims strides{c.stride[0], c.stride[1]},
      dilation{c.dilation[0] - 1, c.dilation[1] - 1}, begin{c.pad_begin[0], c.pad_begin[1]},
      end{c.pad_end[0], c.pad_end[1]};
  primitive_attr attr;
  attr.set_scratchpad_mode(scratchpad_mode::user);
  const auto algorithm = dnnl::algorithm::convolution_direct;
  const auto kind =
      pass == Pass::Forward ? prop_kind::forward_inference : prop_kind::forward_training;
#if DNNL_VERSION_MAJOR >= 3
  auto forward = [&](bool with_bias, const memory::desc& src, const memory::desc& dst) {
    return with_bias
               ? convolution_forward::primitive_desc(engine(), kind, algorithm, src, weights, bias,
                                                     dst, strides, dilation, begin, end, attr)
               : convolution_forward::primitive_desc(engine(), kind, algorithm, src, weights, dst,
                                                     strides, dilation, begin, end, attr);
  };
#else
  auto forward = [&](bool with_bias, const memory::desc& src, const memory::desc& dst) {
    return convolution_forward::primitive_desc(
        with_bias ? convolution_forward::desc(kind, algorithm, src, weights, bias, dst, strides,
                                              dilation, begin, end)
                  : convolution_forward::desc(kind, algorithm, src, weights, dst, strides, dilation,
                                              begin, end),
        attr, engine());
  };
#endif
  if (pass == Pass::Forward) {
    const auto pd = [&] {
      // Left to itself oneDNN likes channels last. Where a convolution does little work (depthwise,
      // a few input channels) the reorders to and from that take longer than the convolution; those
      // of blocks of channels are cheap.
      if (c.in == c.groups || c.in <= 4) {
        const auto tag = blocked_tag();
        const memory::desc blocked_dst({c.batch, c.out, c.out_size[0], c.out_size[1]}, f32, tag);
        const memory::desc blocked_src({c.batch, c.in, c.size[0], c.size[1]}, f32,
                                       c.in > 4 ? tag : memory::format_tag::nchw);
        try {
          auto blocked = forward(c.bias, blocked_src, blocked_dst);
          if (std::strncmp(blocked.impl_info_str(), "jit", 3) == 0) return blocked;
        } catch (const error&) {
        }
      }
      return forward(c.bias, src, dst);
    }();
    if (is_reference(pd)) return nullptr;
    e->src = pd.src_desc(), e->weights = pd.weights_desc(), e->dst = pd.dst_desc(),
    e->scratchpad = pd.scratchpad_desc();
    e->run = convolution_forward(pd);
  } else if (pass == Pass::BackwardInput) {
    const auto hint = forward(false, src, dst);
#if DNNL_VERSION_MAJOR >= 3
    const convolution_backward_data::primitive_desc pd(engine(), algorithm, src, weights, dst,
                                                       strides, dilation, begin, end, hint, attr);
#else
    const convolution_backward_data::primitive_desc pd(
        convolution_backward_data::desc(algorithm, src, weights, dst, strides, dilation, begin,
                                        end),
        attr, engine(), hint);
#endif
    if (is_reference(pd)) return nullptr;
    e->src = pd.diff_src_desc(), e->weights = pd.weights_desc(), e->dst = pd.diff_dst_desc(),
    e->scratchpad = pd.scratchpad_desc();
    e->run = convolution_backward_data(pd);
  } else {
    const auto hint = forward(c.bias, src, dst);
#if DNNL_VERSION_MAJOR >= 3
    const auto pd = c.bias ? convolution_backward_weights::primitive_desc(
                                 engine(), algorithm, src, weights, bias, dst, strides, dilation,
                                 begin, end, hint, attr)
                           : convolution_backward_weights::primitive_desc(
                                 engine(), algorithm, src, weights, dst, strides, dilation, begin,
                                 end, hint, attr);
#else
    const convolution_backward_weights::primitive_desc pd(
        c.bias ? convolution_backward_weights::desc(algorithm, src, weights, bias, dst, strides,
                                                    dilation, begin, end)
               : convolution_backward_weights::desc(algorithm, src, weights, dst, strides, dilation,
                                                    begin, end),
        attr, engine(), hint);
#endif
    if (is_reference(pd)) return nullptr;
    e->src = pd.src_desc(), e->weights = pd.diff_weights_desc(), e->dst = pd.diff_dst_desc(),
    e->scratchpad = pd.scratchpad_desc();
    e->run = convolution_backward_weights(pd);
  }
  e->bias = bias;
  e->plain_src = plain_image(c.batch, c.in, c.size, c.in_stride);
  e->plain_dst = plain_image(c.batch, c.out, c.out_size, c.out_stride);
  e->plain_weights = plain_weights(c);
  if (pass != Pass::BackwardInput)
    e->src_in = reorder(e->plain_src, e->src);
  else
    e->src_out = reorder(e->src, e->plain_src);
  if (pass != Pass::Forward)
    e->dst_in = reorder(e->plain_dst, e->dst);
  else
    e->dst_out = reorder(e->dst, e->plain_dst);
  if (pass != Pass::BackwardWeight)
    e->weights_in = reorder(e->plain_weights, e->weights);
  else
    e->weights_out = reorder(e->weights, e->plain_weights);
  return e;
}

/// The last kEntries sets of shapes, the least recently used given up first. Creating code takes
/// milliseconds, so refusals are kept as well.
class Cache {
 public:
  std::shared_ptr<const Entry> get(Pass pass, const Conv& c) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Item* oldest = nullptr;
    for (Item& i : items_) {
      if (i.pass == pass && i.key == c) {
        i.used = ++clock_;
        return i.entry;
      }
      if (!oldest || i.used < oldest->used) oldest = &i;
    }
    std::shared_ptr<const Entry> entry;
    try {
      const OneThread one;
      entry = create(pass, c);
      ++g_created;
      watch_the_end();
    } catch (
        const dnnl::error&) {  // unimplemented for these shapes: the caller has its own kernels
    }
    if (items_.size() < kEntries) {
      items_.push_back({});
      oldest = &items_.back();
    }
    *oldest = {pass, c, entry, ++clock_};
    return entry;
  }

 private:
  static constexpr std::size_t kEntries = 256;
  struct Item {
    Pass pass;
    Conv key;
    std::shared_ptr<const Entry> entry;
    std::uint64_t used;
  };
  std::mutex mutex_;
  std::vector<Item> items_;
  std::uint64_t clock_ = 0;
};

Cache& cache() {
  static auto& c = *new Cache;
  return c;
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

bool sgemm(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, const float* a, int64_t lda,
           const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const OneThread one;
  const bool done = ::dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', M, N, K, 1.0f, a, lda, b,
                                 ldb, beta, c, ldc) == dnnl_success;
  // each form of product has its own code, made at its first call
  static std::atomic<std::uint32_t> seen{0};
  const std::uint32_t form =
      1u << (trans_a | trans_b << 1 | (beta != 0) << 2 | (M == 1) << 3 | (N == 1) << 4);
  if (!(seen.load(std::memory_order_relaxed) & form) && !(seen.fetch_or(form) & form))
    watch_the_end();
  return done;
}

bool conv_supported(ConvPass pass, const Conv& c) { return cache().get(pass, c) != nullptr; }

class ConvWeights {
 public:
  const float* plain = nullptr;
  memory::desc desc;
  Scratch<float> data;  // empty: the plain array is in the right layout
  const float* pointer() const { return data.data() ? data.data() : plain; }
};
void destroy(ConvWeights* w) { delete w; }

ConvWeights* prepare_weights(ConvPass pass, const Conv& c, const float* w) {
  const auto e = cache().get(pass, c);
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
  const auto e = cache().get(Pass::Forward, c);
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
  const auto e = cache().get(Pass::BackwardInput, c);
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
  const auto e = cache().get(Pass::BackwardWeight, c);
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

}  // namespace onednn
}  // namespace dropin::cpu
