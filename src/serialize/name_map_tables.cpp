#include "serialize/name_map_tables.h"

namespace dropin::serialize_detail {

namespace {

using Rules = std::vector<NameRule>;

Rules operator+(Rules a, const Rules& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// The layers of BERT, RoBERTa and Longformer in transformers.
Rules bert_layers() {
  return {{"encoder.layer.*.attention.self.query.", "layer*.mixer.q_proj."},
          {"encoder.layer.*.attention.self.key.", "layer*.mixer.k_proj."},
          {"encoder.layer.*.attention.self.value.", "layer*.mixer.v_proj."},
          {"encoder.layer.*.attention.self.query_global.", "layer*.mixer.q_proj_global."},
          {"encoder.layer.*.attention.self.key_global.", "layer*.mixer.k_proj_global."},
          {"encoder.layer.*.attention.self.value_global.", "layer*.mixer.v_proj_global."},
          {"encoder.layer.*.attention.output.dense.", "layer*.mixer.out_proj."},
          {"encoder.layer.*.attention.output.LayerNorm.", "layer*.norm1."},
          {"encoder.layer.*.intermediate.dense.", "layer*.ff.fc1."},
          {"encoder.layer.*.output.dense.", "layer*.ff.fc2."},
          {"encoder.layer.*.output.LayerNorm.", "layer*.norm2."},
          {"embeddings.word_embeddings.", "tokens."},
          {"embeddings.token_type_embeddings.", "types."},
          {"embeddings.LayerNorm.", "norm_embedding."},
          {"embeddings.position_ids", "", NameRule::Drop},
          {"pooler.dense.", "pooler."}};
}

/// Positions of BERT are counted from 0, of RoBERTa and Longformer from 2.
Rules positions(NameRule::Change change) {
  return {{"embeddings.position_embeddings.weight", "positions", change}};
}

Rules vit() {
  return {{"embeddings.cls_token", "class_token"},
          {"embeddings.position_embeddings", "positions"},
          {"embeddings.patch_embeddings.projection.", "patch_embed."},
          {"encoder.layer.*.attention.attention.query.", "encoder.layer*.mixer.q_proj."},
          {"encoder.layer.*.attention.attention.key.", "encoder.layer*.mixer.k_proj."},
          {"encoder.layer.*.attention.attention.value.", "encoder.layer*.mixer.v_proj."},
          {"encoder.layer.*.attention.output.dense.", "encoder.layer*.mixer.out_proj."},
          {"encoder.layer.*.intermediate.dense.", "encoder.layer*.ff.fc1."},
          {"encoder.layer.*.output.dense.", "encoder.layer*.ff.fc2."},
          {"layers.*.attention.q_proj.", "encoder.layer*.mixer.q_proj."},  // transformers 5
          {"layers.*.attention.k_proj.", "encoder.layer*.mixer.k_proj."},
          {"layers.*.attention.v_proj.", "encoder.layer*.mixer.v_proj."},
          {"layers.*.attention.o_proj.", "encoder.layer*.mixer.out_proj."},
          {"layers.*.mlp.fc1.", "encoder.layer*.ff.fc1."},
          {"layers.*.mlp.fc2.", "encoder.layer*.ff.fc2."},
          {"layers.*.layernorm_before.", "encoder.layer*.norm1."},
          {"layers.*.layernorm_after.", "encoder.layer*.norm2."},
          {"encoder.layer.*.layernorm_before.", "encoder.layer*.norm1."},
          {"encoder.layer.*.layernorm_after.", "encoder.layer*.norm2."},
          {"layernorm.", "encoder.norm."},
          {"classifier.", "head."}};
}

Rules timm_vit() {
  return {{"cls_token", "class_token"},
          {"pos_embed", "positions"},
          {"patch_embed.proj.", "patch_embed."},
          {"blocks.*.attn.qkv.weight", "encoder.layer*.mixer.in_proj_weight"},
          {"blocks.*.attn.qkv.bias", "encoder.layer*.mixer.in_proj_bias"},
          {"blocks.*.attn.proj.", "encoder.layer*.mixer.out_proj."},
          {"blocks.*.mlp.fc1.", "encoder.layer*.ff.fc1."},
          {"blocks.*.mlp.fc2.", "encoder.layer*.ff.fc2."},
          {"blocks.*.norm1.", "encoder.layer*.norm1."},
          {"blocks.*.norm2.", "encoder.layer*.norm2."},
          {"norm.", "encoder.norm."},
          {"head.", "head."}};
}

Rules gpt2() {
  return {{"wte.weight", "tokens.weight"},
          {"wpe.weight", "positions"},
          {"h.*.ln_1.", "block*.norm1."},
          {"h.*.attn.bias", "", NameRule::Drop},  // the causal mask
          {"h.*.attn.masked_bias", "", NameRule::Drop},
          {"h.*.attn.c_attn.weight", "block*.mixer.in_proj_weight", NameRule::Transpose},
          {"h.*.attn.c_attn.bias", "block*.mixer.in_proj_bias"},
          {"h.*.attn.c_proj.weight", "block*.mixer.out_proj.weight", NameRule::Transpose},
          {"h.*.attn.c_proj.bias", "block*.mixer.out_proj.bias"},
          {"h.*.ln_2.", "block*.norm2."},
          {"h.*.mlp.c_fc.weight", "block*.ff.fc1.weight", NameRule::Transpose},
          {"h.*.mlp.c_fc.bias", "block*.ff.fc1.bias"},
          {"h.*.mlp.c_proj.weight", "block*.ff.fc2.weight", NameRule::Transpose},
          {"h.*.mlp.c_proj.bias", "block*.ff.fc2.bias"},
          {"ln_f.", "norm."},
          {"lm_head.weight", "head.weight"}};
}

Rules llama() {
  Rules r{{"embed_tokens.weight", "model.embed_tokens.weight"},
          {"norm.weight", "model.norm.weight"},
          {"lm_head.weight", "lm_head.weight"},
          {"layers.*.self_attn.rotary_emb.inv_freq", "", NameRule::Drop}};
  for (const char* part : {"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj.",
                           "self_attn.o_proj.", "mlp.gate_proj.", "mlp.up_proj.", "mlp.down_proj.",
                           "input_layernorm.", "post_attention_layernorm."})
    r.push_back({std::string("layers.*.") + part, std::string("model.layers.*.") + part});
  return r;
}

Rules same_names(const std::vector<std::string>& names) {
  Rules r;
  for (const std::string& n : names) r.push_back({n, n});
  return r;
}

/// Blocks of torchvision's MobileNetV2; the first has no expansion.
Rules mobilenet_v2() {
  return {{"features.0.0.", "stem."},
          {"features.0.1.", "norm."},
          {"features.1.conv.0.0.", "features.1.depthwise."},
          {"features.1.conv.0.1.", "features.1.norm2."},
          {"features.1.conv.1.", "features.1.project."},
          {"features.1.conv.2.", "features.1.norm3."},
          {"features.18.0.", "last."},
          {"features.18.1.", "last_norm."},
          {"features.*.conv.0.0.", "features.*.expand."},
          {"features.*.conv.0.1.", "features.*.norm1."},
          {"features.*.conv.1.0.", "features.*.depthwise."},
          {"features.*.conv.1.1.", "features.*.norm2."},
          {"features.*.conv.2.", "features.*.project."},
          {"features.*.conv.3.", "features.*.norm3."},
          {"classifier.1.", "head."}};
}

/// Layers of torchvision's ResNet keep their names: each is a Conv2d, a BatchNorm2d or a Linear.
Rules resnet() {
  return same_names({"conv1.", "bn1.", "layer*.*.conv1.", "layer*.*.conv2.", "layer*.*.conv3.",
                     "layer*.*.bn1.", "layer*.*.bn2.", "layer*.*.bn3.", "layer*.*.downsample.0.",
                     "layer*.*.downsample.1.", "fc."});
}

}  // namespace

std::vector<NameMap> name_map_tables() {
  return {
      {"BERT", "TransformerEncoder", "bert.", bert_layers() + positions(NameRule::Keep)},
      {"RoBERTa", "TransformerEncoder", "roberta.",
       bert_layers() + positions(NameRule::SkipTwoRows)},
      {"Longformer", "TransformerEncoder", "longformer.",
       bert_layers() + positions(NameRule::SkipTwoRows)},
      {"ViT", "VisionTransformer", "vit.", vit()},
      {"timm-ViT", "VisionTransformer", "", timm_vit()},
      {"GPT-2", "Transformer", "transformer.", gpt2()},
      {"Llama", "LlamaLM", "model.", llama()},
      {"MixNet", "MixNet", "",
       same_names({"conv_stem.", "bn1.", "blocks.*.*.conv_dw.", "blocks.*.*.conv_pw.",
                   "blocks.*.*.conv_pwl.", "blocks.*.*.bn1.", "blocks.*.*.bn2.", "blocks.*.*.bn3.",
                   "blocks.*.*.se.", "conv_head.", "bn2.", "classifier."})},
      {"YOLACT", "MaskIoUNet", "", same_names({"maskiou_net.*."})},
      {"MobileNetV2", "InvertedResidual", "", mobilenet_v2()},
      {"ResNet", "Conv2d", "", resnet()},
  };
}

}  // namespace dropin::serialize_detail
