// Name maps against the names that the real libraries write: transformers 5.24.0, timm,
// torchvision.
#include "dropin/serialize/name_map.h"

#include "dropin/generation/llama.h"
#include "dropin/model/transformer.h"
#include "dropin/model/transformer_encoder.h"
#include "dropin/model/vision_transformer.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/model_file.h"
#include "dropin/serialize/save_state.h"
#include "files/temporary.h"

namespace dropin {
namespace {

using testing::TemporaryFolder;

/// A name and its sizes; "*" in it is the number of a layer, of which there are two.
struct Named {
  const char* name;
  Shape sizes;
};

/// A state_dict of these names, each tensor of other values.
std::vector<StoredTensor> state_of(const std::vector<Named>& names, const std::string& lead = "") {
  std::vector<StoredTensor> r;
  const auto put = [&](const std::string& name, const Shape& sizes) {
    const auto seed = static_cast<std::uint64_t>(r.size() + 1);
    r.push_back(stored_tensor(lead + name, testing::random(sizes, kFloat32, seed)));
  };
  for (const Named& n : names) {
    const std::string name = n.name;
    const std::size_t star = name.find('*');
    if (star == name.npos) put(name, n.sizes);
    for (const char* layer : {"0", "1"})
      if (star != name.npos) put(name.substr(0, star) + layer + name.substr(star + 1), n.sizes);
  }
  return r;
}

#define WEIGHT_AND_BIAS(NAME, OUT, ...)     \
  {NAME ".weight", {OUT, ##__VA_ARGS__}}, { \
    NAME ".bias", { OUT }                   \
  }

const std::vector<Named> kBert{{"embeddings.word_embeddings.weight", {11, 8}},
                               {"embeddings.position_embeddings.weight", {12, 8}},
                               {"embeddings.token_type_embeddings.weight", {2, 8}},
                               WEIGHT_AND_BIAS("embeddings.LayerNorm", 8),
                               WEIGHT_AND_BIAS("encoder.layer.*.attention.self.query", 8, 8),
                               WEIGHT_AND_BIAS("encoder.layer.*.attention.self.key", 8, 8),
                               WEIGHT_AND_BIAS("encoder.layer.*.attention.self.value", 8, 8),
                               WEIGHT_AND_BIAS("encoder.layer.*.attention.output.dense", 8, 8),
                               WEIGHT_AND_BIAS("encoder.layer.*.attention.output.LayerNorm", 8),
                               WEIGHT_AND_BIAS("encoder.layer.*.intermediate.dense", 16, 8),
                               WEIGHT_AND_BIAS("encoder.layer.*.output.dense", 8, 16),
                               WEIGHT_AND_BIAS("encoder.layer.*.output.LayerNorm", 8),
                               WEIGHT_AND_BIAS("pooler.dense", 8, 8)};
const std::vector<Named> kLongformerAlso{
    WEIGHT_AND_BIAS("encoder.layer.*.attention.self.query_global", 8, 8),
    WEIGHT_AND_BIAS("encoder.layer.*.attention.self.key_global", 8, 8),
    WEIGHT_AND_BIAS("encoder.layer.*.attention.self.value_global", 8, 8)};
const std::vector<Named> kVit5{
    {"embeddings.cls_token", {1, 1, 8}},
    {"embeddings.position_embeddings", {1, 5, 8}},
    WEIGHT_AND_BIAS("embeddings.patch_embeddings.projection", 8, 3, 4, 4),
    WEIGHT_AND_BIAS("layers.*.attention.q_proj", 8, 8),
    WEIGHT_AND_BIAS("layers.*.attention.k_proj", 8, 8),
    WEIGHT_AND_BIAS("layers.*.attention.v_proj", 8, 8),
    WEIGHT_AND_BIAS("layers.*.attention.o_proj", 8, 8),
    WEIGHT_AND_BIAS("layers.*.layernorm_before", 8),
    WEIGHT_AND_BIAS("layers.*.layernorm_after", 8),
    WEIGHT_AND_BIAS("layers.*.mlp.fc1", 16, 8),
    WEIGHT_AND_BIAS("layers.*.mlp.fc2", 8, 16),
    WEIGHT_AND_BIAS("layernorm", 8)};
const std::vector<Named> kGpt2{
    {"wte.weight", {11, 8}},        {"wpe.weight", {12, 8}},
    WEIGHT_AND_BIAS("h.*.ln_1", 8), {"h.*.attn.c_attn.weight", {8, 24}},
    {"h.*.attn.c_attn.bias", {24}}, WEIGHT_AND_BIAS("h.*.attn.c_proj", 8, 8),
    WEIGHT_AND_BIAS("h.*.ln_2", 8), {"h.*.mlp.c_fc.weight", {8, 32}},
    {"h.*.mlp.c_fc.bias", {32}},    {"h.*.mlp.c_proj.weight", {32, 8}},
    {"h.*.mlp.c_proj.bias", {8}},   WEIGHT_AND_BIAS("ln_f", 8)};
const std::vector<Named> kLlama{{"model.embed_tokens.weight", {11, 8}},
                                {"model.layers.*.self_attn.q_proj.weight", {8, 8}},
                                {"model.layers.*.self_attn.k_proj.weight", {4, 8}},
                                {"model.layers.*.self_attn.v_proj.weight", {4, 8}},
                                {"model.layers.*.self_attn.o_proj.weight", {8, 8}},
                                {"model.layers.*.mlp.gate_proj.weight", {12, 8}},
                                {"model.layers.*.mlp.up_proj.weight", {12, 8}},
                                {"model.layers.*.mlp.down_proj.weight", {8, 12}},
                                {"model.layers.*.input_layernorm.weight", {8}},
                                {"model.layers.*.post_attention_layernorm.weight", {8}},
                                {"model.norm.weight", {8}},
                                {"lm_head.weight", {11, 8}}};

TransformerEncoder encoder(int64_t max_len, int64_t types) {
  return TransformerEncoder({.vocab_size = 11,
                             .embed_dim = 8,
                             .num_layers = 2,
                             .num_heads = 2,
                             .hidden_dim = 16,
                             .max_len = max_len,
                             .type_vocab_size = types,
                             .pooling = "tanh"});
}

/// Writes the state, with config.json naming the model's type.
std::string saved(const TemporaryFolder& dir, const std::vector<StoredTensor>& tensors,
                  const std::string& type = "") {
  std::filesystem::remove(dir / "config.json");
  if (!type.empty()) testing::write(dir / "config.json", "{\"model_type\":\"" + type + "\"}");
  save_state(dir / "m.safetensors", tensors);
  return dir / "m.safetensors";
}

TEST(NameMap, BertFillsTheEncoder) {
  TemporaryFolder dir;
  for (const char* lead : {"", "bert.", "module.bert."}) {
    TransformerEncoder m = encoder(12, 2);
    const auto tensors = state_of(kBert, lead);
    const LoadReport r = load(m, saved(dir, tensors));
    EXPECT_FALSE(r.renamed.empty());
    EXPECT_TRUE(r.missing.empty());
    const StateDict mine = m.state_dict();
    EXPECT_EQ(mine.at("tokens.weight").to_vector(), tensors[0].read().to_vector()) << lead;
    EXPECT_EQ(mine.at("positions").to_vector(), tensors[1].read().to_vector()) << lead;
    EXPECT_EQ(mine.at("layer1.ff.fc1.bias").sizes(), (Shape{16}));
  }
}

TEST(NameMap, RobertasPositionsBeginAtTwo) {
  TemporaryFolder dir;
  TransformerEncoder m = encoder(10, 2);
  const auto tensors = state_of(kBert);
  load(m, saved(dir, tensors, "roberta"));
  EXPECT_EQ(m.state_dict().at("positions").to_vector(),
            tensors[1].read().narrow(0, 2, 10).contiguous().to_vector());
  TransformerEncoder bert = encoder(10, 2);
  EXPECT_ERROR(load(bert, saved(dir, tensors, "bert")), StateError, "positions");
}

TEST(NameMap, LongformersGlobalProjections) {
  TemporaryFolder dir;
  TransformerEncoder m = encoder(10, 2);
  swap(m, "MultiheadAttention", "LongformerAttention",
       Json::parse(R"({"window": 2, "global_attention": true})"));
  auto names = kBert;
  names.insert(names.end(), kLongformerAlso.begin(), kLongformerAlso.end());
  const LoadReport r = load(m, saved(dir, state_of(names, "longformer."), "longformer"));
  EXPECT_TRUE(r.missing.empty());
  EXPECT_TRUE(m.state_dict().contains("layer0.mixer.q_proj_global.weight"));
}

TEST(NameMap, VitOfTransformers5) {
  TemporaryFolder dir;
  VisionTransformer m({.image_size = 8,
                       .patch_size = 4,
                       .num_classes = 2,
                       .embed_dim = 8,
                       .num_layers = 2,
                       .num_heads = 2,
                       .hidden_dim = 16});
  auto tensors = state_of(kVit5, "vit.");
  const std::vector<Named> head{WEIGHT_AND_BIAS("classifier", 2, 8)};
  for (StoredTensor& t : state_of(head)) tensors.push_back(std::move(t));
  StateFile f = load_state(saved(dir, tensors, "vit"));
  EXPECT_EQ(guess_name_map(f).name, "ViT");
  const NameMapReport r = map_names(f, "vit");
  EXPECT_TRUE(r.unused.empty()) << r.unused[0];
  load(m, f);
  EXPECT_EQ(m.state_dict().at("head.bias").to_vector(), tensors.back().read().to_vector());
}

TEST(NameMap, Gpt2KeepsItsMatricesTransposed) {
  TemporaryFolder dir;
  for (const char* lead : {"", "transformer."}) {
    Transformer m(
        {.vocab_size = 11, .embed_dim = 8, .num_layers = 2, .num_heads = 2, .max_len = 12});
    auto tensors = state_of(kGpt2, lead);
    tensors.push_back(stored_tensor("lm_head.weight", tensors[0].read()));  // tied, as .pt has it
    tensors.push_back(stored_tensor(std::string(lead) + "h.0.attn.bias", ones({1, 1, 12, 12})));
    const LoadReport r = load(m, saved(dir, tensors));
    EXPECT_TRUE(r.missing.empty() && r.unexpected.empty());
    const StateDict mine = m.state_dict();
    for (const StoredTensor& t : tensors)
      if (t.name == std::string(lead) + "h.1.attn.c_attn.weight") {
        EXPECT_EQ(mine.at("block1.mixer.k_proj.weight").to_vector(),
                  t.read().t().narrow(0, 8, 8).contiguous().to_vector());
      }
    // An output layer of its own is not what this model has.
    tensors[tensors.size() - 2] = stored_tensor("lm_head.weight", ones({11, 8}));
    EXPECT_ERROR(load(m, saved(dir, tensors)), StateError, "head.weight");
  }
}

TEST(NameMap, LlamaHasOurNames) {
  TemporaryFolder dir;
  LlamaLM m({.vocab_size = 11,
             .embed_dim = 8,
             .num_layers = 2,
             .num_heads = 2,
             .num_kv_heads = 1,
             .mlp_dim = 12});
  EXPECT_TRUE(load(m, saved(dir, state_of(kLlama))).renamed.empty());
  // Without "model.", as LlamaModel saves itself.
  std::vector<StoredTensor> bare = state_of(kLlama);
  for (StoredTensor& t : bare)
    if (t.name.compare(0, 6, "model.") == 0) t.name = t.name.substr(6);
  StateFile f = load_state(saved(dir, bare));
  map_names(f, "Llama");
  load(m, f);
  // Tied: the output layer is said to be the embedding.
  bare.pop_back();
  save_state(dir / "t.safetensors", bare);
  testing::write(dir / "config.json", R"({"model_type":"llama","tie_word_embeddings":true})");
  for (StoredTensor& t : bare) t.name = t.name == "lm_head.weight" ? t.name : "model." + t.name;
  save_state(dir / "t.safetensors", bare);
  load(m, dir / "t.safetensors");
  EXPECT_EQ(m.output_weight().to_vector(), m.embedding_weight().to_vector());
}

TEST(NameMap, TablesAreWhole) {
  for (const NameMap& m : name_maps()) {
    EXPECT_FALSE(m.model.empty()) << m.name;
    for (const NameRule& r : m.rules) {
      EXPECT_EQ(std::count(r.ours.begin(), r.ours.end(), '*') <=
                    std::count(r.theirs.begin(), r.theirs.end(), '*'),
                true)
          << m.name << ": " << r.theirs;
      EXPECT_EQ(r.ours.empty(), r.change == NameRule::Drop) << r.theirs;
      if (!r.ours.empty()) {
        EXPECT_EQ(r.ours.back() == '.', r.theirs.back() == '.') << r.theirs;
      }
    }
  }
  EXPECT_ERROR(name_map("BART"), OptionError, "expected one of BERT, RoBERTa");
  EXPECT_EQ(name_map("gpt-2").name, "GPT-2");
}

TEST(NameMap, EqualValuesAreNoTies) {
  // timm's MixNet, whose first block has other names than ours, with the norms of a fresh model.
  TemporaryFolder dir;
  const auto from = make("MixNet", Json::parse(R"({"num_classes": 3, "width_multiplier": 0.5})"));
  std::vector<StoredTensor> tensors;
  for (auto [name, t] : from->state_dict()) {
    const std::string first = "blocks.0.0.";
    if (name.compare(0, first.size(), first) == 0)
      for (const auto& [ours, theirs] : std::vector<std::pair<std::string, std::string>>{
               {"bn2.", "bn1."}, {"bn3.", "bn2."}, {"conv_pwl.", "conv_pw."}})
        if (name.compare(first.size(), ours.size(), ours) == 0) {
          name = first + theirs + name.substr(first.size() + ours.size());
          break;
        }
    tensors.push_back(stored_tensor(name, t));
  }
  const auto to = make("MixNet", Json::parse(R"({"num_classes": 3, "width_multiplier": 0.5})"));
  EXPECT_TRUE(load(*to, saved(dir, tensors)).missing.empty());
}

TEST(NameMap, MobileNetsBlocksAndWhatNoRuleKnows) {
  StateFile f;
  f.path = "m";
  for (const char* name :
       {"features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.1.weight",
        "features.1.conv.2.running_mean", "features.2.conv.0.0.weight",
        "features.2.conv.1.0.weight", "features.2.conv.2.weight", "features.2.conv.3.bias",
        "features.18.0.weight", "classifier.1.bias", "other"})
    f.tensors.push_back(stored_tensor(name, ones({1})));
  EXPECT_EQ(guess_name_map(f).name, "MobileNetV2");
  const NameMapReport r = map_names(f, "mobilenetv2");
  EXPECT_EQ(r.unused, std::vector<std::string>{"other"});
  std::string ours;
  for (const StoredTensor& t : f.tensors) ours += t.name + " ";
  EXPECT_EQ(ours,
            "stem.weight features.1.depthwise.weight features.1.project.weight "
            "features.1.norm3.running_mean features.2.expand.weight features.2.depthwise.weight "
            "features.2.project.weight features.2.norm3.bias last.weight head.bias other ");
  StateFile twice;
  twice.path = "m";
  for (const char* name : {"wte.weight", "transformer.wte.weight"})
    twice.tensors.push_back(stored_tensor(name, ones({1, 1})));
  EXPECT_ERROR(map_names(twice, "GPT-2"), FileError, "two tensors become \"tokens.weight\"");
}

}  // namespace
}  // namespace dropin
