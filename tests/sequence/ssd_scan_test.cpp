#include "dropin/ops/ssd_scan.h"

#include <cmath>

#include "kernels/hd.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

struct Problem {
  Tensor x, dt, A, B, C;
  SsdScanArgs args;
};
Problem problem(int64_t length, DType dtype = kFloat64) {
  const int64_t b = 2, h = 4, p = 3, g = 2, n = 5;
  Problem r{random({b, length, h, p}, dtype, 1), softplus(random({b, length, h}, dtype, 2)),
            -exp(random({h}, dtype, 3)),         random({b, length, g, n}, dtype, 4),
            random({b, length, g, n}, dtype, 5), {}};
  r.args.D = random({h}, dtype, 6);
  r.args.initial_states = random({b, h, p, n}, dtype, 7);
  return r;
}
SsdScanResult scan(const Problem& p) { return ssd_scan(p.x, p.dt, p.A, p.B, p.C, p.args); }

// Token after token, as the definition says.
SsdScanResult by_definition(const Problem& p) {
  const int64_t l = p.x.size(1), h = p.x.size(2), g = p.B.size(2);
  auto heads = [&](const Tensor& t) { return repeat_interleave(t, h / g, 1).unsqueeze(2); };
  Tensor state = p.args.initial_states;
  Tensors ys(static_cast<std::size_t>(l));
  for (int64_t k = 0; k < l; ++k) {
    const int64_t t = p.args.reverse ? l - 1 - k : k, before = p.args.reverse ? t + 1 : t - 1;
    if (p.args.seq_idx.defined() && k > 0) {
      const Tensor cut = p.args.seq_idx.select(1, t) != p.args.seq_idx.select(1, before);
      state = masked_fill(state, cut.reshape({-1, 1, 1, 1}), 0);
    }
    const Tensor x = p.x.select(1, t), dt = p.dt.select(1, t).unsqueeze(2).unsqueeze(3);
    state =
        state * exp(dt * p.A.reshape({h, 1, 1})) + dt * x.unsqueeze(3) * heads(p.B.select(1, t));
    ys[at(t)] = sum(state * heads(p.C.select(1, t)), {3}) + x * p.args.D.unsqueeze(1);
  }
  return {stack(ys, 1), state};
}

TEST(SsdScan, EqualsTheRecurrenceAndItsGradients) {
  for (const bool reverse : {false, true})
    for (const bool sequences : {false, true})
      for (const int64_t chunk : {1, 4, 5, 64}) {
        SCOPED_TRACE(chunk);
        Problem p = problem(13);
        p.args.reverse = reverse;
        p.args.chunk_size = chunk;
        if (sequences)
          p.args.seq_idx = tensor({0, 0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 0, 0,  //
                                   5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 4},
                                  {2, 13}, kInt64);
        Tensors leaves{p.x, p.dt, p.A, p.B, p.C, p.args.D, p.args.initial_states};
        for (Tensor& t : leaves) t.requires_grad_();
        const SsdScanResult got = scan(p), want = by_definition(p);
        EXPECT_LT(max_difference(got.y, want.y), 1e-12);
        EXPECT_LT(max_difference(got.final_state, want.final_state), 1e-12);
        const Tensors seeds{random(got.y.sizes(), kFloat64, 8),
                            random(got.final_state.sizes(), kFloat64, 9)};
        const Tensors a = grad({got.y, got.final_state}, leaves, seeds),
                      b = grad({want.y, want.final_state}, leaves, seeds);
        for (std::size_t i = 0; i < a.size(); ++i)
          EXPECT_LT(max_difference(a[i], b[i]), 1e-11) << "gradient " << i;
      }
}

TEST(SsdScan, TheFirstSequenceTakesTheInitialState) {
  Problem p = problem(3);
  p.args.seq_idx = full({2, 3}, 7, kInt64);
  EXPECT_LT(max_difference(scan(p).y, by_definition(p).y), 1e-12);
}

TEST(SsdScan, HasSecondDerivatives) {
  Problem p = problem(6);
  p.args.chunk_size = 2;
  p.dt.requires_grad_();
  auto slope = [&](bool graph) {
    return grad({sum(square(scan(p).y))}, {p.dt}, {}, graph, graph)[0];
  };
  const Tensor u = random(p.dt.sizes(), kFloat64, 10);
  const Tensor second = grad({sum(slope(true) * u)}, {p.dt})[0];
  const Tensor base = p.dt.detach().clone(), v = random(base.sizes(), kFloat64, 11);
  auto value = [&](double h) {
    p.dt.set_data(base + v * h);
    p.dt.requires_grad_();
    return sum(slope(false) * u).item();
  };
  const double numeric = (value(1e-6) - value(-1e-6)) / 2e-6;
  EXPECT_NEAR(sum(second * v).item(), numeric, 1e-5 * std::abs(numeric));
}

TEST(SsdScan, StepGoesOnWhereTheScanEnds) {
  const Problem p = problem(9);
  const SsdScanResult all = scan(p);
  Tensor state = p.args.initial_states;
  for (int64_t t = 0; t < 9; ++t) {
    auto now = [&](const Tensor& x) { return x.select(1, t); };
    const SsdScanResult r = ssd_step(state, now(p.x), now(p.dt), p.A, now(p.B), now(p.C), p.args.D);
    EXPECT_LT(max_difference(r.y, all.y.select(1, t)), 1e-12);
    state = r.final_state;
  }
  EXPECT_LT(max_difference(state, all.final_state), 1e-12);
}

// One head, one channel, one number of state, 65536 tokens: decays near 1, near 0, and both.
TEST(SsdScan, IsExactOverLongSequencesWhereQuotientsOverflow) {
  const int64_t l = 65536;
  const Tensor x = random({1, l, 1, 1}, kFloat32, 1), one = ones({1, l, 1, 1});
  for (const double mixed : {0.0, 1.0})
    for (const double rate : {1e-7, 0.3, 40.0}) {
      Tensor dt = full({1, l, 1}, rate);
      if (mixed > 0) dt.slice(1, 0, l, 37).fill_(1e6);  // forgets everything, now and then
      const SsdScanResult got = ssd_scan(x, dt, -ones({1}), one, one);
      const float *xs = x.data<float>(), *steps = dt.data<float>();
      double h = 0, worst = 0, largest = 0;
      const std::vector<double> ys = got.y.to_vector();
      for (int64_t t = 0; t < l; ++t) {
        const double step = steps[t];
        h = std::exp(-step) * h + step * xs[t];
        worst = std::max(worst, std::abs(ys[at(t)] - h));
        largest = std::max(largest, std::abs(h));
      }
      EXPECT_LT(worst, 1e-5 * largest) << rate << " " << mixed;
      if (rate < 0.1) continue;
      // what a quotient of exponentials gives
      const Tensor s = cumsum(-dt, 1).unsqueeze(3);
      const Tensor quotient = exp(s) * cumsum(exp(-s) * x * dt.unsqueeze(3), 1);
      EXPECT_FALSE(all(isfinite(quotient)).item<bool>());
    }
}

void expect_only_later(DType dtype) {
  Problem p = problem(20, dtype);
  p.args.chunk_size = 8;
  const Tensor want = scan(p).y;
  Tensor x = p.x.clone(), b = p.B.clone(), c = p.C.clone();
  for (Tensor* t : {&x, &b, &c}) t->narrow(1, 11, 1).narrow(0, 0, 1).fill_(std::nan(""));
  p.x = x, p.B = b, p.C = c;
  const Tensor got = scan(p).y;
  // in float32 the products leave masked pairs out, so sums are rounded elsewhere
  const double tolerance = dtype == kFloat64 ? 0 : 1e-5;
  EXPECT_LE(max_difference(got.narrow(1, 0, 11), want.narrow(1, 0, 11)), tolerance);
  EXPECT_EQ(max_difference(got[1], want[1]), 0) << "the other sample";
  EXPECT_TRUE(all(isnan(got[0].narrow(0, 11, 9))).item<bool>());
}
TEST(SsdScan, ATokenReachesOnlyLaterOnes) {
  expect_only_later(kFloat64);
  expect_only_later(kFloat32);
}

// The float32 kernel against the definition in float64: values and every gradient, over lengths
// around its chunks of 64, widths that fill no vector, groups, both directions, sequences.
struct KernelCase {
  int64_t length, heads, groups, p, n;
};
void expect_kernel_equals_definition(const KernelCase& c, bool reverse, bool sequences) {
  const int64_t b = 2;
  auto narrow = [](const Tensor& t) { return t.to(kFloat32).to(kFloat64); };
  Tensors wide{narrow(random({b, c.length, c.heads, c.p}, kFloat64, 1)),
               narrow(softplus(random({b, c.length, c.heads}, kFloat64, 2)) * 0.3),
               narrow(-exp(random({c.heads}, kFloat64, 3))),
               narrow(random({b, c.length, c.groups, c.n}, kFloat64, 4)),
               narrow(random({b, c.length, c.groups, c.n}, kFloat64, 5)),
               narrow(random({b, c.heads, c.p, c.n}, kFloat64, 7)),
               narrow(random({c.heads}, kFloat64, 6))};
  Tensor seq_idx;
  if (sequences) seq_idx = cumsum((random({b, c.length}, kFloat64, 12) > 1.5).to(kInt64), 1);
  auto run = [&](Tensors t, DType dtype) {
    for (Tensor& one : t) one = one.to(dtype).requires_grad_();
    SsdScanArgs args;
    args.initial_states = t[5];
    args.D = t[6];
    args.seq_idx = seq_idx;
    args.reverse = reverse;
    const SsdScanResult r = ssd_scan(t[0], t[1], t[2], t[3], t[4], args);
    Tensors all = grad({r.y, r.final_state}, t,
                       {random(r.y.sizes(), kFloat64, 8).to(dtype),
                        random(r.final_state.sizes(), kFloat64, 9).to(dtype)});
    all.push_back(r.y);
    all.push_back(r.final_state);
    return all;
  };
  const Tensors got = run(wide, kFloat32), want = run(wide, kFloat64);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double scale = std::max(amax(abs(want[i])).item(), 1e-3);
    EXPECT_LT(max_difference(got[i].to(kFloat64), want[i]), 2e-5 * scale) << "result " << i;
  }
}
TEST(SsdScan, TheKernelEqualsTheDefinition) {
  int cases = 0;
  for (const int64_t length : {1, 2, 11, 63, 64, 65, 127, 200})
    for (const KernelCase& c : {KernelCase{length, 1, 1, 1, 1}, KernelCase{length, 4, 2, 3, 5},
                                KernelCase{length, 2, 2, 16, 8}, KernelCase{length, 3, 1, 17, 33}})
      for (const bool reverse : {false, true})
        for (const bool sequences : {false, true}) {
          SCOPED_TRACE(::testing::Message()
                       << length << " P " << c.p << " N " << c.n << reverse << sequences);
          expect_kernel_equals_definition(c, reverse, sequences);
          ++cases;
        }
  EXPECT_EQ(cases, 8 * 4 * 4);
}

TEST(SsdScan, TheKernelHasSecondDerivatives) {
  auto second = [](DType dtype) {
    Problem p = problem(70, kFloat32);
    for (Tensor* t : {&p.x, &p.dt, &p.A, &p.B, &p.C, &p.args.D, &p.args.initial_states})
      *t = t->to(dtype);
    p.dt = (p.dt * 0.2).detach().requires_grad_();
    const SsdScanResult r = scan(p);
    const Tensor slope = grad({sum(square(r.y)) + sum(r.final_state)}, {p.dt}, {}, true, true)[0];
    return grad({sum(square(slope))}, {p.dt})[0].to(kFloat64);
  };
  const Tensor want = second(kFloat64);
  EXPECT_LT(max_difference(second(kFloat32), want), 1e-4 * amax(abs(want)).item());
}

TEST(SsdScan, ASequenceThatIsNoNumberLeavesTheNextAlone) {
  Problem p = problem(150, kFloat32);
  p.args.seq_idx = concat({zeros({2, 70}, kInt64), ones({2, 80}, kInt64)}, 1);
  const Tensor want = scan(p).y;
  Tensor x = p.x.clone();
  x.narrow(1, 40, 1).fill_(INFINITY);
  p.x = x;
  const Tensor got = scan(p).y;
  EXPECT_EQ(max_difference(got.narrow(1, 70, 80), want.narrow(1, 70, 80)), 0);
  EXPECT_FALSE(any(isfinite(got.narrow(1, 40, 30))).item<bool>());
}

TEST(SsdScan, NoTokensAndNoSamples) {
  Problem p = problem(0);
  EXPECT_EQ(scan(p).y.sizes(), (Shape{2, 0, 4, 3}));
  EXPECT_EQ(max_difference(scan(p).final_state, p.args.initial_states), 0);
  const SsdScanResult r = ssd_scan(zeros({0, 5, 2, 3}), zeros({0, 5, 2}), zeros({2}),
                                   zeros({0, 5, 1, 4}), zeros({0, 5, 1, 4}));
  EXPECT_EQ(r.y.sizes(), (Shape{0, 5, 2, 3}));
  EXPECT_EQ(r.final_state.sizes(), (Shape{0, 2, 3, 4}));
}

TEST(SsdScan, RefusesWhatDoesNotFitInWords) {
  Problem p = problem(5);
  EXPECT_ERROR(ssd_scan(p.x, p.dt.narrow(1, 0, 4), p.A, p.B, p.C), ShapeError,
               "ssd_scan: dt is [2, 4, 4], expected [2, 5, 4]");
  EXPECT_ERROR(ssd_scan(p.x, p.dt, p.A, zeros({2, 5, 3, 5}), zeros({2, 5, 3, 5})), ShapeError,
               "4 heads are not divisible by the 3 groups");
  EXPECT_ERROR(ssd_scan(p.x, p.dt, p.A, p.B, p.B.narrow(3, 0, 4)), ShapeError, "C is");
  p.args.chunk_size = 0;
  EXPECT_ERROR(scan(p), OptionError, "chunk_size is 0");
  p.args.chunk_size = 2;
  p.args.seq_idx = zeros({2, 5});
  EXPECT_ERROR(scan(p), DTypeError, "seq_idx is float32, expected int64");
  p.args.seq_idx = zeros({2, 4}, kInt64);
  EXPECT_ERROR(scan(p), ShapeError, "seq_idx is [2, 4], expected [2, 5]");
  EXPECT_ERROR(ssd_step(p.args.initial_states, p.x, p.dt, p.A, p.B, p.C), ShapeError, "ssd_step");
}

}  // namespace
}  // namespace dropin
