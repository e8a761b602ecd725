// Memory that gives out at the n-th request and a disk that is full at the n-th byte, for n = 0, 1,
// 2, ... until the work is done without reaching n. After every fault: an exception and nothing
// else, no tensor memory lost, no half-written file, and the same work succeeds when tried again.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>

#include "dropin/model/transformer.h"
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/registry/conform.h"
#include "dropin/serialize/atomic_file.h"
#include "dropin/serialize/checkpoint.h"
#include "dropin/tensor/storage.h"
#include "files/temporary.h"
#include "support.h"

namespace {
std::atomic<int64_t> requests_left{-1};  // operator new's own countdown; negative: off
bool refused() {
  return requests_left.load(std::memory_order_relaxed) >= 0 && requests_left.fetch_sub(1) == 0;
}
void* ask(std::size_t bytes, std::size_t alignment) {
  void* p = nullptr;
  if (refused() ||
      posix_memalign(&p, alignment < sizeof(void*) ? alignof(std::max_align_t) : alignment,
                     bytes ? bytes : 1) != 0)
    return nullptr;
  return p;
}
void* request(std::size_t bytes, std::size_t alignment) {
  if (void* p = ask(bytes, alignment)) return p;
  throw std::bad_alloc();
}
}  // namespace

#pragma GCC diagnostic ignored \
    "-Wmismatched-new-delete"  // both sides are replaced, and stand on malloc and free
void* operator new(std::size_t n) { return request(n, 0); }
void* operator new[](std::size_t n) { return request(n, 0); }
void* operator new(std::size_t n, std::align_val_t a) {
  return request(n, static_cast<std::size_t>(a));
}
void* operator new[](std::size_t n, std::align_val_t a) {
  return request(n, static_cast<std::size_t>(a));
}
void* operator new(std::size_t n, const std::nothrow_t&) noexcept { return ask(n, 0); }
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept { return ask(n, 0); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace dropin {
namespace {

using testing::content;
using testing::TemporaryFolder;

/// Fails request number 0, 1, 2, ... of `work` until it gets through; how many faults there were.
int until_through(
    const std::function<void(int64_t)>& arm, const std::function<void()>& work,
    const std::function<void()>& after = [] {}) {
  work();  // what is made once and kept (pools, plans, tables) is there before the count
  const int64_t before = memory_stats().allocated;
  for (int n = 0; n < 200000; ++n) {
    bool through = true;
    arm(n);
    try {
      work();
    } catch (const Error&) {
      through = false;
    } catch (const std::bad_alloc&) {
      through = false;
    }
    arm(-1);
    after();
    EXPECT_EQ(memory_stats().allocated, before) << "after fault " << n;
    if (::testing::Test::HasFailure()) return n;
    if (through) return n;
  }
  ADD_FAILURE() << "never got through";
  return 0;
}
void fail_tensor(int64_t n) { fail_allocation_after(n); }
void fail_new(int64_t n) { requests_left.store(n); }

TrainingState at_step(int64_t n) {
  TrainingState s;
  s.step = n;
  return s;
}

struct Trained {
  Transformer model{
      {.vocab_size = 11, .embed_dim = 8, .num_layers = 1, .num_heads = 2, .max_len = 6}};
  AdamW optimizer{model.parameters(), {.lr = 1e-2}};
  Tensor ids = zeros({2, 6}, kInt64), target = zeros({12}, kInt64);
  void step() {
    optimizer.zero_grad();
    Tensor loss = cross_entropy(model(ids).reshape({-1, 11}), target);
    loss.backward();
    optimizer.step();
  }
};

TEST(Faults, ATrainingStepSurvivesTensorMemoryGivingOut) {
  Trained t;
  t.step();  // the optimizer's states are there
  for (auto& p : t.model.parameters()) p.set_grad({});
  const int faults = until_through(
      fail_tensor,
      [&] {
        t.step();
        for (auto& p : t.model.parameters()) p.set_grad({});
      },
      [&] {
        for (auto& p : t.model.parameters()) p.set_grad({});
      });
  EXPECT_GT(faults, 50);
}

TEST(Faults, ATrainingStepSurvivesAnyMemoryGivingOut) {
  Trained t;
  t.step();
  auto clear = [&] {
    for (auto& p : t.model.parameters()) p.set_grad({});
  };
  clear();
  const int faults = until_through(
      fail_new, [&] { t.step(), clear(); }, clear);
  EXPECT_GT(faults, 200);
}

TEST(Faults, AnOptimizerStepIsAllOrNothing) {
  // the first step makes the states: when memory gives out there, the parameters must not have
  // moved
  for (const char* name : {"SGD", "Adam", "AdamW", "Adam8bit", "AdamW8bit", "SGD8bit"}) {
    for (int n = 0; n < 64; ++n) {
      Tensor a = ones({3, 5}).requires_grad_(), b = ones({4}).requires_grad_();
      a.set_grad(ones({3, 5}));
      b.set_grad(ones({4}));
      const Box<Optimizer> o = make_optimizer(
          name, {a, b},
          Json::parse(std::string(name).rfind("SGD", 0) == 0 ? R"({"lr": 0.1, "momentum": 0.9})"
                                                             : R"({"lr": 0.1})"));
      fail_tensor(n);
      bool through = true;
      try {
        o->step();
      } catch (const Error&) {
        through = false;
      }
      fail_tensor(-1);
      if (through) break;
      EXPECT_EQ(testing::max_difference(a, ones({3, 5})), 0) << name << ", fault " << n;
      EXPECT_EQ(testing::max_difference(b, ones({4})), 0) << name << ", fault " << n;
      o->step();
      EXPECT_GT(testing::max_difference(a, ones({3, 5})), 0) << name << " goes on";
    }
  }
}

TEST(Faults, ACheckpointIsWholeOrTheOldOneStays) {
  TemporaryFolder folder;
  const std::string path = folder / "run.safetensors";
  Trained t;
  t.step();
  save_checkpoint(path, t.model, t.optimizer, at_step(1));
  const std::string old = content(path);
  t.step();
  auto save = [&] { save_checkpoint(path, t.model, t.optimizer, at_step(2)); };
  auto restore = [&] { testing::write(path, old); };
  auto whole = [&] {
    EXPECT_EQ(folder.files(), 1u) << "a temporary was left";
    EXPECT_TRUE(read_checkpoint(path).step == 2 || content(path) == old);
    if (read_checkpoint(path).step == 2) restore();
  };
  save(), restore();
  EXPECT_GT(until_through(fail_new, save, whole), 20);
  // a full disk, at every byte of the beginning and at every 97th of the rest
  const auto bytes = static_cast<long long>(old.size());
  for (long long n = 0; n < bytes; n += n < 64 ? 1 : 97) {
    fail_writes_after(n);
    EXPECT_THROW(save(), FileError) << "after " << n << " bytes";
    fail_writes_after(-1);
    EXPECT_EQ(content(path), old);
    EXPECT_EQ(folder.files(), 1u);
  }
  save();
  EXPECT_EQ(read_checkpoint(path).step, 2);
}

TEST(Faults, LoadingACheckpointChangesNothingUnlessAllIsThere) {
  TemporaryFolder folder;
  const std::string path = folder / "run.safetensors";
  Trained t, fresh;
  t.step();
  save_checkpoint(path, t.model, t.optimizer, at_step(1));
  fresh.step();
  const auto before = fresh.model.state_dict();
  std::vector<std::vector<double>> values;
  for (const auto& [n, v] : before) values.push_back(v.to_vector());
  for (int n = 0; n < 20000; ++n) {
    bool through = true;
    fail_new(n);
    try {
      load_checkpoint(path, fresh.model, fresh.optimizer);
    } catch (const Error&) {
      through = false;
    } catch (const std::bad_alloc&) {
      through = false;
    }
    fail_new(-1);
    if (through) return;
    std::size_t i = 0;
    for (const auto& [name, v] : fresh.model.state_dict())
      ASSERT_EQ(v.to_vector(), values[i++]) << name << ", fault " << n;
  }
  ADD_FAILURE() << "never got through";
}

TEST(Faults, AConformRunSurvivesAnyMemoryGivingOut) {
  TemporaryFolder folder;
  const std::string path = folder / "case.safetensors";
  save_safetensors(path,
                   {{"param.weight", tensor({1.0, 2.0}, {1, 2}, kFloat32)},
                    {"param.bias", tensor({3.0}, {1}, kFloat32)},
                    {"input.x", tensor({1.0, 1.0}, {1, 2}, kFloat32)},
                    {"output.y", tensor({6.0}, {1, 1}, kFloat32)},
                    {"grad_output.y", tensor({1.0}, {1, 1}, kFloat32)},
                    {"grad_input.x", tensor({1.0, 2.0}, {1, 2}, kFloat32)}},
                   {{"format", "dropin-golden-1"},
                    {"kind", "module"},
                    {"name", "Linear"},
                    {"config", R"({"in_features": 2, "out_features": 1})"},
                    {"training", "false"},
                    {"rtol", "1e-5"},
                    {"atol", "1e-6"},
                    {"note", "written by a test"}});
  ASSERT_TRUE(conform(path).passed);
  const int faults = until_through(fail_new, [&] {
    const CaseResult r = conform(path);
    if (!r.passed)
      throw std::bad_alloc();  // a case that failed for want of memory says so in its result
  });
  EXPECT_GT(faults, 100);
}

}  // namespace
}  // namespace dropin
