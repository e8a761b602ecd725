#include "dropin/optimizer/ensemble.h"

#include <cmath>

#include "dropin/core/parallel.h"
#include "dropin/loss/mixup.h"
#include "dropin/projection/linear.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

MixupMP::Factory layers() {
  return
      [](std::uint64_t) { return Box<Module>(new Linear({.in_features = 4, .out_features = 3})); };
}
std::vector<std::pair<Tensor, Tensor>> batches(Generator& g) {
  std::vector<std::pair<Tensor, Tensor>> r;
  for (int i = 0; i < 3; ++i)
    r.emplace_back(randn({6, 4}, kFloat32, &g), randint(0, 3, {6}, kInt64, &g));
  return r;
}
MixupMP::OptimizerFactory descent() {
  return [](const Tensors& p) { return Box<Optimizer>(new SGD(p, {.lr = 0.1, .momentum = 0.9})); };
}

TEST(MixupMP, DoesNotDependOnThreadsOrOnTheCaller) {
  const Tensor x = random({5, 4}, kFloat32);
  Tensor results[2];
  const int before = get_num_threads();
  for (const int threads : {1, 2}) {
    set_num_threads(threads);
    manual_seed(static_cast<std::uint64_t>(threads));
    const std::uint64_t place = default_generator().offset();
    MixupMP m(layers(), {.members = 3, .seed = 4, .alpha = 0.4});
    m.fit(batches, 4, descent(),
          [](int64_t step, int64_t total) { return step < total / 2 ? 0.1 : 0.01; });
    EXPECT_EQ(default_generator().offset(), place);
    results[threads - 1] = m.member_logits(x);
  }
  set_num_threads(before);
  EXPECT_EQ(max_difference(results[0], results[1]), 0);
  EXPECT_GT(max_difference(results[0][0], results[0][1]), 1e-3) << "members differ";
}

TEST(MixupMP, PredictsTheMeanOfProbabilities) {
  const DeepEnsemble m(layers(), {.members = 4});
  const Tensor x = random({5, 4}, kFloat32);
  EXPECT_LT(max_difference(m.predict(x), mean(softmax(m.member_logits(x), 2), {0})), 1e-6);
}

TEST(DeepEnsemble, TrainsAsEachMemberAlone) {
  DeepEnsemble m(layers(), {.members = 2, .seed = 7});
  m.fit(batches, 2, descent());
  for (std::uint64_t b = 0; b < 2; ++b) {
    manual_seed(7 + b);
    Box<Module> alone = layers()(7 + b);
    SGD o(alone->parameters(), {.lr = 0.1, .momentum = 0.9});
    Generator g(7 + b);
    for (int e = 0; e < 2; ++e)
      for (const auto& [x, y] : batches(g)) {
        o.zero_grad();
        cross_entropy(alone->call({{"x", x}}).find("y"), y).backward();
        o.step();
      }
    const auto& member = m.member(static_cast<int64_t>(b));
    EXPECT_LT(max_difference(member.parameters()[0], alone->parameters()[0]), 1e-6);
  }
}

TEST(MixupMP, RefusesWhatDoesNotFitInWords) {
  EXPECT_ERROR(MixupMP(layers(), {.members = 0}), OptionError, "members is 0");
  EXPECT_ERROR(MixupMP(layers(), {.pseudo_prop = 1.5}), OptionError, "pseudo_prop is 1.5");
  EXPECT_ERROR(MixupMP(nullptr, {}), OptionError, "the factory is empty");
  const MixupMP m(layers(), {.members = 1});
  EXPECT_ERROR(m.member(1), IndexError, "member 1, expected 0 to 0");
}

}  // namespace
}  // namespace dropin
