// Mixers whose states the tests step.
#pragma once
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {

using testing::device;

using testing::random;

inline constexpr int64_t kWidth = 8, kRoom = 96;

inline constexpr double kTolerance = 1e-10;  // in float64; Hyena's transforms add some

// A member by name and options over embed_dim 8, and what its step() can be told.
struct Mixer {
  std::string label, name, options;
  bool positions = false;
};

inline void PrintTo(const Mixer& m, std::ostream* os) { *os << m.label; }

class States : public ::testing::TestWithParam<Mixer> {
 protected:
  void SetUp() override {
    manual_seed(3);
    module_ = make(GetParam().name, Json::parse(GetParam().options));
    module_->to(kFloat64);
    module_->to(device());
    module_->eval();
    std::uint64_t seed = 10;
    for (auto& [name, p] : module_->named_parameters())  // no bias stays 0
      p.add_(random(p.sizes(), kFloat64, ++seed), 0.1);
  }
  SequenceMixer& mixer() { return dynamic_cast<SequenceMixer&>(*module_); }
  Box<SequenceState> state(int64_t batch, int64_t keep = 0) {
    return mixer().init_state(batch, kRoom, {.keep = keep});
  }
  Tensor step(const Tensor& x, SequenceState& s, const StepArgs& args = {}) {
    return mixer().step(x, s, args);
  }

 private:
  no_grad guard_;
  Box<Module> module_;
};

inline Tensor tokens(int64_t batch, int64_t n, std::uint64_t seed = 5) {
  return random({batch, n, kWidth}, kFloat64, seed);
}

inline Tensor mask_of(const std::vector<std::vector<int>>& rows) {
  std::vector<double> all;
  for (const auto& r : rows) all.insert(all.end(), r.begin(), r.end());
  return tensor(all, {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())})
      .to(kBool)
      .to(device());
}

}  // namespace dropin
