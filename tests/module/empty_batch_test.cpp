// A batch without entries, and of one: every registered layer, forward and backward.
#include "dropin/norm/norm.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

TEST(EmptyBatch, EveryLayerGivesAnEmptyResultAndZeroGradients) {
  int layers = 0;
  for (const ComponentInfo& c : registry().all()) {
    if (!c.make_module) continue;
    std::vector<Json> options{sample_options(c)};
    for (const std::string& e : c.examples) {
      Json o = sample_options(c);
      const Json example = Json::parse(e);
      for (const auto& [k, v] : example.items()) o.set(k, v);
      options.push_back(o);
    }
    for (const Json& o : options)
      for (const DType dtype : {kFloat32, kFloat64})
        for (const bool training : {true, false}) {
          const std::string where =
              c.name + o.dump() + " " + name(dtype) + (training ? " train" : " eval");
          try {
            Box<Module> m = make(c.name, o);
            m->to(dtype).train(training);
            const Sample sample = sample_inputs(c, o, {.batch = 0, .dtype = dtype});
            NamedTensors in = sample.inputs;
            Tensor x = in.find(sample.main());
            if (is_floating(x.dtype())) x.requires_grad_();
            in.set(sample.main(), x);
            StateDict before;
            for (auto& [n, t] : m->named_buffers())
              if (n.find("num_batches_tracked") == std::string::npos) before.set(n, t.clone());
            const Traits traits = traits_of(c, o);
            if (traits.no_batch || traits.sampler) continue;
            const NamedTensors out = m->call(in);
            Tensor y = out.find("y");  // or the first floating result
            for (const auto& [n, t] : out)
              if (!y.defined() && is_floating(t.dtype())) y = t;
            EXPECT_EQ(y.size(0), 0) << where;
            ++layers;
            for (auto& [n, t] : m->named_buffers())
              if (const Tensor b = before.find(n); b.defined()) {
                EXPECT_EQ(max_difference(t, b), 0) << where << " " << n;
              }
            if (!y.requires_grad()) continue;
            y.sum().backward();
            if (x.grad().defined()) {
              EXPECT_EQ(x.grad().sizes(), x.sizes()) << where;
            }
            for (auto& [n, p] : m->named_parameters())
              if (const Tensor g = p.grad(); g.defined()) {
                for (const double v : g.to_vector()) ASSERT_EQ(v, 0) << where << " " << n;
              }
          } catch (const Error& e) {
            ADD_FAILURE() << where << ": " << e.what();
          }
        }
  }
  EXPECT_GT(layers, 200);
}

TEST(EmptyBatch, BatchNormAsTorch) {
  // torch 2.15: an empty batch counts, and leaves the statistics; one value per channel is refused.
  for (const std::optional<double> momentum :
       {std::optional<double>(0.1), std::optional<double>()}) {
    BatchNorm2d m({.num_features = 2, .momentum = momentum});
    m(random({3, 2, 2, 2}, kFloat32));
    const Tensor mean = m.state_dict().find("running_mean").clone(),
                 var = m.state_dict().find("running_var").clone();
    Tensor x = zeros({0, 2, 3, 3}).requires_grad_();
    const Tensor y = m(x);
    EXPECT_EQ(y.sizes(), (Shape{0, 2, 3, 3}));
    EXPECT_EQ(max_difference(m.state_dict().find("running_mean"), mean), 0);
    EXPECT_EQ(max_difference(m.state_dict().find("running_var"), var), 0);
    EXPECT_EQ(m.state_dict().find("num_batches_tracked").item(), 2);
    y.sum().backward();
    expect_values(m.parameters()[0].grad(), {0, 0});
    expect_values(m.parameters()[1].grad(), {0, 0});
    EXPECT_EQ(x.grad().sizes(), x.sizes());
    EXPECT_ERROR(m(zeros({1, 2, 1, 1})), ShapeError, "more than 1 value per channel");
    EXPECT_EQ(m.state_dict().find("num_batches_tracked").item(), 2) << "a refusal changes nothing";
    m(zeros({1, 2, 1, 2}));  // one sample of two values
    m.eval();
    EXPECT_EQ(m(zeros({1, 2, 1, 1})).numel(), 2);
  }
}

}  // namespace
}  // namespace dropin
