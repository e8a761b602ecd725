// TextSegmenter: the contract of the room, and its standard member.
#pragma once
#include <functional>

#include "dropin/module/family.h"

namespace dropin {

/// What a tokenizer made of a text: ids [N] int64, and offsets [N, 2] int64 of the characters that
/// each token stands for, from and before.
struct TextTokens {
  Tensor ids, offsets;
};
/// text [C] int64 code points -> its tokens.
using Tokenizer = std::function<TextTokens(const Tensor& text)>;

/// Segments of a text.
struct TextSegments {
  Tensor segments;   ///< int64 [S, 2]: the first character, and the one behind the last
  Tensor paragraph;  ///< int64 [S], where asked for
  Tensor probs;      ///< [C]: how likely a segment ends at each character, where it was computed
  /// segments, and what else there is, by name.
  NamedTensors named() const;
};

/// Cuts a text: text [C] int64 code points, and its tokens for members that need them -> segments
/// [S, 2] int64. Standard member: RuleSegmenter.
class TextSegmenter : public Module {
 public:
  using Family = TextSegmenter;
  static constexpr const char* kFamily = "TextSegmenter";
  static FamilyInfo family();
  virtual TextSegments forward(const Tensor& text, const TextTokens& tokens = {}) = 0;
  TextSegments operator()(const Tensor& text, const TextTokens& tokens = {}) {
    return forward(text, tokens);
  }
  /// How many characters behind a cut may have a say in it, besides the rest of its own segment and
  /// the next one.
  virtual int64_t reach() const { return 0; }
  NamedTensors call(const NamedTensors& in) override;
};

struct RuleSegmenterOptions {
  bool strip_whitespace = false, split_on_input_newlines = true;
  std::vector<std::string> abbreviations = {"mr", "mrs", "ms", "dr",  "prof", "sr",
                                            "jr", "st",  "vs", "etc", "e.g",  "i.e",
                                            "no", "fig", "al", "inc", "ltd",  "co"};
  static void fields(auto&& f) {
    using O = RuleSegmenterOptions;
    f("strip_whitespace", &O::strip_whitespace, "segments without white space at their ends");
    f("split_on_input_newlines", &O::split_on_input_newlines, "newlines end segments, and vanish");
    f("abbreviations", &O::abbreviations, "words, in lower case, whose dot ends no sentence");
  }
};

/// Sentences end at . ! ? and their like, with the quotes and brackets that close there, where
/// white space follows (full-width marks need none); not behind abbreviations and initials. It
/// needs no tokens. DTypeError, ShapeError, OptionError for a text that is no code points [C].
class RuleSegmenter : public Component<RuleSegmenter, RuleSegmenterOptions, TextSegmenter> {
 public:
  static constexpr const char* kSummary = "sentences by their punctuation";
  static std::vector<std::string> examples() { return {R"({"strip_whitespace": true})"}; }
  explicit RuleSegmenter(const RuleSegmenterOptions& o) : Component(o) {}
  TextSegments forward(const Tensor& text, const TextTokens& tokens = {}) override;
};

}  // namespace dropin
