// One task is a block of decay rates of one sample: its traces stay in registers or L1 while time
// runs. Real and imaginary parts lie apart, so that the loops over traces become whole vectors.
// Glossary: lanes: traces of a task; s, d: state and its gradient, g: gamma, w: gradient of gamma.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/traces/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/simd-inl.h"
#include "kernels/traces/kernel.h"

#ifndef DROPIN_TRACES_PROBLEM_
#define DROPIN_TRACES_PROBLEM_
namespace dropin::kernels {

struct TraceProblem {
  int64_t batch, tokens, rates, frequencies;
  abi::TensorIn u, gamma, state, gf, f;
  const bool *reset, *hold;
  abi::TensorOut out, gu, ggamma, gstate;
  static constexpr int64_t kRates = 16;  // of one task
  int64_t tasks() const { return batch * ceil_div(rates, kRates); }
};

}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

/// Complex numbers of a task, parts apart.
template <class T>
struct Lanes {
  std::vector<T> re, im;
  explicit Lanes(int64_t n) : re(at(n)), im(at(n)) {}
  void load(const T* pairs) {
    for (std::size_t i = 0; i < re.size(); ++i) re[i] = pairs[2 * i], im[i] = pairs[2 * i + 1];
  }
  void add(const T* pairs) {
    for (std::size_t i = 0; i < re.size(); ++i) re[i] += pairs[2 * i], im[i] += pairs[2 * i + 1];
  }
  void store(T* pairs) const {
    for (std::size_t i = 0; i < re.size(); ++i) pairs[2 * i] = re[i], pairs[2 * i + 1] = im[i];
  }
  void clear() {
    std::fill(re.begin(), re.end(), T(0));
    std::fill(im.begin(), im.end(), T(0));
  }
  /// Times g, or its conjugate.
  void turn(const Lanes& g, T sign) {
    for (std::size_t i = 0; i < re.size(); ++i) {
      const T a = re[i], b = im[i], gi = sign * g.im[i];
      re[i] = g.re[i] * a - gi * b;
      im[i] = g.re[i] * b + gi * a;
    }
  }
};

// Which traces a task has.
struct Task {
  int64_t sample, rate, count, first, lanes, width;
  Task(const TraceProblem& p, int64_t i) {
    const int64_t blocks = ceil_div(p.rates, TraceProblem::kRates);
    sample = i / blocks;
    rate = i % blocks * TraceProblem::kRates;
    count = std::min(TraceProblem::kRates, p.rates - rate);
    first = 2 * rate * p.frequencies;
    lanes = count * p.frequencies;
    width = 2 * p.rates * p.frequencies;
  }
};

template <class T>
void forward_task(const TraceProblem& p, int64_t i) {
  const Task task(p, i);
  Lanes<T> s(task.lanes), g(task.lanes);
  s.load(p.state.as<T>() + task.sample * task.width + task.first);
  g.load(p.gamma.as<T>() + task.first);
  for (int64_t t = 0; t < p.tokens; ++t) {
    const int64_t row = task.sample * p.tokens + t;
    if (!p.hold || !p.hold[row]) {
      if (p.reset && p.reset[row])
        s.clear();
      else
        s.turn(g, T(1));
      const T* u = p.u.as<T>() + row * p.rates + task.rate;
      for (int64_t j = 0; j < task.count; ++j)
        for (int64_t k = 0; k < p.frequencies; ++k) s.re[at(j * p.frequencies + k)] += u[j];
    }
    s.store(p.out.as<T>() + row * task.width + task.first);
  }
}

template <class T>
void backward_task(const TraceProblem& p, int64_t i) {
  const Task task(p, i);
  Lanes<T> d(task.lanes), g(task.lanes), w(task.lanes), before(task.lanes);
  g.load(p.gamma.as<T>() + task.first);
  for (int64_t t = p.tokens - 1; t >= 0; --t) {
    const int64_t row = task.sample * p.tokens + t;
    d.add(p.gf.as<T>() + row * task.width + task.first);
    T* gu = p.gu.as<T>() + row * p.rates + task.rate;
    const bool held = p.hold && p.hold[row];
    for (int64_t j = 0; j < task.count; ++j) {
      T sum = 0;
      for (int64_t k = 0; k < p.frequencies; ++k) sum += d.re[at(j * p.frequencies + k)];
      gu[j] = held ? T(0) : sum;
    }
    if (held) continue;
    if (p.reset && p.reset[row]) {
      d.clear();
      continue;
    }
    before.load(t > 0 ? p.f.as<T>() + (row - 1) * task.width + task.first
                      : p.state.as<T>() + task.sample * task.width + task.first);
    for (std::size_t n = 0; n < d.re.size(); ++n) {  // conj(S_{t-1}) d
      w.re[n] += before.re[n] * d.re[n] + before.im[n] * d.im[n];
      w.im[n] += before.re[n] * d.im[n] - before.im[n] * d.re[n];
    }
    d.turn(g, T(-1));
  }
  w.store(p.ggamma.as<T>() + task.sample * task.width + task.first);
  d.store(p.gstate.as<T>() + task.sample * task.width + task.first);
}

void traces_forward(const TraceProblem& p, int64_t i) {
  p.u.dtype == DType::Float64 ? forward_task<double>(p, i) : forward_task<float>(p, i);
}
void traces_backward(const TraceProblem& p, int64_t i) {
  p.u.dtype == DType::Float64 ? backward_task<double>(p, i) : backward_task<float>(p, i);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(traces_forward);
HWY_EXPORT(traces_backward);
namespace {

// The problem of these inputs; false where the arrays are not what the kernels take.
bool trace_problem(const TraceInputs& in, const abi::TensorIn& f, TraceProblem& p) {
  p = {};
  if (in.u.ndim != 3 || in.gamma.ndim != 3 || in.state.ndim != 4) return false;
  if (in.u.dtype != DType::Float32 && in.u.dtype != DType::Float64) return false;
  for (const abi::TensorIn* t : {&in.u, &in.gamma, &in.state, &f})
    if (t->dtype != in.u.dtype || !t->contiguous()) return false;
  p.batch = in.u.sizes[0], p.tokens = in.u.sizes[1];
  p.rates = in.gamma.sizes[0], p.frequencies = in.gamma.sizes[1];
  const int64_t width = 2 * p.rates * p.frequencies;
  for (const abi::TensorIn* t : {&in.reset, &in.hold})
    if (t->data &&
        (t->dtype != DType::Boolean || !t->contiguous() || t->numel() != p.batch * p.tokens))
      return false;
  p.u = in.u, p.gamma = in.gamma, p.state = in.state;
  p.reset = in.reset.as<bool>(), p.hold = in.hold.as<bool>();
  return in.u.sizes[2] == p.rates && in.gamma.numel() == width &&
         in.state.numel() == p.batch * width && f.numel() == p.batch * p.tokens * width;
}
abi::Status trace_refused() {
  return abi::unsupported("trace: expected contiguous arrays of one of f32 and f64 that fit");
}

abi::Status trace_forward_cpu(const abi::KernelContext&, const TraceInputs& in,
                              const abi::TensorOut& f) {
  TraceProblem p;
  if (!trace_problem(in, f, p)) return trace_refused();
  p.out = f;
  const auto run = &HWY_DYNAMIC_DISPATCH(traces_forward);
  parallel_for(p.tasks(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(p, i);
  });
  return abi::ok();
}

abi::Status trace_backward_cpu(const abi::KernelContext&, const abi::TensorIn& gf,
                               const TraceInputs& in, const abi::TensorIn& f,
                               const TraceGradients& out) {
  TraceProblem p;
  bool fits = trace_problem(in, f, p) && gf.dtype == f.dtype && gf.contiguous() &&
              gf.numel() == f.numel() && out.gamma.numel() == in.state.numel();
  for (const abi::TensorOut* t : {&out.u, &out.gamma, &out.state})
    fits = fits && t->dtype == f.dtype && t->contiguous();
  if (!fits || out.u.numel() != in.u.numel() || out.state.numel() != in.state.numel())
    return trace_refused();
  p.gf = gf, p.f = f;
  p.gu = out.u, p.ggamma = out.gamma, p.gstate = out.state;
  const auto run = &HWY_DYNAMIC_DISPATCH(traces_backward);
  parallel_for(p.tasks(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(p, i);
  });
  return abi::ok();
}

}  // namespace

void provide_traces_cpu(abi::KernelTable& t) {
  t.provide<trace_forward>(&trace_forward_cpu);
  t.provide<trace_backward>(&trace_backward_cpu);
}

}  // namespace dropin::kernels
#endif
