// What every registered member owes its family. A new member gets all of it from its registration
// line.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "cpu/onednn.h"
#include "dropin/autograd/gradcheck.h"
#include "dropin/core/parallel.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/safetensors.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;
using testing::random;

// A member with options to run it by: the family's sample options that it knows, over which come
// its own examples.
struct Member {
  const ComponentInfo* info;
  Json options;
  std::string label;
};
void PrintTo(const Member& m, std::ostream* os) { *os << m.label << " " << m.options.dump(); }

std::vector<Member> members(std::function<bool(const ComponentInfo&)> wanted) {
  std::vector<Member> r;
  for (const ComponentInfo& c : registry().all()) {
    if (c.kind != ComponentKind::Module || c.family == "MatrixProduct" || !wanted(c))
      continue;  // a product has two inputs
    r.push_back({&c, sample_options(c), c.name});
    int k = 0;
    for (const std::string& e : c.examples) {
      Json o = sample_options(c);
      const Json changes = Json::parse(e);
      for (const auto& [key, v] : changes.items()) o.set(key, v);
      r.push_back({&c, o, c.name + "_example" + std::to_string(++k)});
    }
  }
  return r;
}
std::vector<Member> all_members() {
  return members([](const ComponentInfo&) { return true; });
}
std::vector<Member> mixers() {
  return members([](const ComponentInfo& c) { return c.family == "SequenceMixer"; });
}
std::string label(const ::testing::TestParamInfo<Member>& i) { return i.param.label; }

// An input for a member, `batch` samples of it.
Tensor input_for(const Member& m, std::int64_t batch, DType dtype = kFloat64,
                 std::uint64_t seed = 5, std::int64_t length = 9) {
  const std::string& f = m.info->family;
  Generator g(seed);
  if (!m.info->sample_input.empty()) {
    Shape s{batch};
    for (std::int64_t n : m.info->sample_input) s.push_back(n);
    return random(s, dtype, seed);
  }
  if (f == "TokenEmbedding" || m.info->name == "Transformer")
    return randint(0, 11, {batch, length}, {kInt64, device()}, &g);
  if (f == "SequenceMixer" || f == "Projection" || f == "FeedForward" || f == "Activation")
    return random({batch, length, 8}, dtype, seed);
  return random({batch, 4, 7, 6}, dtype, seed);
}
Box<Module> made(const Member& m, DType dtype = kFloat64, std::uint64_t seed = 1) {
  manual_seed(seed);
  Box<Module> r = make(m.info->name, m.options);
  r->to(dtype);
  r->to(device());
  return r;
}
Tensor run(Module& m, const Tensor& x) { return m.call({{"x", x}}).get("y", m.type()); }
bool mixes_batch(const Member& m, const Module& module) {
  return module.is_training() && (m.info->name == "BatchNorm2d" || m.info->name == "ConvNet");
}

class EveryMember : public ::testing::TestWithParam<Member> {};
INSTANTIATE_TEST_SUITE_P(Registry, EveryMember, ::testing::ValuesIn(all_members()), label);

TEST_P(EveryMember, GradientsAgreeWithDifferences) {
  if (GetParam().info->surrogate_gradient &&
      GetParam().info->surrogate_gradient(GetParam().options))
    GTEST_SKIP() << "its gradient is not the derivative by design; the goldens check it";
  if (GetParam().info->name == "MixNet")
    GTEST_SKIP() << "of so many rectifiers some always pass 0 within the step; its parts are "
                    "checked one by one";
  for (const bool training : {true, false}) {
    Box<Module> m = made(GetParam());
    m->train(training);
    if (GetParam().info->name == "Dropout" && training) continue;  // random by design
    {
      no_grad guard;  // away from the zeros that initial values and rectifiers share
      std::uint64_t seed = 50;
      for (auto& [n, p] : m->named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed), 0.1);
    }
    Tensors in{input_for(GetParam(), 2, kFloat64, 5, 5)};
    if (is_floating(in[0].dtype())) in[0] = in[0].clone().requires_grad_();
    auto named = m->named_parameters();
    for (auto& [n, p] : named) in.push_back(p);
    bool any = false;
    for (const Tensor& t : in) any = any || t.requires_grad();
    if (!any) continue;
    const StateDict buffers = [&] {
      StateDict s;
      for (auto& [n, t] : m->named_buffers()) s.set(n, t.clone());
      return s;
    }();
    auto f = [&](const Tensors& v) -> Tensors {
      for (std::size_t i = 0; i < named.size(); ++i)
        named[i].second.set_data(v[i + 1].detach());  // numeric: values only
      for (auto& [n, t] : m->named_buffers()) {
        no_grad guard;
        t.copy_(buffers.find(n));
      }
      return {run(*m, v[0])};
    };
    GradcheckOptions o;
    o.full_jacobian_below = 24;
    // analytic gradients come from the module's own parameters
    const Tensor y = run(*m, in[0]);
    const Tensor w = random(y.sizes(), kFloat64, 9);
    Tensors wanted;
    for (const Tensor& t : in)
      if (t.requires_grad()) wanted.push_back(t);
    const Tensors g = grad({sum(y * w)}, wanted, {}, false, false, true);
    std::size_t k = 0;
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (!in[i].requires_grad()) continue;
      const Tensor analytic = g[k].defined() ? g[k] : zeros_like(in[i]);
      ++k;
      const Tensor base = in[i].detach().clone(), u = random(base.sizes(), kFloat64, 30 + i);
      auto value = [&](double step) {
        no_grad guard;
        Tensors v;
        for (const Tensor& t : in) v.push_back(t.detach());
        v[i] = base + u * step;
        return sum(f(v)[0] * w).item();
      };
      const double h = 1e-6, numeric = (value(h) - value(-h)) / (2 * h),
                   got = sum(analytic * u).item();
      EXPECT_NEAR(got, numeric, 1e-5 * std::max(1.0, std::abs(numeric)))
          << (i ? named[i - 1].first : "x") << (training ? " (train)" : " (eval)");
      value(0);
    }
  }
}

TEST_P(EveryMember, BatchEntriesAreIndependent) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor x = input_for(GetParam(), 3), y = run(*m, x);
  for (std::int64_t b = 0; b < 3; ++b)
    EXPECT_LT(max_difference(run(*m, x.narrow(0, b, 1)), y.narrow(0, b, 1)), 1e-9)
        << "sample " << b;
}

TEST_P(EveryMember, NonContiguousInputsGiveTheSame) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor x = input_for(GetParam(), 2),
               strided = x.transpose(0, -1).contiguous().transpose(0, -1);
  ASSERT_FALSE(strided.is_contiguous());
  EXPECT_LT(max_difference(run(*m, strided), run(*m, x)), 1e-12);
  const Tensor wide = concat({x, x}, -1).slice(-1, 0, x.size(-1));
  EXPECT_LT(max_difference(run(*m, wide), run(*m, x)), 1e-12);
}

TEST_P(EveryMember, EmptyBatchesGiveEmptyResults) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor y = run(*m, input_for(GetParam(), 0));
  EXPECT_EQ(y.size(0), 0);
  EXPECT_EQ(y.dim(), run(*m, input_for(GetParam(), 1)).dim());
}

TEST_P(EveryMember, Float32AgreesWithFloat64) {
  Box<Module> wide = made(GetParam()), narrow = made(GetParam());
  narrow->to(kFloat32);
  wide->eval();
  narrow->eval();
  const Tensor x = input_for(GetParam(), 2);
  const Tensor y = run(*wide, x), z = run(*narrow, is_floating(x.dtype()) ? x.to(kFloat32) : x);
  EXPECT_EQ(z.dtype(), kFloat32);
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
  const Tensor x = input_for(GetParam(), 2, kFloat32);
  EXPECT_EQ(max_difference(run(*a, x), run(*b, x)), 0);
  std::filesystem::remove(path);
}

TEST_P(EveryMember, CloneAndOptionsRoundTrip) {
  Box<Module> a = made(GetParam());
  a->eval();
  Box<Module> b = a->clone();
  const Tensor x = input_for(GetParam(), 2);
  EXPECT_EQ(max_difference(run(*a, x), run(*b, x)), 0);
  EXPECT_EQ(a->type(), GetParam().info->name);
  EXPECT_TRUE(make(a->type(), a->options_json())->options_json() == a->options_json());
}

TEST_P(EveryMember, NonFiniteInputsDoNotHang) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  Tensor x = input_for(GetParam(), 2, kFloat32);
  if (!is_floating(x.dtype())) GTEST_SKIP() << "ids are integers";
  x = x.clone();
  x.view({-1}).narrow(0, 0, 1).fill_(std::nan(""));
  x.view({-1}).narrow(0, 1, 1).fill_(INFINITY);
  run(*m, x);
  if (GetParam().info->family != "Layer" && !mixes_batch(GetParam(), *m)) {
    EXPECT_LT(max_difference(run(*m, x).narrow(0, 1, 1),
                             run(*m, input_for(GetParam(), 2, kFloat32)).narrow(0, 1, 1)),
              1e-6)
        << "the other sample is untouched";
  }
}

TEST_P(EveryMember, TwoThreadsMayRunOneModuleInEval) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Tensor x = input_for(GetParam(), 2, kFloat32);
  no_grad guard;
  const Tensor want = run(*m, x);
  Tensor got[2];
  std::thread t[2];
  for (int i = 0; i < 2; ++i)
    t[i] = std::thread([&, i] {
      no_grad inner;
      for (int k = 0; k < 5; ++k) got[i] = run(*m, x);
    });
  for (auto& th : t) th.join();
  for (const Tensor& y : got) EXPECT_EQ(max_difference(y, want), 0);
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
  const std::string& f = GetParam().info->family;
  EXPECT_ERROR(m->call({}), StateError, "no tensor \"x\"");
  if (f == "Activation" || GetParam().info->name == "Dropout") return;  // any shape is right
  const Tensor bad = f == "TokenEmbedding" || GetParam().info->name == "Transformer"
                         ? zeros({2, 3}, device())
                         : zeros({2, 5}, device());
  try {
    run(*m, bad);
    ADD_FAILURE() << "accepted " << bad.sizes().str();
  } catch (const ShapeError& e) {
    EXPECT_NE(std::string(e.what()).find("expected"), std::string::npos) << e.what();
  } catch (const DTypeError& e) {
    EXPECT_NE(std::string(e.what()).find("expected"), std::string::npos) << e.what();
  }
}

// --- what a caller may do to a member

TEST_P(EveryMember, RefusesIntegersWhereFloatsBelong) {
  Box<Module> m = made(GetParam(), kFloat32);
  const Tensor x = input_for(GetParam(), 2, kFloat32);
  if (!is_floating(x.dtype())) GTEST_SKIP() << "ids are integers";
  if (GetParam().info->family == "Activation")
    GTEST_SKIP() << "functions of numbers promote integers, as torch's do";
  try {
    run(*m, zeros(x.sizes(), {kInt64, x.device()}));
    ADD_FAILURE() << "accepted int64";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("int64"), std::string::npos) << e.what();
  }
}

TEST_P(EveryMember, MisalignedAndExpandedInputsGiveTheSame) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Tensor x = input_for(GetParam(), 2, kFloat32), want = run(*m, x);
  if (is_floating(x.dtype()) && x.device().is_cpu()) {
    std::vector<float> memory(static_cast<std::size_t>(x.numel()) + 1);
    std::copy_n(x.contiguous().data<float>(), x.numel(), memory.data() + 1);
    EXPECT_LT(max_difference(run(*m, from_blob(memory.data() + 1, x.sizes(), kFloat32)), want),
              1e-6)
        << "4 bytes off";
  }
  Shape many = x.sizes();
  many[0] = 3;
  const Tensor one = x.narrow(0, 0, 1), wide = one.expand(many);
  EXPECT_LT(max_difference(run(*m, wide), run(*m, wide.contiguous())), 1e-6) << "expanded";
}

TEST_P(EveryMember, AChangeOfSavedInputIsSeenOrHarmless) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor first = input_for(GetParam(), 2);
  if (!is_floating(first.dtype())) GTEST_SKIP() << "ids have no gradient";
  auto gradient = [&](bool change) {
    Tensor leaf = first.clone().requires_grad_();
    Tensor x = leaf * 1.0;
    const Tensor y = run(*m, x);
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
    Tensor x = input_for(GetParam(), 3, kFloat32).clone();
    if (is_floating(x.dtype())) x.requires_grad_();
    const Tensor y = run(*m, x);
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
  const Tensor x = input_for(GetParam(), 2, kFloat32), want = run(*m, x);
  const bool before = cpu::onednn_enabled();
  cpu::set_onednn_enabled(false);
  const Tensor got = run(*m, x);
  cpu::set_onednn_enabled(before);
  EXPECT_LT(max_difference(got, want), 1e-4);
}

TEST_P(EveryMember, WorksInAForkedChild) {
  Box<Module> m = made(GetParam(), kFloat32);
  m->eval();
  const Tensor x = input_for(GetParam(), 2, kFloat32);
  if (!x.device().is_cpu()) GTEST_SKIP() << "CUDA is refused after fork, in words";
  no_grad guard;
  const Tensor want = run(*m, x);  // the pool has its threads
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    _exit(max_difference(run(*m, x), want) == 0 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  EXPECT_EQ(max_difference(run(*m, x), want), 0) << "the parent";
}

class EveryMixer : public ::testing::TestWithParam<Member> {};
INSTANTIATE_TEST_SUITE_P(Registry, EveryMixer, ::testing::ValuesIn(mixers()), label);

SequenceMixer& mixer(Module& m) { return dynamic_cast<SequenceMixer&>(m); }

TEST_P(EveryMixer, KeepsTheShape) {
  Box<Module> m = made(GetParam());
  for (const std::int64_t l : {1, 2, 7, 16})
    EXPECT_EQ(run(*m, input_for(GetParam(), 2, kFloat64, 5, l)).sizes(), (Shape{2, l, 8}));
  try {
    EXPECT_EQ(run(*m, zeros({2, 0, 8}, {kFloat64, device()})).sizes(), (Shape{2, 0, 8}));
  } catch (const ShapeError& e) {  // a member may ask for a token, in words
    EXPECT_NE(std::string(e.what()).find("expected"), std::string::npos) << e.what();
  }
}

TEST_P(EveryMixer, CausalMembersIgnoreTheFuture) {
  Box<Module> m = made(GetParam());
  m->eval();
  if (!mixer(*m).causal()) {
    Json o = GetParam().options;
    bool has = false;
    for (const FieldInfo& f : GetParam().info->options) has = has || f.name == "causal";
    if (!has) GTEST_SKIP() << "not causal";
    o.set("causal", true);
    try {
      manual_seed(1);
      m = make(GetParam().info->name, o);
    } catch (const OptionError& e) {
      GTEST_SKIP() << e.what();
    }
    m->to(kFloat64);
    m->to(device());
    m->eval();
  }
  const Tensor x = input_for(GetParam(), 1, kFloat64, 5, 12), y = run(*m, x);
  for (const std::int64_t cut : {1, 5, 11}) {
    Tensor changed = x.clone();
    changed.narrow(1, cut, 12 - cut).copy_(random({1, 12 - cut, 8}, kFloat64, 77));
    EXPECT_LT(max_difference(run(*m, changed).narrow(1, 0, cut), y.narrow(1, 0, cut)), 1e-10)
        << "changed from " << cut;
  }
}

TEST_P(EveryMixer, PaddingDoesNotMatter) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor x = input_for(GetParam(), 2, kFloat64, 5, 8);
  const Tensor pad =
      tensor({0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0}, {2, 8}, {kBool, device()});
  const Tensor y = mixer(*m).forward(x, {.key_padding_mask = pad});
  Tensor other = x.clone();
  other[0].narrow(0, 6, 2).fill_(1e3);
  const Tensor z = mixer(*m).forward(other, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(z[0].narrow(0, 0, 6), y[0].narrow(0, 0, 6)), 1e-9);
  EXPECT_LT(max_difference(z[1], y[1]), 1e-12);
  other[0].narrow(0, 6, 2).fill_(std::nan(""));
  const Tensor n = mixer(*m).forward(other, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(n[0].narrow(0, 0, 6), y[0].narrow(0, 0, 6)), 1e-9)
      << "NaN at padded keys leaked";
  EXPECT_ERROR(mixer(*m).forward(x, {.key_padding_mask = pad.to(kFloat32)}), DTypeError,
               "key_padding_mask is float32, expected bool");
  EXPECT_ERROR(mixer(*m).forward(x, {.key_padding_mask = zeros({2, 7}, {kBool, device()})}),
               ShapeError, "key_padding_mask is [2, 7]");
}

TEST_P(EveryMixer, ASampleOfPaddingAloneLeavesTheOthersAlone) {
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor x = input_for(GetParam(), 2, kFloat64, 5, 6);
  Tensor pad = zeros({2, 6}, {kBool, device()});
  const Tensor want = mixer(*m).forward(x, {.key_padding_mask = pad});
  pad[0].fill_(1);
  EXPECT_LT(max_difference(mixer(*m).forward(x, {.key_padding_mask = pad})[1], want[1]), 1e-12);
}

TEST_P(EveryMixer, StepEqualsForward) {
  Json o = GetParam().options;
  for (const FieldInfo& f : GetParam().info->options)
    if (f.name == "causal") o.set("causal", true);
  Box<Module> m;
  Box<SequenceState> state;
  try {
    manual_seed(1);
    m = make(GetParam().info->name, o);
    m->to(kFloat64);
    m->to(device());
    m->eval();
    state = mixer(*m).init_state(2, 9);
  } catch (const OptionError& e) {
    GTEST_SKIP() << e.what();
  }
  const Tensor x = input_for(GetParam(), 2), y = run(*m, x).detach();
  EXPECT_LT(max_difference(mixer(*m).step(x.narrow(1, 0, 4), *state), y.narrow(1, 0, 4)), 1e-8);
  for (std::int64_t t = 4; t < 9; ++t)
    EXPECT_LT(max_difference(mixer(*m).step(x.narrow(1, t, 1), *state), y.narrow(1, t, 1)), 1e-8)
        << "token " << t;
  EXPECT_ERROR(mixer(*m).step(zeros({3, 1, 8}, {kFloat64, device()}), *state), ShapeError,
               "batch 3");
}

TEST(Registry, NamesAreUniqueAndDocumented) {
  std::set<std::string> seen;
  for (const ComponentInfo& c : registry().all()) {
    EXPECT_TRUE(seen.insert(c.name).second) << c.name;
    EXPECT_FALSE(c.summary.empty()) << c.name;
    if (!c.replaces.empty()) {
      EXPECT_EQ(registry().find(c.replaces).family, c.family) << c.name;
    }
    for (const FieldInfo& f : c.options) EXPECT_FALSE(f.doc.empty()) << c.name << "." << f.name;
  }
  EXPECT_ERROR(registry().find("MultiheadAttension"), OptionError,
               "the nearest name is \"MultiheadAttention\"");
}

}  // namespace
}  // namespace dropin
