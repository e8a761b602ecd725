// Hooks, walking a tree by path, and children called with named arguments.
#include "dropin/activation/activation.h"
#include "dropin/module/sequential.h"
#include "dropin/projection/lora.h"
#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

Linear doubler() {
  Linear m({.in_features = 2, .out_features = 2, .bias = false});
  no_grad guard;
  m.weight().copy_(eye(2) * 2);
  return m;
}

TEST(Hooks, ForwardHooksSeeAndReplace) {
  Linear m = doubler();
  std::vector<std::string> order;
  m.register_forward_pre_hook([&](Module&, const Tensors& in) {
    order.push_back("before");
    return Tensors{in[0] + 1};
  });
  auto handle = m.register_forward_hook([&](Module& of, const Tensors& in, const Tensor& y) {
    EXPECT_EQ(&of, &m);
    expect_values(in[0], {2, 2});
    expect_values(y.detach(), {4, 4});
    order.push_back("seen");  // void: changes nothing
  });
  m.register_forward_hook([&](Module&, const Tensors&, const Tensor& y) {
    order.push_back("after");
    return y * 10;
  });
  expect_values(m(ones({2})).detach(), {40, 40});
  EXPECT_EQ(order, (std::vector<std::string>{"before", "seen", "after"}));
  handle.remove();
  handle.remove();
  expect_values(m.call({{"x", ones({2})}}).find("y").detach(), {40, 40});
  EXPECT_EQ(order.size(), 5U) << "by name, and without the removed one";
  expect_values(m.forward(ones({2})).detach(), {2, 2});
}

TEST(Hooks, BackwardHooksSeeGradientsAndReplaceThem) {
  Linear m = doubler();
  int calls = 0;
  auto handle =
      m.register_full_backward_hook([&](Module&, const Tensors& gx, const Tensors& gy) -> Tensors {
        ++calls;
        expect_values(gy[0], {1, 1});
        expect_values(gx[0], {2, 2});
        return {gx[0] * 100};
      });
  Tensor x = ones({2}).requires_grad_();
  (m(x * 3)).sum().backward();
  expect_values(x.grad(), {600, 600});
  expect_values(m.weight().grad(), {3, 3, 3, 3});
  EXPECT_EQ(calls, 1);
  handle.remove();
  x.set_grad({});
  m(x).sum().backward();
  expect_values(x.grad(), {2, 2});
  EXPECT_EQ(calls, 1);
}

TEST(Hooks, BackwardHookOfAFirstLayerHasNoInputGradient) {
  Linear m = doubler();
  int calls = 0;
  m.register_full_backward_hook([&](Module&, const Tensors& gx, const Tensors& gy) {
    ++calls;
    EXPECT_FALSE(gx[0].defined());
    expect_values(gy[0], {1, 1});
  });
  m(ones({2})).sum().backward();
  EXPECT_EQ(calls, 1);
  {
    no_grad guard;
    m(ones({2}));
  }
  EXPECT_EQ(calls, 1);
}

TEST(Hooks, GoWithTheModuleAndNotWithItsClone) {
  Sequential net;
  net.add<Linear>({.in_features = 2, .out_features = 2}).add<ReLU>();
  int calls = 0;
  auto count = [&](Module&, const Tensors&, const Tensor&) { ++calls; };
  RemovableHandle handle = net.get_submodule("0").register_forward_hook(count);
  Sequential moved = std::move(net);
  moved(ones({2}));
  EXPECT_EQ(calls, 1);
  moved.clone()->call({{"x", ones({2})}});
  EXPECT_EQ(calls, 1);
  handle.remove();
  moved(ones({2}));
  EXPECT_EQ(calls, 1);
  RemovableHandle left;
  Tensor y;
  const Tensor x = ones({2}).requires_grad_();
  {
    Linear gone = doubler();
    left = gone.register_full_backward_hook([](Module&, const Tensors&, const Tensors&) {});
    y = gone(x).sum();
  }
  left.remove();
  y.backward();  // the hook was taken away before
  expect_values(x.grad(), {2, 2});
}

TEST(Hooks, MistakesAreAnsweredInWords) {
  Linear m = doubler();
  m.register_forward_pre_hook([](Module&, const Tensors& in) { return Tensors{in[0], in[0]}; });
  EXPECT_ERROR(m(ones({2})), StateError, "returned 2 tensors, expected 1");
  struct Silent : Module {};
  Silent silent;
  EXPECT_ERROR(silent.register_forward_hook([](Module&, const Tensors&, const Tensor&) {}),
               StateError, "run no hooks");
  Tensor y;
  const Tensor x = ones({2}).requires_grad_();
  {
    Linear gone = doubler();
    gone.register_full_backward_hook([](Module&, const Tensors&, const Tensors&) {});
    y = gone(x).sum();
  }
  EXPECT_ERROR(y.backward(), AutogradError,
               "Linear: a backward hook's module was moved or destroyed");
}

struct Block : Module {
  Child<MultiheadAttention> attn =
      child<MultiheadAttention>("attn", {.embed_dim = 8, .num_heads = 2});
  Child<Linear> out = child<Linear>("out", {.in_features = 8, .out_features = 3});
  std::string_view type() const override { return "Block"; }
};

TEST(Tree, IsFoundByPath) {
  Block b;
  std::vector<std::string> paths;
  for (const auto& [path, m] : b.named_modules()) paths.push_back(path);
  EXPECT_EQ(paths, (std::vector<std::string>{"", "attn", "attn.q_proj", "attn.k_proj",
                                             "attn.v_proj", "attn.out_proj", "out"}));
  EXPECT_EQ(b.modules().size(), 7U);
  EXPECT_EQ(&b.get_submodule(""), &b);
  EXPECT_EQ(b.get_submodule("attn.v_proj").type(), "Linear");
  EXPECT_TRUE(b.get_parameter("attn.q_proj.weight").is_same(b.parameters()[0]));
  EXPECT_ERROR(b.get_submodule("attn.w_proj"), StateError, "no module at \"attn.w_proj\"");
  EXPECT_ERROR(b.get_parameter("attn.weight"), StateError, "no parameter at \"attn.weight\"");
  EXPECT_ERROR(b.get_buffer("out.weight"), StateError, "no buffer at \"out.weight\"");
}

TEST(Children, TakeNamedArgumentsAndShowTheirWeight) {
  Block b;
  EXPECT_EQ(b.out->weight().sizes(), (Shape{3, 8}));
  EXPECT_EQ(b.out->bias().sizes(), (Shape{3}));
  const Tensor x = random({1, 4, 8}, kFloat32, 2), mask = triu(ones({4, 4}), 1).to(kBool);
  const Tensor y = b.attn(x, {.attn_mask = mask});
  EXPECT_EQ(max_difference(y, b.attn->forward(x, {.attn_mask = mask})), 0);
  EXPECT_GT(max_difference(y, b.attn(x)), 1e-3);
  b.replace_child("out", Box<Module>(new LoRALinear({.in_features = 8, .out_features = 3})));
  EXPECT_EQ(b.out->weight().sizes(), (Shape{3, 8})) << "whatever member stands there";
}

struct Scaled : Function<Scaled> {
  static Tensor forward(FunctionContext& c, const Tensor& x, double k, const std::string& name) {
    c.save_value("k", k);
    c.save_value("name", name);
    return x * k;
  }
  static Tensors backward(FunctionContext& c, const Tensors& g) {
    EXPECT_EQ(c.value<std::string>("name"), "three");
    return {g[0] * c.value<double>("k")};
  }
};
struct Mistaken : Function<Mistaken> {
  static Tensor forward(FunctionContext& c, const Tensor& x, bool there) {
    if (there) c.save_value("k", 1);
    return x * 1;
  }
  static Tensors backward(FunctionContext& c, const Tensors& g) {
    return {g[0] * c.value<double>("k")};
  }
};

TEST(FunctionContext, KeepsValuesOfAnyType) {
  const Tensor x = ones({2}).requires_grad_();
  const Tensor y = Scaled::apply(x, 3.0, std::string("three"));
  backward({y.sum()}, {}, /*retain_graph=*/true);
  y.sum().backward();
  expect_values(x.grad(), {6, 6});
  EXPECT_ERROR(Mistaken::apply(x, false).sum().backward(), AutogradError,
               "no value \"k\" was saved");
  EXPECT_ERROR(Mistaken::apply(x, true).sum().backward(), AutogradError,
               "the value \"k\" is of another type, expected double");
}

}  // namespace
}  // namespace dropin
