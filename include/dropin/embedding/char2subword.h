// Char2Subword: embeddings of words from their spelling.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "dropin/embedding/embedding.h"
#include "dropin/module/parameters.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/linear.h"
#include "dropin/sequence/multihead_attention.h"

namespace dropin {

/// Numbers of characters: 0 is padding, 1 an unknown one, then (if asked for) the mark of a piece
/// that continues a word ("##ing"), then the characters of the words given, by first appearance.
class CharVocab {
 public:
  explicit CharVocab(const std::vector<std::string>& words, bool continuation = false);
  /// Ids of a UTF-8 word's characters, at most max_chars of them. Bytes that are no UTF-8 are
  /// unknown characters.
  std::vector<int64_t> encode(const std::string& word, int64_t max_chars) const;
  /// How many ids there are, for Char2Subword's num_chars.
  int64_t size() const { return next_; }

 private:
  std::unordered_map<char32_t, int64_t> ids_;
  bool continuation_;
  int64_t next_;
};

/// With probability p, the word after one random change of a character: substituted, deleted,
/// inserted, swapped with its neighbour, repeated, or in the other case (a-z). New characters come
/// from the word's own and a-z.
std::string char_noise(const std::string& word, double p, Generator* g = nullptr);

struct CharEncoderLayerOptions {
  int64_t d = 0, num_heads = 0, ff_dim = 0;  ///< required
  double dropout = 0;
  static void fields(auto&& f) {
    using O = CharEncoderLayerOptions;
    f("d", &O::d, "width; required");
    f("num_heads", &O::num_heads, "H; required");
    f("ff_dim", &O::ff_dim, "hidden width; required");
    f("dropout", &O::dropout, "on attention weights and both branches, when training");
  }
};
/// h <- LN1(h + attention(h)), h <- LN2(h + W2 gelu(W1 h)): a post-norm Transformer layer.
class CharEncoderLayer : public Component<CharEncoderLayer, CharEncoderLayerOptions, Module> {
 public:
  explicit CharEncoderLayer(const CharEncoderLayerOptions& o);
  /// h [N, L, d], padding [N, L] bool.
  Tensor forward(const Tensor& h, const Tensor& padding);

 private:
  Child<MultiheadAttention> self_attn_;
  Child<Linear> linear1_, linear2_;
  Child<LayerNorm> norm1_, norm2_;
};

struct Char2SubwordOptions {
  int64_t num_chars = 0, embed_dim = 0;  ///< required
  int64_t char_dim = 256, num_layers = 2, num_heads = 4, ff_dim = 1024, max_chars = 32;
  std::string pooling = "max";
  bool scale_embedding = true, output_norm = true;
  double dropout = 0.1;
  static void fields(auto&& f) {
    using O = Char2SubwordOptions;
    f("num_chars", &O::num_chars, "size of the alphabet, padding (0) included; required");
    f("embed_dim", &O::embed_dim, "o, width of the embeddings; required");
    f("char_dim", &O::char_dim, "d, width of the encoder");
    f("num_layers", &O::num_layers, "layers of the encoder");
    f("num_heads", &O::num_heads, "heads of the encoder");
    f("ff_dim", &O::ff_dim, "hidden width of the encoder");
    f("max_chars", &O::max_chars, "longest spelling");
    f("pooling", &O::pooling, "over the characters: max or mean");
    f("scale_embedding", &O::scale_embedding, "characters' rows times sqrt(d)");
    f("output_norm", &O::output_norm, "LayerNorm of the result");
    f("dropout", &O::dropout, "on attention weights and both branches, when training");
  }
};

/// The embedding of a subword from its characters: a small Transformer over them, a maximum, a
/// projection and a norm (Aguilar et al. 2021). Replaces Embedding. char_ids [*, Lc] int64, 0 after
/// the last character -> [*, embed_dim]; a token without characters gives 0. Parameters
/// char_embedding.weight [num_chars, d] (row 0 zero), layers.<i>.self_attn.{q,k,v,out}_proj,
/// layers.<i>.linear1, linear2, norm1, norm2, proj, norm (.weight, .bias).
class Char2Subword : public Component<Char2Subword, Char2SubwordOptions, TokenEmbedding> {
 public:
  static constexpr const char* kSummary = "embeddings of words from their characters";
  static constexpr const char* kReplaces = "Embedding";
  static constexpr const char* kPaper = "Aguilar et al. 2021, arXiv 2010.12730";
  static constexpr const char* kCall = "char_ids [*, Lc] int64 -> y [*, D]";
  static constexpr const char* kSample =
      R"({"num_chars": 11, "embed_dim": 6, "char_dim": 8, "num_heads": 2, "ff_dim": 10})";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  static void traits(const Options& o, Traits& t) { t.random_in_training = o.dropout > 0; }
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit Char2Subword(const Char2SubwordOptions& o);
  Tensor forward(const Tensor& char_ids) override;
  /// The ids may be called "char_ids" or "x".
  NamedTensors call(const NamedTensors& in) override;

  /// Ids [n, longest] of words; spellings are cut at max_chars.
  Tensor encode(const std::vector<std::string>& words, const CharVocab& vocab) const;
  /// Keeps the embeddings of these words for lookup(), without gradient and dropout. They are
  /// dropped by train(), eval(), to() and load_state_dict().
  void build_cache(const std::vector<std::string>& words, const CharVocab& vocab);
  /// Embeddings [n, embed_dim], kept ones where there are, without gradient and dropout.
  Tensor lookup(const std::vector<std::string>& words, const CharVocab& vocab);
  /// A frozen table of these words' embeddings.
  Box<Embedding> to_embedding(const std::vector<std::string>& words, const CharVocab& vocab);

 protected:
  void state_changed() override { cache_.clear(); }

 private:
  Tensor still(const std::vector<std::string>& words, const CharVocab& vocab);
  /// Tokens [N, Lc] with a character each.
  Tensor encoded(const Tensor& ids);
  Tensor* characters_;
  std::vector<Child<CharEncoderLayer>> layers_;
  Child<Linear> proj_;
  Child<LayerNorm> norm_;
  std::unordered_map<std::string, Tensor> cache_;
};

struct Char2SubwordLossOptions {
  double cos_weight = 1, ce_weight = 1, l2_weight = 0, neighbor_weight = 0;
  int64_t num_neighbors = 5;
  static void fields(auto&& f) {
    using O = Char2SubwordLossOptions;
    f("cos_weight", &O::cos_weight, "of 1 - cosine to the target's row");
    f("ce_weight", &O::ce_weight, "of the cross-entropy of inner products with all rows");
    f("l2_weight", &O::l2_weight, "of the squared distance to the target's row");
    f("neighbor_weight", &O::neighbor_weight, "of the difference of cosines to its neighbours");
    f("num_neighbors", &O::num_neighbors, "nearest rows of the target's");
  }
};
/// How well embedding [n, o] imitates rows `target` [n] int64 of table [V, o], a scalar. The table
/// is a constant.
Tensor char2subword_loss(const Tensor& embedding, const Tensor& table, const Tensor& target,
                         const Char2SubwordLossOptions& o = {});

}  // namespace dropin
