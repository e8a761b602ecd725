#include "dropin/ops/traces.h"

#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/traces/kernel.h"
#include "ops/common.h"

namespace dropin {

Tensor plain::traces(const Tensor& u, const Tensor& gamma, const Tensor& state,
                     const TraceArgs& args) {
  const int64_t b = u.size(0), t = u.size(1), m = u.size(2), c = gamma.size(1);
  const Tensor g = gamma.select(2, 0), w = gamma.select(2, 1);
  Tensor re = state.select(3, 0), im = state.select(3, 1);
  Tensors all;
  for (int64_t i = 0; i < t; ++i) {
    auto at = [&](const Tensor& flag) { return flag.select(1, i).reshape({b, 1, 1}); };
    auto before = [&](const Tensor& s) {
      return args.reset.defined() ? masked_fill(s, at(args.reset), 0) : s;
    };
    const Tensor a = before(re), d = before(im);
    Tensor x = g * a - w * d + u.select(1, i).unsqueeze(2), y = g * d + w * a;
    if (args.hold.defined()) x = where(at(args.hold), re, x), y = where(at(args.hold), im, y);
    re = x, im = y;
    all.push_back(stack({re, im}, 3).reshape({b, 2 * m * c}));
  }
  return all.empty() ? zeros({b, 0, 2 * m * c}, u.options()) : stack(all, 1);
}

namespace {

void check_traces(const Tensor& u, const Tensor& gamma, const Tensor& state,
                  const TraceArgs& args) {
  const char* who = "traces";
  for (const Tensor* t : {&u, &gamma, &state}) ops_detail::need_floating(who, *t);
  if (u.dim() != 3 || gamma.dim() != 3 || gamma.size(0) != u.size(2) || gamma.size(2) != 2)
    fail<ShapeError>({who, ": u and gamma are ", u.sizes(), " and ", gamma.sizes(),
                      ", expected [B, T, m] and [m, c, 2]"});
  const Shape want{u.size(0), u.size(2), gamma.size(1), 2};
  if (!(state.sizes() == want))
    fail<ShapeError>({who, ": state is ", state.sizes(), ", expected ", want});
  for (const auto& [name, flag] : {std::pair{"reset", args.reset}, {"hold", args.hold}}) {
    if (!flag.defined()) continue;
    if (flag.dtype() != kBool)
      fail<DTypeError>({who, ": ", name, " is ", flag.dtype(), ", expected bool"});
    if (!(flag.sizes() == Shape{u.size(0), u.size(1)}))
      fail<ShapeError>(
          {who, ": ", name, " is ", flag.sizes(), ", expected [", u.size(0), ", ", u.size(1), "]"});
  }
}

kernels::TraceInputs trace_inputs(const Tensor& u, const Tensor& gamma, const Tensor& state,
                                  const TraceArgs& args) {
  return {u.in(), gamma.in(), state.in(), args.reset.in(), args.hold.in()};
}

}  // namespace

Tensor traces(const Tensor& u_, const Tensor& gamma_, const Tensor& state_,
              const TraceArgs& args_) {
  check_traces(u_, gamma_, state_, args_);
  auto laid_out = [](const Tensor& t) { return t.defined() ? t.contiguous() : t; };
  const TraceArgs args{laid_out(args_.reset), laid_out(args_.hold)};
  const DType type = ops_detail::compute_type(u_.dtype());
  const Tensor u = u_.to(type).contiguous(), gamma = gamma_.to(type).contiguous(),
               state = state_.to(type).contiguous();
  if (!has_kernels<kernels::trace_forward, kernels::trace_backward>(u.device()))
    return plain::traces(u, gamma, state, args);
  Tensor f = empty({u.size(0), u.size(1), 2 * u.size(2) * gamma.size(1)}, u.options());
  run<kernels::trace_forward>(u.device(), trace_inputs(u, gamma, state, args), f.out());
  return record("traces", f, {u, gamma, state}, {u, gamma, state, f},
                [args](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor u = s[0], gamma = s[1], state = s[2];
                  if (grad_enabled())
                    return plain_gradients(s, {u, gamma, state}, g, [args](const Tensors& in) {
                      return plain::traces(in[0], in[1], in[2], args);
                    });
                  Tensor gu = empty_like(u), gg = empty_like(state), gs = empty_like(state);
                  run<kernels::trace_backward>(
                      u.device(), g.contiguous().in(), trace_inputs(u, gamma, state, args),
                      s[3].in(), kernels::TraceGradients{gu.out(), gg.out(), gs.out()});
                  return {gu, sum(gg, {0}), gs};
                });
}

}  // namespace dropin
