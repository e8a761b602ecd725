// In-place operations on views, their bases and their siblings, case by case as PyTorch has them.
#include <functional>
#include <map>

#include "support.h"

namespace dropin {
namespace {

struct Case {
  const char *base, *view, *operation, *use;
  char outcome;
  std::vector<double> values, gw, ga;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
#include "in_place_views/computed_parts.inc"
#include "in_place_views/computed_reordered.inc"
#include "in_place_views/computed_shaped.inc"
#include "in_place_views/detached.inc"
#include "in_place_views/leaf.inc"
#include "in_place_views/plain.inc"
#include "in_place_views/transposed.inc"
  };
  return all;
}

using Views = std::map<std::string, std::function<Tensor(const Tensor&)>>;
using Operations = std::map<std::string, std::function<void(Tensor, const Tensor&)>>;

const Views& bases() {
  static const Views m = {{"computed", [](const Tensor& w) { return w * 2; }},
                          {"leaf", [](const Tensor& w) { return w; }},
                          {"plain",
                           [](const Tensor&) {
                             return ones({2, 3}) * 3;
                           }},
                          {"detached", [](const Tensor& w) { return (w * 2).detach(); }},
                          {"transposed", [](const Tensor& w) {
                             return (w.reshape({3, 2}) * 2).mT().detach();
                           }}};
  return m;
}
const Views& views() {
  static const Views m = {{"itself", [](const Tensor& y) { return y; }},
                          {"select", [](const Tensor& y) { return y[0]; }},
                          {"select last", [](const Tensor& y) { return y.select(1, -1); }},
                          {"select twice", [](const Tensor& y) { return y[1][2]; }},
                          {"slice", [](const Tensor& y) { return y.narrow(1, 1, 2); }},
                          {"slice step", [](const Tensor& y) { return y.slice(1, 0, kEnd, 2); }},
                          {"transpose", [](const Tensor& y) { return y.transpose(0, 1); }},
                          {"permute",
                           [](const Tensor& y) {
                             return y.permute({1, 0});
                           }},
                          {"unsqueeze", [](const Tensor& y) { return y.unsqueeze(1); }},
                          {"squeeze", [](const Tensor& y) { return y.narrow(0, 1, 1).squeeze(0); }},
                          {"view",
                           [](const Tensor& y) {
                             return y.is_contiguous() ? y.view({3, 2}) : y.view({2, 3, 1});
                           }},
                          {"flatten", [](const Tensor& y) { return y.narrow(0, 0, 1).flatten(); }},
                          {"diagonal", [](const Tensor& y) { return y.diagonal(1); }},
                          {"expand",
                           [](const Tensor& y) {
                             return y.unsqueeze(0).expand({2, 2, 3});
                           }},
                          {"split", [](const Tensor& y) { return split(y, 1)[1]; }},
                          {"chunk", [](const Tensor& y) { return chunk(y, 3, 1)[0]; }},
                          {"view of a split", [](const Tensor& y) { return split(y, 1)[1][0]; }},
                          {"made in no_grad",
                           [](const Tensor& y) {
                             no_grad guard;
                             return y[0];
                           }},
                          {"detach", [](const Tensor& y) { return y[0].detach(); }}};
  return m;
}
const Operations& operations() {
  static const Operations m = {
      {"mul_(10)", [](Tensor v, const Tensor&) { v.mul_(10); }},
      {"add_(0.5)", [](Tensor v, const Tensor&) { v.add_(0.5); }},
      {"add_(a)", [](Tensor v, const Tensor& a) { v.add_(a); }},
      {"sub_(a, 2)", [](Tensor v, const Tensor& a) { v.sub_(a, 2); }},
      {"mul_(a)", [](Tensor v, const Tensor& a) { v.mul_(a); }},
      {"div_(a)", [](Tensor v, const Tensor& a) { v.div_(a); }},
      {"copy_(a)", [](Tensor v, const Tensor& a) { v.copy_(a); }},
      {"copy_(1)", [](Tensor v, const Tensor&) { v.copy_(ones({})); }},
      {"fill_(9)", [](Tensor v, const Tensor&) { v.fill_(9); }},
      {"zero_()", [](Tensor v, const Tensor&) { v.zero_(); }},
      {"clamp_(3, 7)", [](Tensor v, const Tensor&) { v.clamp_(3, 7); }},
      {"masked_fill_(v > 5, 1)", [](Tensor v, const Tensor&) { v.masked_fill_(v > 5, 1); }},
      {"mul_(v)", [](Tensor v, const Tensor&) { v.mul_(v); }},
      {"mul_(10) in no_grad",
       [](Tensor v, const Tensor&) {
         no_grad guard;
         v.mul_(10);
       }},
      {"copy_(a) in no_grad",
       [](Tensor v, const Tensor& a) {
         no_grad guard;
         v.copy_(a);
       }},
      {"mul_(10), add_(a)", [](Tensor v, const Tensor& a) { v.mul_(10).add_(a); }}};
  return m;
}

Tensor weighted(const Tensor& t) {
  return sum(t * arange(1, t.numel() + 1, 1, kFloat32).reshape(t.sizes()));
}

/// The loss, or undefined where the use itself is refused.
Tensor used(const std::string& use, const Tensor& y, const Tensor& v, const Tensor& other,
            const Tensor& before) {
  if (use == "base") return weighted(y);
  if (use == "view") return weighted(v);
  if (use == "other view") return weighted(other);
  if (use == "new view") return weighted(y.transpose(0, 1)[1]);
  if (use == "square of base") return weighted(y * y);
  return before;
}

void expect_gradient(const Tensor& leaf, const std::vector<double>& want) {
  ASSERT_EQ(leaf.grad().defined(), !want.empty());
  if (!want.empty()) testing::expect_values(leaf.grad(), want, 1e-4);
}

void check(const Case& c) {
  SCOPED_TRACE(std::string(c.base) + " / " + c.view + " / " + c.operation + " / " + c.use);
  Tensor w = arange(1, 7, 1, kFloat32).reshape({2, 3}).requires_grad_();
  const Tensor y = bases().at(c.base)(w), v = views().at(c.view)(y);
  Tensor a = (arange(1, v.numel() + 1, 1, kFloat32) / 2).reshape(v.sizes()).requires_grad_();
  const Tensor other = y.transpose(0, 1);
  const std::string use = c.use;
  const Tensor before = use == "saved before"     ? sum(y * y)
                        : use == "unsaved before" ? sum(y * 3)
                                                  : Tensor();
  const std::vector<double> untouched = y.detach().to_vector();
  char outcome = 'G';
  try {
    operations().at(c.operation)(v, a);
  } catch (const Error&) {
    outcome = 'R';
    EXPECT_EQ(y.detach().to_vector(), untouched) << "a refused write changed something";
  }
  Tensor loss;
  if (outcome == 'G') try {
      loss = used(use, y, v, other, before);
      if (!loss.requires_grad()) outcome = 'N';
    } catch (const AutogradError&) {
      outcome = 'U';
    }
  if (outcome == 'G') try {
      loss.backward();
    } catch (const AutogradError&) {
      outcome = 'B';
    }
  ASSERT_EQ(outcome, c.outcome);
  if (outcome != 'G') return;
  testing::expect_values(y.detach(), c.values, 1e-5);
  expect_gradient(w, c.gw);
  expect_gradient(a, c.ga);
}

/// Writes, uses what was written without a backward, and drops it all.
void write_and_drop(const std::function<Tensor(const Tensor&)>& base,
                    const std::function<Tensor(const Tensor&)>& view,
                    const std::function<void(Tensor, const Tensor&)>& operation,
                    const std::string& use) {
  const Tensor w = ones({2, 3}).requires_grad_(), y = base(w), v = view(y);
  const Tensor a = ones(v.sizes()).requires_grad_();
  try {
    operation(v, a);
    const Tensor loss = used(use, y, v, y.transpose(0, 1), {});
  } catch (const Error&) {
  }
}

TEST(InPlaceViews, AsTorch) {
  EXPECT_GT(cases().size(), 1000u);
  for (const Case& c : cases()) check(c);
}

// Nothing may be left of a graph that is dropped, whether it was written to, used, refused, or its
// backward failed halfway.
TEST(InPlaceViews, AGraphThatNobodyUsesIsFreed) {
  EXPECT_GT(cases().size(), 1000u);
  for (const Case& c : cases()) {
    const int64_t before = memory_stats().allocated;
    check(c);
    EXPECT_EQ(memory_stats().allocated, before)
        << c.base << " / " << c.view << " / " << c.operation << " / " << c.use;
  }
  for (const auto& [base_name, base] : bases())
    for (const auto& [view_name, view] : views())
      for (const auto& [name, operation] : operations())
        for (const char* use : {"base", "view", "other view", "new view", "square of base"}) {
          const int64_t before = memory_stats().allocated;
          write_and_drop(base, view, operation, use);
          EXPECT_EQ(memory_stats().allocated, before)
              << base_name << " / " << view_name << " / " << name << " / " << use;
        }
}

// A tensor that takes the history of something computed from itself: an operation that saved it, as
// one operand or both, before the write.
TEST(InPlaceViews, AGraphThatEndsInWhatItSavedIsFreed) {
  using Write = std::function<void(Tensor y, const Tensor& w)>;
  const std::map<std::string, Write> writes = {
      {"y = y * y", [](Tensor y, const Tensor&) { y.copy_(y * y); }},
      {"y += y * y", [](Tensor y, const Tensor&) { y.add_(y * y); }},
      {"y = y * w", [](Tensor y, const Tensor& w) { y.copy_(y * w); }},
      {"y *= w", [](Tensor y, const Tensor& w) { y.mul_(w); }},
      {"y *= y", [](Tensor y, const Tensor&) { y.mul_(y); }},
      {"y /= y", [](Tensor y, const Tensor&) { y.div_(y); }},
      {"y = exp(y)", [](Tensor y, const Tensor&) { y.copy_(exp(y)); }},
      {"y[0] = y[1] * y[1]", [](Tensor y, const Tensor&) { y[0].copy_(y[1] * y[1]); }},
      {"y[0] *= y[1]", [](Tensor y, const Tensor&) { y[0].mul_(y[1]); }},
      {"y[0] = y's product", [](Tensor y, const Tensor& w) { y[0].copy_((y * w)[1]); }},
      {"y = softmax(y)", [](Tensor y, const Tensor&) { y.copy_(softmax(y, 1)); }},
      {"y = y @ y", [](Tensor y, const Tensor&) { y.copy_(matmul(y, y)); }},
      {"twice", [](Tensor y, const Tensor& w) { y.mul_(w).mul_(y).copy_(y * y); }}};
  for (const bool plain : {false, true})
    for (const auto& [name, write] : writes) {
      const int64_t before = memory_stats().allocated;
      {
        const Tensor w = (ones({2, 2}) * 2).requires_grad_();
        const Tensor y = plain ? ones({2, 2}) * 3 : w * 2;
        write(y, w);
        const Tensor loss = weighted(y);
      }
      EXPECT_EQ(memory_stats().allocated, before) << name << (plain ? ", y without a history" : "");
    }
}

TEST(InPlaceViews, AssignmentToATemporaryWrites) {
  Tensor x = zeros({2, 3}), a = tensor({1, 2, 3}).requires_grad_();
  x[0] = a;
  x[1] = 5;
  testing::expect_values(x.detach(), {1, 2, 3, 5, 5, 5});
  x[1] = x[0];
  weighted(x).backward();
  testing::expect_values(a.grad(), {5, 7, 9});
  Tensor t = x[0];
  t = zeros({7});
  EXPECT_EQ(t.numel(), 7);
  testing::expect_values(x.detach(), {1, 2, 3, 1, 2, 3});
  t = {};
  EXPECT_FALSE(t.defined());
}

TEST(InPlaceViews, CompoundAssignment) {
  Tensor x = tensor({1, 2}), same = x;
  x += 1;
  x *= tensor({2, 3});
  x -= tensor({1, 1});
  x /= 2;
  testing::expect_values(same, {1.5, 4});
  Tensor i = tensor({7, 8}, kInt64);
  i += 1;
  i -= tensor({1}, kInt64);
  i *= 2;
  EXPECT_EQ(i.dtype(), kInt64);
  testing::expect_values(i, {14, 16});
  EXPECT_ERROR(i /= 2, DTypeError, "div_: the result is float32");
  Tensor m = zeros({2, 2});
  m[1] += 3;
  testing::expect_values(m, {0, 0, 3, 3});
}

TEST(InPlaceViews, RandomFillsAreChecked) {
  Tensor w = zeros({2, 2}).requires_grad_();
  EXPECT_ERROR(w.normal_(), AutogradError, "leaf");
  EXPECT_ERROR(w[0].uniform_(), AutogradError, "view of a leaf");
  EXPECT_ERROR(w[0].fill_(9), AutogradError, "view of a leaf");
  testing::expect_values(w.detach(), {0, 0, 0, 0});
  Tensor y = w * 2;
  y[0].normal_();
  sum(y * 3).backward();
  testing::expect_values(w.grad(), {0, 0, 6, 6});
}

TEST(InPlaceViews, SavedTensorsNoticeWritesThroughViews) {
  Tensor w = tensor({1, 2, 3}).requires_grad_();
  Tensor y = w * 2, z = sum(y * y);
  y.view({3, 1})[0].detach().fill_(5);
  EXPECT_ERROR(z.backward(), AutogradError, "changed in place");
}

TEST(InPlaceViews, SecondDerivativesGoThroughWrites) {
  Tensor w = tensor({1, 2, 3}, kFloat64).requires_grad_();
  Tensor y = w * w;
  y[0].mul_(w[1]);  // w0^2 w1
  const Tensor g = grad({sum(y)}, {w}, {}, true, true)[0];
  testing::expect_values(g.detach(), {4, 5, 6});
  testing::expect_values(grad({sum(g)}, {w})[0], {2 * 2 + 2, 2 + 2, 2});
}

TEST(InPlaceViews, OverlappingSiblingsAreSummed) {
  Tensor w = tensor({1, 2, 3}).requires_grad_();
  Tensor y = w * 2, windows = y.unfold(0, 2, 1), wide = y.expand({2, 3});
  y[1].mul_(10);
  weighted(windows).backward({}, true);
  testing::expect_values(w.grad(), {2, 100, 8});
  w.set_grad({});
  weighted(wide).backward();
  testing::expect_values(w.grad(), {10, 140, 18});
}

}  // namespace
}  // namespace dropin
