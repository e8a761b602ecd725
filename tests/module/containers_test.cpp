// Identity, Flatten, ModuleList and ModuleDict.
#include "dropin/module/containers.h"

#include "dropin/projection/linear.h"
#include "support.h"

namespace dropin {
namespace {

TEST(Containers, IdentityAndFlattenAsTorch) {
  const Tensor x = randn({2, 3, 4, 5});
  EXPECT_TRUE(Identity()(x).is_same(x));
  EXPECT_EQ(Flatten()(x).sizes(), (Shape{2, 60}));
  EXPECT_EQ(Flatten({.start_dim = 0})(x).sizes(), (Shape{120}));
  EXPECT_EQ(Flatten({.start_dim = 1, .end_dim = 2})(x).sizes(), (Shape{2, 12, 5}));
  EXPECT_EQ(Flatten({.start_dim = -1})(x).sizes(), x.sizes());
  EXPECT_EQ(Flatten()(zeros({0, 3, 4})).sizes(), (Shape{0, 12}));
  EXPECT_ERROR(Flatten({.start_dim = 2, .end_dim = 1})(x), ShapeError,
               "Flatten: start_dim 2 comes after end_dim 1");
  EXPECT_ERROR(Flatten({.start_dim = 4})(x), IndexError, "dimension 4 is out of range");
  Sequential s;
  s.add<Flatten>().add<Identity>().add<Linear>({.in_features = 60, .out_features = 2});
  EXPECT_EQ(s(x).sizes(), (Shape{2, 2}));
}

class Tower : public Module {
 public:
  Tower() {
    layers_ = child<ModuleList>("layers");
    for (int i = 0; i < 3; ++i) layers_->append<Linear>({.in_features = 2, .out_features = 2});
    heads_ = child<ModuleDict>("heads");
    heads_->add<Linear>("a", {.in_features = 2, .out_features = 1, .bias = false});
    heads_->add("none", Box<Module>(new Identity));
  }
  Child<ModuleList> layers_;
  Child<ModuleDict> heads_;
};

TEST(Containers, ListsAndDictionariesNameTheirModulesAsTorch) {
  Tower t;
  std::vector<std::string> names;
  for (const auto& [n, p] : t.named_parameters()) names.push_back(n);
  EXPECT_EQ(names, (std::vector<std::string>{"layers.0.weight", "layers.0.bias", "layers.1.weight",
                                             "layers.1.bias", "layers.2.weight", "layers.2.bias",
                                             "heads.a.weight"}));
  EXPECT_EQ(t.layers_->size(), 3);
  EXPECT_EQ(&(*t.layers_)[-1], &(*t.layers_)[2]);
  EXPECT_ERROR((*t.layers_)[3], IndexError, "ModuleList: no module 3 among 3");
  EXPECT_TRUE(t.heads_->contains("a"));
  EXPECT_ERROR((*t.heads_)["b"], StateError, "ModuleDict: no module named \"b\"");
  EXPECT_THROW(t.heads_->add("a", Box<Module>(new Identity)), Error);
  const auto copy = t.layers_->clone();
  EXPECT_EQ(copy->num_parameters(), t.layers_->num_parameters());
  EXPECT_THROW(t.layers_->call({}), Error);
}

}  // namespace
}  // namespace dropin
