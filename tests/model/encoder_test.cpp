// TransformerEncoder and VisionTransformer: other libraries' names, pooling, masks, positions.
#include <set>

#include "dropin/dropin.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

// Entries of `m` by other names: pairs of ours and theirs, the first that begins the name decides.
StateDict renamed(const Module& m, const std::vector<std::pair<std::string, std::string>>& rules) {
  StateDict r;
  for (const auto& [name, t] : m.state_dict()) {
    std::string n = name;
    for (const auto& [ours, theirs] : rules)
      if (const auto at = n.find(ours); at != std::string::npos) n.replace(at, ours.size(), theirs);
    r.set(n, t);
  }
  return r;
}

// q_proj, k_proj, v_proj as one matrix under `packed` + "weight" and "bias".
StateDict with_packed(const StateDict& s, const std::string& packed) {
  StateDict r = s;
  for (const auto& [name, t] : s) {
    const auto at = name.find("q_proj.");
    if (at == std::string::npos) continue;
    const std::string stem = name.substr(0, at), kind = name.substr(at + 7);
    const Tensor k = r.take(stem + "k_proj." + kind), v = r.take(stem + "v_proj." + kind);
    r.take(name);
    r.set(stem + packed + kind, concat({t, k, v}, 0));
  }
  return r;
}

TransformerEncoderOptions small() {
  return {.vocab_size = 11,
          .embed_dim = 8,
          .num_layers = 2,
          .num_heads = 2,
          .max_len = 12,
          .type_vocab_size = 2,
          .pooling = "tanh"};
}

void expect_loads(Module& to, Module& from, const StateDict& state, const Tensor& x) {
  const LoadReport report = to.load_state_dict(state);
  EXPECT_FALSE(report.renamed.empty());
  EXPECT_EQ(
      max_difference(to.call({{"x", x}}).get("y", "to"), from.call({{"x", x}}).get("y", "from")),
      0);
}

TEST(TransformerEncoder, LoadsBertsNames) {
  TransformerEncoder a(small()), b(small());
  StateDict s = renamed(a, {{"tokens.", "bert.embeddings.word_embeddings."},
                            {"positions", "bert.embeddings.position_embeddings.weight"},
                            {"types.", "bert.embeddings.token_type_embeddings."},
                            {"norm_embedding.", "bert.embeddings.LayerNorm."},
                            {"layer0.", "bert.encoder.layer.0."},
                            {"layer1.", "bert.encoder.layer.1."},
                            {"mixer.q_proj.", "attention.self.query."},
                            {"mixer.k_proj.", "attention.self.key."},
                            {"mixer.v_proj.", "attention.self.value."},
                            {"mixer.out_proj.", "attention.output.dense."},
                            {"norm1.", "attention.output.LayerNorm."},
                            {"ff.fc1.", "intermediate.dense."},
                            {"ff.fc2.", "output.dense."},
                            {"norm2.", "output.LayerNorm."},
                            {"pooler.", "bert.pooler.dense."}});
  s.set("bert.embeddings.position_ids", arange(0, 12).to(kInt64).unsqueeze(0));
  ASSERT_TRUE(s.contains("bert.encoder.layer.1.attention.output.LayerNorm.weight"));
  ASSERT_TRUE(s.contains("bert.encoder.layer.0.output.dense.bias"));
  expect_loads(b, a, s, tensor({1, 2, 3, 4, 5, 6}, {2, 3}, kInt64));
}

TEST(TransformerEncoder, LoadsTorchsNames) {
  const TransformerEncoderOptions o{
      .embed_dim = 8, .num_layers = 2, .num_heads = 2, .max_len = 0, .norm_first = true};
  TransformerEncoder a(o), b(o);
  const StateDict s = with_packed(renamed(a, {{"layer0.", "layers.0."},
                                              {"layer1.", "layers.1."},
                                              {"mixer.", "self_attn."},
                                              {"ff.fc1.", "linear1."},
                                              {"ff.fc2.", "linear2."}}),
                                  "in_proj_");
  ASSERT_TRUE(s.contains("layers.1.self_attn.in_proj_weight"));
  ASSERT_TRUE(s.contains("norm.weight"));
  expect_loads(b, a, s, random({2, 5, 8}, kFloat32));
}

TEST(TransformerEncoder, PaddingIsNotSeenAndNotPooled) {
  for (const char* pooling : {"none", "first", "mean", "tanh"}) {
    TransformerEncoderOptions o = small();
    o.pooling = pooling;
    TransformerEncoder m(o);
    const Tensor ids = tensor({1, 2, 3, 9, 9, 4, 5, 6, 7, 8}, {2, 5}, kInt64);
    const Tensor pad = tensor({0, 0, 0, 1, 1, 0, 0, 0, 0, 0}, {2, 5}, kBool);
    Tensor y = m(ids, {.key_padding_mask = pad}).narrow(0, 0, 1);
    const Tensor alone = m(ids.narrow(0, 0, 1).narrow(1, 0, 3));
    if (y.dim() == 3) y = y.narrow(1, 0, 3);
    EXPECT_LT(max_difference(y, alone), 1e-5) << pooling;
  }
}

TEST(TransformerEncoder, NormsStandWhereTheOptionsSay) {
  const TransformerEncoderOptions post = small();
  std::set<std::string> names;
  for (const auto& [n, t] : TransformerEncoder(post).named_parameters()) names.insert(n);
  EXPECT_TRUE(names.count("norm_embedding.weight"));
  EXPECT_FALSE(names.count("norm.weight"));
  TransformerEncoderOptions pre = post;
  pre.norm_first = true;
  names.clear();
  for (const auto& [n, t] : TransformerEncoder(pre).named_parameters()) names.insert(n);
  EXPECT_FALSE(names.count("norm_embedding.weight"));
  EXPECT_TRUE(names.count("norm.weight"));
}

TEST(TransformerEncoder, TokenTypesAreAddedAndTheirShapeChecked) {
  TransformerEncoder m(small());
  const Tensor ids = tensor({1, 2, 3}, {1, 3}, kInt64), ones_ = ones({1, 3}, kInt64);
  EXPECT_GT(max_difference(m(ids, {.token_type_ids = ones_}), m(ids)), 1e-6);
  EXPECT_EQ(max_difference(m(ids, {.token_type_ids = zeros({1, 3}, kInt64)}), m(ids)), 0);
  EXPECT_ERROR(m(ids, {.token_type_ids = zeros({1, 2}, kInt64)}), ShapeError,
               "token_type_ids is [1, 2], expected [1, 3]");
  TransformerEncoderOptions plain = small();
  plain.type_vocab_size = 0;
  TransformerEncoder without_types(plain);
  EXPECT_ERROR(without_types(ids, {.token_type_ids = ones_}), OptionError, "type_vocab_size = 0");
  EXPECT_ERROR(m(zeros({1, 13}, kInt64)), ShapeError, "13 tokens, expected at most max_len = 12");
}

TEST(TransformerEncoder, PartsAreSwapped) {
  TransformerEncoder m(small());
  const SwapReport r = swap(m, "MultiheadAttention", "LongformerAttention",
                            Json::parse(R"({"window": 4, "global_attention": false})"));
  EXPECT_EQ(r.instances.size(), 2u);
  swap(m, "MLP", "GatedMLP");
  EXPECT_EQ(m(tensor({1, 2, 3}, {1, 3}, kInt64)).sizes(), (Shape{1, 8}));
}

// --- VisionTransformer

VisionTransformerOptions tiny() {
  return {.image_size = 8,
          .patch_size = 4,
          .in_channels = 3,
          .num_classes = 5,
          .embed_dim = 8,
          .num_layers = 2,
          .num_heads = 2};
}

/// Where another library keeps a part of ours.
using Rules = std::vector<std::pair<std::string, std::string>>;
const Rules kHuggingFace = {{"class_token", "vit.embeddings.cls_token"},
                            {"positions", "vit.embeddings.position_embeddings"},
                            {"patch_embed.", "vit.embeddings.patch_embeddings.projection."},
                            {"encoder.norm.", "vit.layernorm."},
                            {"encoder.layer0.", "vit.encoder.layer.0."},
                            {"encoder.layer1.", "vit.encoder.layer.1."},
                            {"mixer.q_proj.", "attention.attention.query."},
                            {"mixer.k_proj.", "attention.attention.key."},
                            {"mixer.v_proj.", "attention.attention.value."},
                            {"mixer.out_proj.", "attention.output.dense."},
                            {"norm1.", "layernorm_before."},
                            {"norm2.", "layernorm_after."},
                            {"ff.fc1.", "intermediate.dense."},
                            {"ff.fc2.", "output.dense."},
                            {"head.", "classifier."}};
const Rules kTransformers5 = {
    // state_dict()
    {"class_token", "vit.embeddings.cls_token"},
    {"positions", "vit.embeddings.position_embeddings"},
    {"patch_embed.", "vit.embeddings.patch_embeddings.projection."},
    {"encoder.norm.", "vit.layernorm."},
    {"encoder.layer0.", "vit.layers.0."},
    {"encoder.layer1.", "vit.layers.1."},
    {"mixer.out_proj.", "attention.o_proj."},
    {"mixer.", "attention."},
    {"norm1.", "layernorm_before."},
    {"norm2.", "layernorm_after."},
    {"ff.fc", "mlp.fc"},
    {"head.", "classifier."}};
const Rules kTimm = {{"class_token", "cls_token"},
                     {"positions", "pos_embed"},
                     {"patch_embed.", "patch_embed.proj."},
                     {"encoder.norm.", "norm."},
                     {"encoder.layer0.", "blocks.0."},
                     {"encoder.layer1.", "blocks.1."},
                     {"mixer.out_proj.", "attn.proj."},
                     {"mixer.", "attn."},
                     {"ff.fc", "mlp.fc"}};
const Rules kTorchvision = {{"positions", "encoder.pos_embedding"},
                            {"patch_embed.", "conv_proj."},
                            {"encoder.norm.", "encoder.ln."},
                            {"encoder.layer0.", "encoder.layers.encoder_layer_0."},
                            {"encoder.layer1.", "encoder.layers.encoder_layer_1."},
                            {"norm1.", "ln_1."},
                            {"norm2.", "ln_2."},
                            {"mixer.", "self_attention."},
                            {"ff.fc1.", "mlp.0."},
                            {"ff.fc2.", "mlp.3."},
                            {"head.", "heads.head."}};

TEST(VisionTransformer, LoadsHuggingFacesTimmsAndTorchvisionsNames) {
  VisionTransformer a(tiny());
  const Tensor x = random({2, 3, 8, 8}, kFloat32);
  for (const auto& [rules, packed] : {std::pair{kHuggingFace, ""},
                                      {kTransformers5, ""},
                                      {kTimm, "qkv."},
                                      {kTorchvision, "in_proj_"}}) {
    StateDict s = renamed(a, rules);
    for (const auto& [ours, theirs] : rules)  // stored [1, N, D]
      if (ours == "positions") s.set(theirs, s.find(theirs).unsqueeze(0));
    if (*packed) s = with_packed(s, packed);
    VisionTransformer b(tiny());
    expect_loads(b, a, s, x);
  }
}

// torch 2.15: nn.functional.interpolate(arange(4).reshape(1, 1, 2, 2), (3, 4), mode="bicubic").
TEST(VisionTransformer, InterpolatesPositionsAsTorch) {
  VisionTransformerOptions o = tiny();
  o.embed_dim = 2;
  o.num_heads = 1;
  VisionTransformer m(o);
  StateDict s;
  Tensor p = zeros({5, 2});
  for (int i = 0; i < 4; ++i) p[1 + i].fill_(i);
  s.set("positions", p);
  m.load_state_dict(s, false);
  EXPECT_EQ(max_difference(m.positions(2, 2), p), 0);
  const Tensor y = m.positions(3, 4);
  ASSERT_EQ(y.sizes(), (Shape{13, 2}));
  expect_values(y.narrow(0, 1, 12).select(1, 0),
                {-0.279080, 0.052951, 0.599826, 0.931858, 0.894531, 1.226562, 1.773438, 2.105469,
                 2.068142, 2.400174, 2.947049, 3.279080},
                1e-5);
}

TEST(VisionTransformer, TakesOtherPicturesAndRefusesWhatIsNoMultiple) {
  VisionTransformer m(tiny());
  EXPECT_EQ(m(random({2, 3, 12, 8}, kFloat32)).sizes(), (Shape{2, 5}));
  EXPECT_ERROR(m(random({2, 3, 9, 8}, kFloat32)), ShapeError,
               "positive multiples of patch_size 4 x 4");
  EXPECT_ERROR(VisionTransformer({.image_size = 10, .patch_size = 4}), OptionError,
               "image_size 10 x 10 is not a positive multiple of patch_size 4 x 4");
  VisionTransformerOptions o = tiny();
  o.class_token = false;
  EXPECT_ERROR(VisionTransformer{o}, OptionError, "needs class_token = true");
}

}  // namespace
}  // namespace dropin
