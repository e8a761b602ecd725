// Decoders: how a language model's next tokens are chosen.
#pragma once
#include "dropin/generation/constraints.h"
#include "dropin/generation/language_model.h"

namespace dropin {

/// What a decoder is told.
struct DecodeArgs {
  Tensor prompt;          ///< [B, P] int64; B prompts of at least one token
  Tensor prompt_lengths;  ///< [B] int64: what is behind is padding; undefined: P each
  Tensor uniforms;  ///< [B, T] or, with several results R, [B, R, T]: the number in [0, 1) that
                    ///< draws the token at each place, prompt included; past its end the last one
  Constraints constraints;         ///< of decoders that know them; OptionError from others
  Generator* generator = nullptr;  ///< draws where there are no uniforms; null: the thread's
};
/// What comes out; R is there only where more than one result is asked for.
struct Decoded {
  Tensor tokens;          ///< [B, (R,) max_new_tokens] int64: generated ones, then -1
  Tensor lengths;         ///< [B, (R)] int64, the end token counts
  Tensor scores;          ///< [B, (R)] float32: sum of log-probabilities, as the decoder norms it
  Tensor satisfied;       ///< [B, (R)] int64: clauses that hold
  Tensor accept_lengths;  ///< [B, S] int64: drafts that each step took, then -1
};

/// A model with step() -> tokens. Rows do not depend on the rest of the batch. Child "base".
/// Errors: OptionError and IndexError for inputs that do not fit, StateError where the logits of a
/// step are NaN or +inf.
class Decoder : public Module {
 public:
  using Family = Decoder;
  static constexpr const char* kFamily = "Decoder";
  static FamilyInfo family();
  virtual Decoded generate(const DecodeArgs& args) = 0;
  NamedTensors call(const NamedTensors& in) override;
  LanguageModel& base() const { return *base_; }

 protected:
  /// The base as a child; OptionError where there is none.
  void set_base(Box<LanguageModel> base);
  /// A fresh one of the same options.
  Box<LanguageModel> base_like() const;

 private:
  Child<LanguageModel> base_;
};

/// Made from options, or with the caller's base.
template <class Self, class O>
class DecoderOf : public Component<Self, O, Decoder> {
 public:
  explicit DecoderOf(const O& o) : Component<Self, O, Decoder>(o) {
    this->set_base(language_model_of(this->who(), o.base));
  }
  DecoderOf(Box<LanguageModel> base, const O& o) : Component<Self, O, Decoder>(o) {
    this->set_base(std::move(base));
  }
  Box<Module> make_like() const override {
    return Box<Module>(new Self(this->base_like(), this->options_));
  }
  static constexpr const char* kSample = R"({"max_new_tokens": 6})";
};

namespace detail {
/// The fields that all decoders have.
template <class O>
void decoder_fields(auto&& f) {
  f("base", &O::base, "of files: {\"type\": \"TableLM\", ...}; else given as a module");
  f("eos_id", &O::eos_id, "token that ends a text; -1: none");
  f("stop_ids", &O::stop_ids, "more such tokens");
  f("max_new_tokens", &O::max_new_tokens, "the most tokens that are generated");
  f("min_new_tokens", &O::min_new_tokens, "no end before so many");
  f("no_repeat_ngram", &O::no_repeat_ngram, "no run of so many tokens comes twice; 0: off");
  f("num_return", &O::num_return, "results for each prompt");
}
/// The fields of those with several hypotheses.
template <class O>
void beam_fields(auto&& f) {
  f("num_beams", &O::num_beams, "hypotheses kept");
  f("length_penalty", &O::length_penalty, "scores are sums over length^length_penalty");
  f("length_includes_prompt", &O::length_includes_prompt, "the length counts the prompt");
}
}  // namespace detail

struct GreedyOptions {
  Json base;
  int64_t eos_id = -1;
  std::vector<int64_t> stop_ids = {};
  int64_t max_new_tokens = 512, min_new_tokens = 0, no_repeat_ngram = 0, num_return = 1;
  static void fields(auto&& f) { detail::decoder_fields<GreedyOptions>(f); }
};
/// The most probable token at every step, ties to the smaller id.
class GreedyDecoder : public DecoderOf<GreedyDecoder, GreedyOptions> {
 public:
  static constexpr const char* kSummary = "the most probable token at every step";
  explicit GreedyDecoder(const GreedyOptions& o);
  GreedyDecoder(Box<LanguageModel> base, const GreedyOptions& o);
  Decoded generate(const DecodeArgs& args) override;
};

struct SamplingOptions {
  Json base;
  int64_t eos_id = -1;
  std::vector<int64_t> stop_ids = {};
  int64_t max_new_tokens = 512, min_new_tokens = 0, no_repeat_ngram = 0, num_return = 1;
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  int64_t lookahead_steps = 0;
  double alpha = 0.25, min_p = 0, repetition_penalty = 1;
  static void fields(auto&& f) {
    using O = SamplingOptions;
    detail::decoder_fields<O>(f);
    f("temperature", &O::temperature, "log-probabilities are divided by it");
    f("top_k", &O::top_k, "only the k best tokens, and ties; 0: off");
    f("top_p", &O::top_p, "only the best tokens whose mass reaches it");
    f("lookahead_steps", &O::lookahead_steps,
      "tokens of the greedy continuation that each token is judged by; 0: off");
    f("alpha", &O::alpha, "weight of that continuation's mean log-probability");
    f("min_p", &O::min_p, "only tokens of at least so much of the best one's probability; 0: off");
    f("repetition_penalty", &O::repetition_penalty,
      "log-probabilities of tokens that occurred are multiplied by it; 1: off");
  }
};
/// Draws tokens: z = lp / temperature, kept by top_k, then top_p, then min_p (Fan et al. 2018;
/// Holtzman et al. 2020); with lookahead each kept token gets alpha times the mean log-probability
/// of what greedily follows. Scores are sums of lp before temperature and filters. Without
/// uniforms, the same seed gives the same tokens whatever else is in the batch.
class SamplingDecoder : public DecoderOf<SamplingDecoder, SamplingOptions> {
 public:
  static constexpr const char* kSummary = "tokens drawn from the filtered distribution";
  static constexpr const char* kReplaces = "GreedyDecoder";
  static std::vector<std::string> examples();
  explicit SamplingDecoder(const SamplingOptions& o);
  SamplingDecoder(Box<LanguageModel> base, const SamplingOptions& o);
  Decoded generate(const DecodeArgs& args) override;
};

struct BeamSearchOptions {
  Json base;
  int64_t eos_id = -1;
  std::vector<int64_t> stop_ids = {};
  int64_t max_new_tokens = 512, min_new_tokens = 0, no_repeat_ngram = 0, num_return = 1;
  int64_t num_beams = 5;
  double length_penalty = 1;
  bool length_includes_prompt = false, early_stopping = false;
  int64_t num_groups = 1;
  double diversity_penalty = 0;
  static void fields(auto&& f) {
    using O = BeamSearchOptions;
    detail::decoder_fields<O>(f);
    detail::beam_fields<O>(f);
    f("early_stopping", &O::early_stopping, "stops as soon as num_beams texts ended");
    f("num_groups", &O::num_groups, "groups that the beams are divided into, searched in turn");
    f("diversity_penalty", &O::diversity_penalty,
      "taken, when a group chooses, from tokens for each earlier group's choice of the same");
  }
};
/// The num_beams best hypotheses side by side. Groups: diverse beam search (Vijayakumar et al.
/// 2018); the penalty orders a group's choice and is no part of its scores.
class BeamSearchDecoder : public DecoderOf<BeamSearchDecoder, BeamSearchOptions> {
 public:
  static constexpr const char* kSummary = "the best hypotheses side by side";
  static constexpr const char* kReplaces = "GreedyDecoder";
  static std::vector<std::string> examples();
  explicit BeamSearchDecoder(const BeamSearchOptions& o);
  BeamSearchDecoder(Box<LanguageModel> base, const BeamSearchOptions& o);
  Decoded generate(const DecodeArgs& args) override;
};

}  // namespace dropin
