// Models and state_dicts in one line.
#include "dropin/serialize/model_file.h"

#include "dropin/model/transformer.h"
#include "dropin/optimizer/optimizer.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/checkpoint.h"
#include "files/temporary.h"

namespace dropin::testing {
namespace {

TransformerOptions tiny() {
  return {.vocab_size = 11, .embed_dim = 8, .num_layers = 2, .num_heads = 2, .max_len = 6};
}
Tensor ids() { return tensor(std::vector<int64_t>{1, 4, 7, 2}, {1, 4}); }
Tensor answer(Module& m) { return m.eval().call({{"x", ids()}}).get("y", "test"); }

TEST(ModelFile, SavesAndLoads) {
  const TemporaryFolder folder;
  Transformer a(tiny()), b(tiny());
  EXPECT_GT(max_difference(answer(a), answer(b)), 0);
  save(a, folder / "a");
  EXPECT_TRUE(load(b, folder / "a").missing.empty());
  EXPECT_EQ(max_difference(answer(a), answer(b)), 0);
  TransformerOptions other = tiny();
  other.num_layers = 3;
  Transformer c(other);
  const Tensor before = answer(c);
  EXPECT_ERROR(load(c, folder / "a"), StateError, "missing");
  EXPECT_EQ(max_difference(answer(c), before), 0);
  EXPECT_FALSE(load(c, folder / "a", false).missing.empty());
}

TEST(ModelFile, BuildsTheModelAgain) {
  const TemporaryFolder folder;
  Transformer a(tiny());
  swap(a, "LayerNorm", "RMSNorm", Json::parse(R"({"eps": 0.001})"));
  swap(a, "MLP", "GatedMLP");
  a.to(kFloat64);
  save(a, folder / "a", {{"note", "mine"}});
  const Box<Module> b = load(folder / "a");
  EXPECT_EQ(b->type(), "Transformer");
  EXPECT_EQ(b->str(), a.str());
  EXPECT_FALSE(b->is_training());
  EXPECT_EQ(b->parameters()[0].dtype(), kFloat64);
  EXPECT_EQ(max_difference(answer(a), answer(*b)), 0);
  EXPECT_EQ(*load_safetensors(folder / "a").find_metadata("note"), "mine");
}

TEST(ModelFile, ReadsCheckpointsToo) {
  const TemporaryFolder folder;
  Transformer a(tiny());
  swap(a, "LayerNorm", "RMSNorm");
  const Box<Optimizer> optimizer = make_optimizer("AdamW", a.parameters());
  save_checkpoint(folder / "c", a, *optimizer, TrainingState());
  EXPECT_EQ(max_difference(answer(*load(folder / "c")), answer(a)), 0);
  EXPECT_EQ(load_state_dict(folder / "c").size(), a.state_dict().size());
}

TEST(ModelFile, StateDictsInOneLine) {
  const TemporaryFolder folder;
  Transformer a(tiny());
  save_safetensors(folder / "s", a.state_dict());
  const StateDict s = load_state_dict(folder / "s");
  int64_t count = 0;
  for (const auto& [name, t] : a.state_dict()) {  // the temporary lives as long as the loop
    EXPECT_EQ(max_difference(s.find(name), t), 0) << name;
    ++count;
  }
  EXPECT_EQ(count, static_cast<int64_t>(s.size()));
  for (const auto& [name, t] : load_state_dict(folder / "s")) EXPECT_TRUE(t.defined()) << name;
}

template <class T>
concept GivesIterators = requires(T t) {
  std::forward<T>(t).begin();
};
static_assert(GivesIterators<const StateDict&>);
static_assert(!GivesIterators<StateDict>, "a temporary's iterators would dangle");

TEST(ModelFile, SaysWhichLayerIsAnother) {
  const std::string path = ::testing::TempDir() + "swapped.safetensors";
  const TransformerOptions o{
      .vocab_size = 16, .embed_dim = 8, .num_layers = 1, .num_heads = 2, .max_len = 8};
  Transformer swapped(o), plain(o);
  swap(swapped, "MultiheadAttention", "LatentAttention");  // whose parameters have the same names
  save(swapped, path);
  EXPECT_ERROR(load(plain, path), StateError, "holds a LatentAttention at");
  EXPECT_TRUE(load(plain, path, false).missing.empty());
  swap(plain, "MultiheadAttention", "LatentAttention");
  load(plain, path);
  const Tensor ids = randint(0, 16, {2, 5});
  EXPECT_TRUE(allclose(plain(ids), swapped(ids)));
}

TEST(ModelFile, RefusesInWords) {
  const TemporaryFolder folder;
  Transformer a(tiny());
  EXPECT_ERROR(save(a, folder / "none/a"), FileError, "none/a");
  EXPECT_ERROR(load(folder / "none"), FileError, "none");
  save_safetensors(folder / "plain", a.state_dict());
  EXPECT_ERROR(load(folder / "plain"), FileError, "which model");
  auto described = [&](const char* text) {
    save_safetensors(folder / "odd", a.state_dict(), {{"model", text}});
    return folder / "odd";
  };
  EXPECT_ERROR(load(described("{")), FileError, "odd");
  EXPECT_ERROR(load(described("{}")), FileError, "type and options");
  EXPECT_ERROR(load(described(R"({"type": "Transfomer", "options": {}})")), FileError,
               "Transformer");
  EXPECT_ERROR(load(described(R"({"type": "Linear", "options": {"in_features": 2,
                                  "out_features": 2}})")),
               FileError, "missing");
  EXPECT_ERROR(load(described(R"({"type": "Linear", "options": {"in_features": 2,
                                  "out_features": 2}, "modules": {"a.b": {}}})")),
               FileError, "a.b");
}

}  // namespace
}  // namespace dropin::testing
