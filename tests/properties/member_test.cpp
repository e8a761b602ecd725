// What every registered module owes its family. A new member gets all of it from its registration
// line.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "cpu/onednn.h"
#include "dropin/core/parallel.h"
#include "dropin/serialize/safetensors.h"
#include "properties/members.h"

namespace dropin::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Registry, EveryMember, ::testing::ValuesIn(modules()), label);

TEST_P(EveryMember, BatchEntriesAreIndependent) {
  if (GetParam().traits().no_batch) GTEST_SKIP() << "its result is of all samples together";
  Box<Module> m = made(GetParam());
  m->eval();
  const Inputs in = inputs_for(GetParam(), 3);
  const Tensor y = run(*m, in.all);
  for (int64_t b = 0; b < 3; ++b) {
    const NamedTensors one = in.each([b](const Tensor& t) { return t.narrow(0, b, 1); });
    EXPECT_LT(max_difference(run(*m, one), y.narrow(0, b, 1)), 1e-9) << "sample " << b;
  }
}

TEST_P(EveryMember, NonContiguousInputsGiveTheSame) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Inputs in = inputs_for(GetParam(), 2);
  const Tensor x = in.x(), strided = x.dim() > 1 ? x.transpose(0, -1).contiguous().transpose(0, -1)
                                                 : stack({x, x}, 1).select(1, 0);
  ASSERT_FALSE(strided.is_contiguous());
  EXPECT_LT(max_difference(run(*m, in.with(strided)), run(*m, in.all)), 1e-12);
  const Tensor wide = concat({x, x}, -1).slice(-1, 0, x.size(-1));
  EXPECT_LT(max_difference(run(*m, in.with(wide)), run(*m, in.all)), 1e-12);
}

TEST_P(EveryMember, EmptyBatchesGiveEmptyResults) {
  if (GetParam().traits().no_batch) GTEST_SKIP() << "its result is of all samples together";
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor y = run(*m, inputs_for(GetParam(), 0).all);
  EXPECT_EQ(y.size(0), 0);
  EXPECT_EQ(y.dim(), run(*m, inputs_for(GetParam(), 1).all).dim());
}

TEST_P(EveryMember, Float32AgreesWithFloat64) {
  Box<Module> wide = made(GetParam()), narrow = made(GetParam());
  narrow->to(kFloat32);
  wide->eval();
  narrow->eval();
  const Inputs in = inputs_for(GetParam(), 2);
  NamedTensors low;
  for (const auto& [name, t] : in.all) low.set(name, is_floating(t.dtype()) ? t.to(kFloat32) : t);
  const Tensor y = run(*wide, in.all), z = run(*narrow, low);
  EXPECT_EQ(z.dtype(), is_floating(y.dtype()) ? kFloat32 : y.dtype());
  EXPECT_LT(max_difference(y, z.to(kFloat64)), 2e-4);
}

TEST_P(EveryMember, SavesAndLoads) {
  Box<Module> a = made(GetParam(), kFloat32, 1), b = made(GetParam(), kFloat32, 2);
  const std::string path = ::testing::TempDir() + "dropin_" + GetParam().label + ".safetensors";
  std::vector<std::pair<std::string, Tensor>> state;
  for (const auto& [n, t] : a->state_dict()) state.emplace_back(n, t);
  save_safetensors(path, state);
  StateDict loaded;
  for (auto& [n, t] : load_safetensors(path).tensors) loaded.set(n, t);
  b->load_state_dict(loaded);
  a->eval();
  b->eval();
  const NamedTensors in = inputs_for(GetParam(), 2, kFloat32).all;
  EXPECT_EQ(max_difference(run(*a, in), run(*b, in)), 0);
  std::filesystem::remove(path);
}

TEST_P(EveryMember, CloneAndOptionsRoundTrip) {
  Box<Module> a = made(GetParam());
  a->eval();
  Box<Module> b = a->clone();
  const NamedTensors in = inputs_for(GetParam(), 2).all;
  EXPECT_EQ(max_difference(run(*a, in), run(*b, in)), 0);
  EXPECT_EQ(a->type(), GetParam().info->made_as);
  EXPECT_TRUE(make(a->type(), a->options_json())->options_json() == a->options_json());
}

TEST_P(EveryMember, NonFiniteInputsDoNotHang) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Inputs in = inputs_for(GetParam(), 2, kFloat32);
  if (!in.floating()) GTEST_SKIP() << "ids are integers";
  const Tensor x = in.x().clone();
  x.view({-1}).narrow(0, 0, 1).fill_(std::nan(""));
  x.view({-1}).narrow(0, 1, 1).fill_(INFINITY);
  if (GetParam().traits().refuses_nonfinite) {
    EXPECT_ERROR(run(*m, in.with(x)), Error, "expected");
    return;
  }
  run(*m, in.with(x));
  if (GetParam().traits().no_batch) return;
  EXPECT_LT(max_difference(run(*m, in.with(x)).narrow(0, 1, 1), run(*m, in.all).narrow(0, 1, 1)),
            1e-6)
      << "the other sample is untouched";
}

TEST_P(EveryMember, TwoThreadsMayRunOneModuleInEval) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Inputs in = inputs_for(GetParam(), 2, kFloat32);
  const Tensor x = in.x();
  no_grad guard;
  const Tensor want = run(*m, in.with(x));
  Tensor got[2];
  std::thread t[2];
  for (int i = 0; i < 2; ++i)
    t[i] = std::thread([&, i] {
      no_grad inner;
      for (int k = 0; k < 5; ++k) got[i] = run(*m, in.with(x));
    });
  for (auto& th : t) th.join();
  for (const Tensor& y : got) EXPECT_EQ(max_difference(y, want), 0);
}

TEST_P(EveryMember, HooksRunWhenCalledByName) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  if (!m->runs_hooks()) {
    EXPECT_ERROR(m->register_forward_hook([](Module&, const Tensors&, const Tensor&) {}),
                 StateError, m->type());
    return;
  }
  int before = 0;
  m->register_forward_pre_hook([&](Module&, const Tensors&) { ++before; });
  m->register_forward_hook(
      [](Module&, const Tensors&, const Tensor& y) { return full_like(y, 77); });
  no_grad guard;
  bool replaced = false;
  for (const auto& [name, t] : m->call(inputs_for(GetParam(), 2, kFloat32).all))
    replaced = replaced || (t.numel() > 0 && all(t == 77).item<bool>());
  EXPECT_EQ(before, 1);
  EXPECT_TRUE(replaced);
}

TEST_P(EveryMember, RefusesUnknownOptionsAndWrongTypes) {
  Json o = GetParam().options;
  o.set("no_such_option", 1);
  EXPECT_ERROR(make(GetParam().info->name, o), OptionError, "unknown option \"no_such_option\"");
  for (const FieldInfo& f : GetParam().info->options) {
    Json wrong = GetParam().options;
    wrong.set(f.name, Json::object());
    if (f.type == "any") continue;
    EXPECT_ERROR(make(GetParam().info->name, wrong), OptionError, "option " + f.name);
  }
}

TEST_P(EveryMember, RefusesInputsThatDoNotFit) {
  Box<Module> m = made(GetParam(), kFloat32);
  EXPECT_ERROR(m->call({}), StateError, "no tensor \"");
  const FamilyInfo& family = registry().family(*GetParam().info);
  if (!family.bad_inputs) {
    EXPECT_TRUE(GetParam().traits().any_shape) << family.name << " has no bad inputs to try";
    return;
  }
  if (GetParam().traits().any_shape) return;
  for (const BadInput& bad : family.bad_inputs(m->options_json())) {
    NamedTensors in;
    std::string text;
    for (const auto& [name, t] : bad.inputs) {
      in.set(name, t.to(device()));
      text += name + " " + t.sizes().str() + " ";
    }
    SCOPED_TRACE(text);
    EXPECT_ERROR(m->call(in), Error, bad.says);
  }
}

// --- what a caller may do to a member

TEST_P(EveryMember, RefusesIntegersWhereFloatsBelong) {
  Box<Module> m = made(GetParam(), kFloat32);
  const Inputs in = inputs_for(GetParam(), 2, kFloat32);
  if (!in.floating()) GTEST_SKIP() << "ids are integers";
  if (GetParam().traits().promotes_integers)
    GTEST_SKIP() << "functions of numbers promote integers, as torch's do";
  try {
    run(*m, in.with(zeros(in.x().sizes(), {kInt64, device()})));
    ADD_FAILURE() << "accepted int64";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("int64"), std::string::npos) << e.what();
  }
}

TEST_P(EveryMember, MisalignedAndExpandedInputsGiveTheSame) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Inputs in = inputs_for(GetParam(), 2, kFloat32);
  const Tensor x = in.x(), want = run(*m, in.all);
  if (is_floating(x.dtype()) && x.device().is_cpu()) {
    std::vector<float> memory(static_cast<std::size_t>(x.numel()) + 1);
    std::copy_n(x.contiguous().data<float>(), x.numel(), memory.data() + 1);
    EXPECT_LT(
        max_difference(run(*m, in.with(from_blob(memory.data() + 1, x.sizes(), kFloat32))), want),
        1e-6)
        << "4 bytes off";
  }
  auto expanded = [](const Tensor& t) {
    Shape many = t.sizes();
    many[0] = 3;
    return t.narrow(0, 0, 1).expand(many);
  };
  const NamedTensors wide = in.each(expanded);
  const NamedTensors copied = in.each([&](const Tensor& t) { return expanded(t).contiguous(); });
  EXPECT_LT(max_difference(run(*m, wide), run(*m, copied)), 1e-6) << "expanded";
}

TEST_P(EveryMember, AChangeOfSavedInputIsSeenOrHarmless) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Inputs in = inputs_for(GetParam(), 2);
  const Tensor first = in.x();
  if (!in.floating()) GTEST_SKIP() << "ids have no gradient";
  auto gradient = [&](bool change) {
    Tensor leaf = first.clone().requires_grad_();
    Tensor x = leaf * 1.0;
    const Tensor y = run(*m, in.with(x));
    if (!y.requires_grad()) return Tensor();
    if (change) {
      no_grad guard;
      x.add_(1.0);
    }
    return grad({sum(y)}, {leaf}, {}, false, false, true)[0];
  };
  const Tensor want = gradient(false);
  try {
    const Tensor got = gradient(true);
    if (want.defined()) {
      EXPECT_LT(max_difference(got, want), 1e-12) << "a gradient from changed values";
    }
  } catch (const AutogradError& e) {
    EXPECT_NE(std::string(e.what()).find("changed in place"), std::string::npos) << e.what();
  }
}

TEST_P(EveryMember, OneThreadAndTwoGiveTheSameBits) {
  const int before = get_num_threads();
  Tensor results[2][2];
  for (int threads : {1, 2}) {
    set_num_threads(threads);
    Box<Module> m = made(GetParam(), kFloat32);
    m->eval();
    const Inputs in = inputs_for(GetParam(), 3, kFloat32);
    Tensor x = in.x().clone();
    if (is_floating(x.dtype())) x.requires_grad_();
    const Tensor y = run(*m, in.with(x));
    results[threads - 1][0] = y.detach();
    if (is_floating(x.dtype()) && y.requires_grad())
      results[threads - 1][1] = grad({sum(y * y)}, {x}, {}, false, false, true)[0];
  }
  set_num_threads(before);
  EXPECT_EQ(max_difference(results[0][0], results[1][0]), 0);
  if (results[0][1].defined()) {
    EXPECT_EQ(max_difference(results[0][1], results[1][1]), 0) << "gradients";
  }
}

TEST_P(EveryMember, WorksWithoutOneDnn) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Inputs in = inputs_for(GetParam(), 2, kFloat32);
  const Tensor x = in.x(), want = run(*m, in.all);
  const bool before = cpu::onednn_enabled();
  cpu::set_onednn_enabled(false);
  const Tensor got = run(*m, in.with(x));
  cpu::set_onednn_enabled(before);
  EXPECT_LT(max_difference(got, want), 1e-4);
}

TEST_P(EveryMember, WorksInAForkedChild) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Inputs in = inputs_for(GetParam(), 2, kFloat32);
  const Tensor x = in.x();
  if (!x.device().is_cpu()) GTEST_SKIP() << "CUDA is refused after fork, in words";
  no_grad guard;
  const Tensor want = run(*m, in.with(x));  // the pool has its threads
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    _exit(max_difference(run(*m, in.with(x)), want) == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  EXPECT_EQ(max_difference(run(*m, in.with(x)), want), 0) << "the parent";
}

}  // namespace
}  // namespace dropin::testing
