// SGD, Adam and AdamW.
#include "dropin/dispatch/dispatch.h"
#include "dropin/optimizer/optimizer.h"
#include "kernels/optim/kernel.h"
#include "optimizer/common.h"

namespace dropin {

void SGD::check(const SGDOptions& o) {
  DROPIN_CHECK(o.lr >= 0, OptionError, "SGD: lr is ", o.lr, ", expected at least 0");
  DROPIN_CHECK(o.momentum >= 0, OptionError, "SGD: momentum is ", o.momentum,
               ", expected at least 0");
  DROPIN_CHECK(o.weight_decay >= 0, OptionError, "SGD: weight_decay is ", o.weight_decay,
               ", expected at least 0");
  DROPIN_CHECK(!o.nesterov || (o.momentum > 0 && o.dampening == 0), OptionError,
               "SGD: nesterov needs a momentum and no dampening");
}

namespace {

using detail::state_like;
using detail::step_dtype;
using detail::update_as;

NamedTensors adam_start(const Tensor& p, bool amsgrad) {
  NamedTensors state{
      {"step", zeros({}, kFloat32)}, {"exp_avg", state_like(p)}, {"exp_avg_sq", state_like(p)}};
  if (amsgrad) state.set("max_exp_avg_sq", state_like(p));
  return state;
}

/// Adam, or AdamW where the decay is decoupled.
template <class Options>
void adam(const Options& o, bool decoupled, const Tensor& p, const Tensor& g_in,
          NamedTensors& state) {
  if (o.amsgrad && !state.contains("max_exp_avg_sq")) state.set("max_exp_avg_sq", state_like(p));
  Tensor count = state.find("step");
  const auto step = static_cast<int64_t>(count.item()) + 1;
  const DType dtype = step_dtype(p.dtype());
  const Tensor g = g_in.to(dtype);
  update_as(dtype, p, [&](const Tensor& t) {
    run<kernels::adam_step>(p.device(),
                            kernels::AdamStep{.lr = o.lr,
                                              .beta1 = o.betas[0],
                                              .beta2 = o.betas[1],
                                              .eps = o.eps,
                                              .weight_decay = o.weight_decay,
                                              .decoupled = decoupled,
                                              .maximize = o.maximize,
                                              .step = step},
                            t.out(), g.in(), state.find("exp_avg").out(),
                            state.find("exp_avg_sq").out(),
                            o.amsgrad ? state.find("max_exp_avg_sq").out() : abi::TensorOut{});
  });
  count.fill_(static_cast<double>(step));
}

void check_adam(const char* who, double lr, const std::vector<double>& betas, double eps,
                double decay) {
  DROPIN_CHECK(lr >= 0, OptionError, who, ": lr is ", lr, ", expected at least 0");
  DROPIN_CHECK(betas.size() == 2, OptionError, who, ": betas has ", betas.size(),
               " values, expected 2");
  for (double b : betas)
    DROPIN_CHECK(b >= 0 && b < 1, OptionError, who, ": beta ", b, " is not in 0 <= beta < 1");
  DROPIN_CHECK(eps >= 0, OptionError, who, ": eps is ", eps, ", expected at least 0");
  DROPIN_CHECK(decay >= 0, OptionError, who, ": weight_decay is ", decay, ", expected at least 0");
}

}  // namespace

NamedTensors SGD::start(const SGDOptions& o, const Tensor& p) const {
  return o.momentum != 0 ? NamedTensors{{"momentum_buffer", state_like(p)}} : NamedTensors{};
}
void SGD::update_one(const SGDOptions& o, const Tensor& p, const Tensor& g_in, NamedTensors& state,
                     bool first) {
  const Tensor buffer = state.find("momentum_buffer");
  const DType dtype = step_dtype(p.dtype());
  const Tensor g = g_in.to(dtype);
  update_as(dtype, p, [&](const Tensor& t) {
    run<kernels::sgd_step>(p.device(),
                           kernels::SgdStep{.lr = o.lr,
                                            .momentum = o.momentum,
                                            .dampening = o.dampening,
                                            .weight_decay = o.weight_decay,
                                            .nesterov = o.nesterov,
                                            .maximize = o.maximize,
                                            .first = first},
                           t.out(), g.in(), o.momentum != 0 ? buffer.out() : abi::TensorOut{});
  });
}

void Adam::check(const AdamOptions& o) { check_adam("Adam", o.lr, o.betas, o.eps, o.weight_decay); }
NamedTensors Adam::start(const AdamOptions& o, const Tensor& p) const {
  return adam_start(p, o.amsgrad);
}
void Adam::update_one(const AdamOptions& o, const Tensor& p, const Tensor& g, NamedTensors& s,
                      bool) {
  adam(o, false, p, g, s);
}
void AdamW::check(const AdamWOptions& o) {
  check_adam("AdamW", o.lr, o.betas, o.eps, o.weight_decay);
}
NamedTensors AdamW::start(const AdamWOptions& o, const Tensor& p) const {
  return adam_start(p, o.amsgrad);
}
void AdamW::update_one(const AdamWOptions& o, const Tensor& p, const Tensor& g, NamedTensors& s,
                       bool) {
  adam(o, true, p, g, s);
}

}  // namespace dropin
