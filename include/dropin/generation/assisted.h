// Assisted decoding: a drafter guesses a run of tokens, one pass of the base judges it.
#pragma once
#include "dropin/generation/decoder.h"
#include "dropin/generation/drafter.h"

namespace dropin {

struct AssistedOptions {
  Json base, drafter;
  int64_t eos_id = -1;
  std::vector<int64_t> stop_ids = {};
  int64_t max_new_tokens = 512, min_new_tokens = 0, no_repeat_ngram = 0, num_return = 1;
  int64_t num_assistant_tokens = 10;
  double temperature = 0;
  static void fields(auto&& f) {
    using O = AssistedOptions;
    detail::decoder_fields<O>(f);
    f("drafter", &O::drafter,
      "{\"type\": \"PromptLookupDrafter\", ...} (so it is without one), or of a smaller model "
      "{\"type\": \"Transformer\", ...}; else given as a module");
    f("num_assistant_tokens", &O::num_assistant_tokens, "the most tokens of a draft");
    f("temperature", &O::temperature, "of the tokens that are drawn; 0: the most probable ones");
  }
};
/// Several tokens per pass, of any base that can take tokens back: every Transformer, whatever its
/// mixers. GreedyDecoder's tokens; with a temperature those of SamplingDecoder with the same
/// uniforms. Rows are decoded one after the other; accept_lengths tells how many drafts each pass
/// took. Children "base", "drafter". OptionError for a base that cannot, IndexError where a draft
/// holds none of the base's tokens.
class AssistedDecoder : public Component<AssistedDecoder, AssistedOptions, Decoder> {
 public:
  static constexpr const char* kSummary = "several tokens per pass, by look-up or a smaller model";
  static constexpr const char* kReplaces = "GreedyDecoder";
  static constexpr const char* kCall =
      "prompt [B, P] int64, prompt_lengths [B] -> tokens [B, max_new_tokens], lengths, scores "
      "[B], accept_lengths [B, steps]";
  static constexpr const char* kSample = R"({"max_new_tokens": 6})";
  static std::vector<std::string> examples();
  explicit AssistedDecoder(const AssistedOptions& o);
  AssistedDecoder(Box<LanguageModel> base, Box<Drafter> drafter, const AssistedOptions& o);
  Box<Module> make_like() const override;
  Decoded generate(const DecodeArgs& args) override;
  Drafter& drafter() const { return *drafter_; }

 private:
  void build(Box<LanguageModel> base, Box<Drafter> drafter);
  Child<Drafter> drafter_;
};

}  // namespace dropin
