#include "dropin/optimizer/optimizer8bit.h"

#include <algorithm>
#include <cmath>

#include "dropin/autograd/full_state.h"
#include "dropin/dispatch/dispatch.h"
#include "kernels/hd.h"
#include "kernels/optim8/kernel.h"
#include "kernels/optim8/map.h"
#include "optimizer/common.h"

namespace dropin {

namespace {}  // namespace

// --- functions

Tensor create_dynamic_map(bool is_signed) {
  Tensor t = empty({256});
  std::copy_n(kernels::dynamic_map(is_signed).value, 256, t.data<float>());
  return t;
}

Blockwise quantize_blockwise(const Tensor& x_, bool is_signed, int64_t block_size) {
  DROPIN_CHECK(is_floating(x_.dtype()), DTypeError, "quantize_blockwise: x is ", x_.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(block_size >= 1, OptionError, "quantize_blockwise: block_size is ", block_size,
               ", expected at least 1");
  no_grad guard;
  const Tensor x = x_.detach().to(kFloat32).contiguous();
  Blockwise r{empty(x.sizes(), {kUInt8, x.device()}),
              empty({ceil_div(x.numel(), block_size)}, x.options())};
  run<kernels::blockwise_quantize>(x.device(), x.in(), is_signed, block_size, r.codes.out(),
                                   r.absmax.out());
  return r;
}

Tensor dequantize_blockwise(const Tensor& codes_, const Tensor& absmax_, bool is_signed,
                            int64_t block_size) {
  DROPIN_CHECK(codes_.dtype() == kUInt8, DTypeError, "dequantize_blockwise: codes are ",
               codes_.dtype(), ", expected uint8");
  DROPIN_CHECK(is_floating(absmax_.dtype()), DTypeError, "dequantize_blockwise: absmax is ",
               absmax_.dtype(), ", expected float32");
  DROPIN_CHECK(block_size >= 1, OptionError, "dequantize_blockwise: block_size is ", block_size,
               ", expected at least 1");
  const int64_t blocks = ceil_div(codes_.numel(), block_size);
  DROPIN_CHECK(absmax_.dim() == 1 && absmax_.size(0) == blocks, ShapeError,
               "dequantize_blockwise: absmax is ", absmax_.sizes(), ", expected [", blocks,
               "] for codes of ", codes_.sizes(), " in blocks of ", block_size);
  no_grad guard;
  const Tensor codes = codes_.contiguous(), absmax = absmax_.detach().to(kFloat32).contiguous();
  Tensor y = empty(codes.sizes(), absmax.options());
  run<kernels::blockwise_dequantize>(y.device(), codes.in(), absmax.in(), is_signed, block_size,
                                     y.out());
  return y;
}

namespace detail {

// --- options

void check_common8(std::string_view who, std::optional<double> lr, const Common8& o) {
  DROPIN_CHECK(lr.has_value(), OptionError, who, ": lr is required");
  DROPIN_CHECK(*lr >= 0, OptionError, who, ": lr is ", *lr, ", expected at least 0");
  DROPIN_CHECK(o.weight_decay >= 0, OptionError, who, ": weight_decay is ", o.weight_decay,
               ", expected at least 0");
  DROPIN_CHECK(o.block_size >= 16, OptionError, who, ": block_size is ", o.block_size,
               ", expected at least 16");
  DROPIN_CHECK(o.min_8bit_size >= 0, OptionError, who, ": min_8bit_size is ", o.min_8bit_size,
               ", expected at least 0");
  DROPIN_CHECK(o.percentile_clipping >= 1 && o.percentile_clipping <= 100, OptionError, who,
               ": percentile_clipping is ", o.percentile_clipping, ", expected 1 to 100");
}
void check_betas8(std::string_view who, const std::vector<double>& betas) {
  DROPIN_CHECK(betas.size() == 2, OptionError, who, ": betas has ", betas.size(),
               " values, expected 2");
  for (double b : betas)
    DROPIN_CHECK(b >= 0 && b < 1, OptionError, who, ": betas: ", b, " is not in 0 <= beta < 1");
}
void check_eps8(std::string_view who, double eps) {
  DROPIN_CHECK(eps >= 0, OptionError, who, ": eps is ", eps, ", expected at least 0");
}

// --- which state

void Overrides8::set(const Tensor& p, int64_t bits) {
  for (auto& [t, b] : bits_)
    if (t.is_same(p)) {
      b = bits;
      return;
    }
  bits_.emplace_back(p, bits);
}
bool Overrides8::eight(const Tensor& p, int64_t min_size) const {
  for (const auto& [t, b] : bits_)
    if (t.is_same(p)) return b == 8;
  return p.numel() >= min_size && !keeps_full_state(p);
}

// --- the step

namespace {

kernels::Rule8 rule_of(Kind8 k) { return static_cast<kernels::Rule8>(k); }
static_assert(static_cast<int>(Kind8::Adagrad) == static_cast<int>(kernels::Rule8::Adagrad) &&
              static_cast<int>(Kind8::Lion) == static_cast<int>(kernels::Rule8::Lion));

// The factor that brings the gradient's norm down to a percentile of the last 100; norms that are
// not finite are not remembered.
double clipped_scale(const Tensor& g, int64_t step, int64_t percentile, NamedTensors& state) {
  const double n = norm(g.to(kFloat32)).item(), square = n * n;
  Tensor history = state.find("gnorm_vec");
  if (!std::isfinite(square)) return 1;
  if (!history.defined()) {
    history = full({100}, square);
    state.set("gnorm_vec", history);
  } else {
    history.data<float>()[step % 100] = static_cast<float>(square);
  }
  std::vector<float> sorted(history.data<float>(), history.data<float>() + 100);
  std::sort(sorted.begin(), sorted.end());
  const double c = sorted[static_cast<std::size_t>(percentile)];
  return static_cast<float>(square) > c ? std::sqrt(c) / n : 1;
}

}  // namespace

NamedTensors start8(const Rule8Options& o, bool eight, const Tensor& p) {
  NamedTensors state{{"step", zeros({})}};
  for (const char* s : {"1", "2"}) {
    if (*s == '2' && o.kind != Kind8::Adam) break;
    if (eight) {
      // the code of 0
      state.set(std::string("state") + s,
                full(p.sizes(), *s == '1' ? 127 : 0, {kUInt8, p.device()}));
      state.set(std::string("absmax") + s,
                zeros({ceil_div(p.numel(), o.common.block_size)}, {kFloat32, p.device()}));
    } else {
      state.set(std::string("state") + s, zeros(p.sizes(), {kFloat32, p.device()}));
    }
  }
  return state;
}

void update8(const Rule8Options& o, const Tensor& p, const Tensor& g_, NamedTensors& state) {
  const int64_t n = p.numel(), b = o.common.block_size;
  Tensor step = state.find("step");
  kernels::Step8 a{rule_of(o.kind),
                   o.lr,
                   o.beta1,
                   o.beta2,
                   o.eps,
                   o.common.weight_decay,
                   1,
                   static_cast<int64_t>(step.item()) + 1,
                   b};
  if (o.common.percentile_clipping < 100 && n > 0)
    a.gradient_scale = clipped_scale(g_, a.step, o.common.percentile_clipping, state);
  const Tensor g = g_.to(kFloat32);
  auto out = [&](const char* name) {
    return state.contains(name) ? state.find(name).out() : abi::TensorOut{};
  };
  update_as(kFloat32, p, [&](const Tensor& t) {
    run<kernels::optimizer8_step>(p.device(), a, t.out(), g.in(),
                                  kernels::State8{out("state1"), out("absmax1")},
                                  kernels::State8{out("state2"), out("absmax2")});
  });
  step.fill_(static_cast<double>(a.step));
}

// --- what is saved

NamedTensors notes8(const Common8& o, const NamedTensors& state) {
  if (!state.contains("absmax1")) return {};
  return {{"block_size", full({}, static_cast<double>(o.block_size), kInt64)}};
}

void check_state8(std::string_view who, const Common8& o, bool two, const Tensor& p, std::size_t i,
                  NamedTensors& state) {
  if (state.size() == 0) return;
  const Tensor block = state.take("block_size");
  const int64_t b = o.block_size, n = p.numel();
  const bool eight = state.contains("absmax1") || state.contains("absmax2");
  if (block.defined() && block.item<int64_t>() != b)
    fail<StateError>({who, ": state.", i, " has block_size ", block.item<int64_t>(),
                      ", this optimizer has block_size ", b});
  DROPIN_CHECK(state.contains("step") && state.find("step").numel() == 1, StateError, who,
               ": state.", i, " has no step");
  for (const char* s : {"1", "2"}) {
    if (*s == '2' && !two) break;
    const std::string value = std::string("state") + s, top = std::string("absmax") + s;
    const Tensor v = state.find(value), m = state.find(top);
    DROPIN_CHECK(v.defined(), StateError, who, ": state.", i, " has no ", value);
    DROPIN_CHECK(v.sizes() == p.sizes(), StateError, who, ": state.", i, ".", value, " is ",
                 v.sizes(), " (", v.numel(), " values), expected ", p.sizes(), " (", n, " values)");
    DROPIN_CHECK(v.dtype() == (eight ? kUInt8 : kFloat32), StateError, who, ": state.", i, ".",
                 value, " is ", v.dtype(), ", expected ", eight ? kUInt8 : kFloat32);
    if (!eight) continue;
    DROPIN_CHECK(m.defined() && m.dtype() == kFloat32, StateError, who, ": state.", i,
                 " has no float32 ", top);
    DROPIN_CHECK(m.dim() == 1 && m.size(0) == ceil_div(n, b), StateError, who, ": state.", i, ".",
                 top, " is ", m.sizes(), ", expected [", ceil_div(n, b), "] for ", n,
                 " values in blocks of ", b);
  }
}

}  // namespace detail
}  // namespace dropin
