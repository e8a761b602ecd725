// Makes and keeps oneDNN's convolutions: layouts by shape, and the reorders around them.
#include "src/cpu/onednn_primitives.h"

#include <cstring>
#include <mutex>
#include <vector>

namespace dropin::cpu::onednn {

dnnl::engine& engine() {
  static auto& e = *new dnnl::engine(dnnl::engine::kind::cpu,
                                     0);  // never destroyed: used until the last thread ends
  return e;
}

namespace {

using dnnl::memory;

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

/// A convolution in oneDNN's words; layouts are left to it.
struct Shapes {
  memory::desc src, dst, weights, bias;
  memory::dims strides, dilation, begin, end;
  dnnl::prop_kind kind;
  dnnl::primitive_attr attr;
  static constexpr auto kAlgorithm = dnnl::algorithm::convolution_direct;

  Shapes(Pass pass, const Conv& c)
      : src(any_image(c.batch, c.in, c.size)),
        dst(any_image(c.batch, c.out, c.out_size)),
        weights(weight_dims(c), memory::data_type::f32, memory::format_tag::any),
        bias({c.out}, memory::data_type::f32, memory::format_tag::a),
        strides{c.stride[0], c.stride[1]},
        dilation{c.dilation[0] - 1, c.dilation[1] - 1},
        begin{c.pad_begin[0], c.pad_begin[1]},
        end{c.pad_end[0], c.pad_end[1]},
        kind(pass == Pass::Forward ? dnnl::prop_kind::forward_inference
                                   : dnnl::prop_kind::forward_training) {
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  }

  using Forward = dnnl::convolution_forward::primitive_desc;
  using BackwardInput = dnnl::convolution_backward_data::primitive_desc;
  using BackwardWeights = dnnl::convolution_backward_weights::primitive_desc;
#if DNNL_VERSION_MAJOR >= 3
  Forward forward(bool with_bias, const memory::desc& x, const memory::desc& y) const {
    return with_bias ? Forward(engine(), kind, kAlgorithm, x, weights, bias, y, strides, dilation,
                               begin, end, attr)
                     : Forward(engine(), kind, kAlgorithm, x, weights, y, strides, dilation, begin,
                               end, attr);
  }
  BackwardInput backward_input() const {
    return BackwardInput(engine(), kAlgorithm, src, weights, dst, strides, dilation, begin, end,
                         forward(false, src, dst), attr);
  }
  BackwardWeights backward_weights(bool with_bias) const {
    const Forward hint = forward(with_bias, src, dst);
    return with_bias ? BackwardWeights(engine(), kAlgorithm, src, weights, bias, dst, strides,
                                       dilation, begin, end, hint, attr)
                     : BackwardWeights(engine(), kAlgorithm, src, weights, dst, strides, dilation,
                                       begin, end, hint, attr);
  }
#else
  Forward forward(bool with_bias, const memory::desc& x, const memory::desc& y) const {
    using Desc = dnnl::convolution_forward::desc;
    return Forward(with_bias
                       ? Desc(kind, kAlgorithm, x, weights, bias, y, strides, dilation, begin, end)
                       : Desc(kind, kAlgorithm, x, weights, y, strides, dilation, begin, end),
                   attr, engine());
  }
  BackwardInput backward_input() const {
    return BackwardInput(dnnl::convolution_backward_data::desc(kAlgorithm, src, weights, dst,
                                                               strides, dilation, begin, end),
                         attr, engine(), forward(false, src, dst));
  }
  BackwardWeights backward_weights(bool with_bias) const {
    using Desc = dnnl::convolution_backward_weights::desc;
    return BackwardWeights(
        with_bias ? Desc(kAlgorithm, src, weights, bias, dst, strides, dilation, begin, end)
                  : Desc(kAlgorithm, src, weights, dst, strides, dilation, begin, end),
        attr, engine(), forward(with_bias, src, dst));
  }
#endif

  /// Left to itself oneDNN likes channels last. Where a convolution does little work (depthwise, a
  /// few input channels) the reorders to and from that take longer than the convolution; those of
  /// blocks of channels are cheap.
  Forward best_forward(const Conv& c) const {
    if (c.in != c.groups && c.in > 4) return forward(c.bias, src, dst);
    const auto f32 = memory::data_type::f32;
    const auto tag = blocked_tag();
    const memory::desc blocked_dst({c.batch, c.out, c.out_size[0], c.out_size[1]}, f32, tag);
    const memory::desc blocked_src({c.batch, c.in, c.size[0], c.size[1]}, f32,
                                   c.in > 4 ? tag : memory::format_tag::nchw);
    try {
      auto blocked = forward(c.bias, blocked_src, blocked_dst);
      if (std::strncmp(blocked.impl_info_str(), "jit", 3) == 0) return blocked;
    } catch (const dnnl::error&) {
    }
    return forward(c.bias, src, dst);
  }
};

/// The primitive of a pass and the layouts it wants; false when there is only oneDNN's reference
/// loop.
bool choose(Pass pass, const Conv& c, const Shapes& shapes, Entry& e) {
  auto take = [&](const auto& pd, const memory::desc& src, const memory::desc& weights,
                  const memory::desc& dst) {
    e.src = src, e.weights = weights, e.dst = dst, e.scratchpad = pd.scratchpad_desc();
  };
  if (pass == Pass::Forward) {
    const auto pd = shapes.best_forward(c);
    if (is_reference(pd)) return false;
    take(pd, pd.src_desc(), pd.weights_desc(), pd.dst_desc());
    e.run = dnnl::convolution_forward(pd);
  } else if (pass == Pass::BackwardInput) {
    const auto pd = shapes.backward_input();
    if (is_reference(pd)) return false;
    take(pd, pd.diff_src_desc(), pd.weights_desc(), pd.diff_dst_desc());
    e.run = dnnl::convolution_backward_data(pd);
  } else {
    const auto pd = shapes.backward_weights(c.bias);
    if (is_reference(pd)) return false;
    take(pd, pd.src_desc(), pd.diff_weights_desc(), pd.diff_dst_desc());
    e.run = dnnl::convolution_backward_weights(pd);
  }
  return true;
}

/// Null when there is only oneDNN's reference loop.
std::shared_ptr<const Entry> create(Pass pass, const Conv& c) {
  auto e = std::make_shared<Entry>();
  const Shapes shapes(pass, c);
  if (!choose(pass, c, shapes, *e)) return nullptr;
  e->bias = shapes.bias;
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
      ++created;
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

}  // namespace

std::shared_ptr<const Entry> primitive_of(ConvPass pass, const Conv& c) {
  static auto& cache = *new Cache;
  return cache.get(pass, c);
}

}  // namespace dropin::cpu::onednn
