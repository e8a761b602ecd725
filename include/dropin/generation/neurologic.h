// NeuroLogic decoding: beam search under constraints in clauses, with or without a look ahead.
#pragma once
#include "dropin/generation/decoder.h"

namespace dropin {

namespace detail {
/// The fields that both decoders have.
template <class O>
void neurologic_fields(auto&& f) {
  decoder_fields<O>(f);
  beam_fields<O>(f);
  f("prune_factor", &O::prune_factor, "candidates of a rank from here on are dropped");
  f("sat_tolerance", &O::sat_tolerance,
    "candidates with so many clauses fewer than the best one are kept");
  f("partial_weight", &O::partial_weight, "bonus for a literal that is begun");
  f("eos_top", &O::eos_top, "a complete text may end by a token among eos_top num_beams best");
}
}  // namespace detail

struct NeuroLogicOptions {
  Json base;
  int64_t eos_id = -1;
  std::vector<int64_t> stop_ids = {};
  int64_t max_new_tokens = 512, min_new_tokens = 0, no_repeat_ngram = 0, num_return = 1;
  int64_t num_beams = 5;
  double length_penalty = 1;
  bool length_includes_prompt = false;
  int64_t prune_factor = 50, sat_tolerance = 2;
  double partial_weight = 0, eos_top = 1.5;
  static void fields(auto&& f) { detail::neurologic_fields<NeuroLogicOptions>(f); }
};
/// Keeps hypotheses that meet different clauses side by side (Lu et al. 2021, section 2):
/// candidates are pruned by rank and by clauses met, grouped by which clauses they met, and the
/// best of each group go on. Results by (clauses met, score); satisfied tells how many are met.
/// Repairs of the authors' program: the pool is ordered by clauses first, lengths do not count the
/// prompt unless asked, no candidate comes twice, every end token counts.
class NeuroLogicDecoder : public DecoderOf<NeuroLogicDecoder, NeuroLogicOptions> {
 public:
  static constexpr const char* kSummary = "beam search under constraints in clauses";
  static constexpr const char* kReplaces = "BeamSearchDecoder";
  static constexpr const char* kPaper = "Lu et al. 2021, NAACL";
  static std::vector<std::string> examples();
  explicit NeuroLogicDecoder(const NeuroLogicOptions& o);
  NeuroLogicDecoder(Box<LanguageModel> base, const NeuroLogicOptions& o);
  Decoded generate(const DecodeArgs& args) override;
};

struct NeuroLogicAStarOptions {
  Json base;
  int64_t eos_id = -1;
  std::vector<int64_t> stop_ids = {};
  int64_t max_new_tokens = 512, min_new_tokens = 0, no_repeat_ngram = 0, num_return = 1;
  int64_t num_beams = 5;
  double length_penalty = 1;
  bool length_includes_prompt = false;
  int64_t prune_factor = 50, sat_tolerance = 2;
  double partial_weight = 0, eos_top = 1.5;
  std::string lookahead = "greedy";
  int64_t lookahead_steps = 5;
  double alpha = 0.25;
  int64_t lookahead_width = 1;
  double soft_temperature = 1;
  int64_t lookahead_top_k = 2;
  std::string fallback = "none";
  int64_t lookahead_chunk = 80;
  static void fields(auto&& f) {
    using O = NeuroLogicAStarOptions;
    detail::neurologic_fields<O>(f);
    f("lookahead", &O::lookahead, "how a candidate goes on: greedy, soft, sample or beam");
    f("lookahead_steps", &O::lookahead_steps, "places that literals are tried at");
    f("alpha", &O::alpha, "weight of the best literal's log-probability");
    f("lookahead_width", &O::lookahead_width, "sample: rollouts; beam: hypotheses");
    f("soft_temperature", &O::soft_temperature, "soft: of the tokens' distribution");
    f("lookahead_top_k", &O::lookahead_top_k, "sample: tokens drawn from");
    f("fallback", &O::fallback,
      "without literals to look for: none, or likelihood of the greedy continuation");
    f("lookahead_chunk", &O::lookahead_chunk,
      "rows of one call of the model; no effect on results");
  }
};
/// The same, where each candidate is also judged by how probable the missing literals are some
/// tokens ahead (Lu et al. 2022, arXiv 2112.08726, section 3). `fallback` is ours.
class NeuroLogicAStarDecoder : public DecoderOf<NeuroLogicAStarDecoder, NeuroLogicAStarOptions> {
 public:
  static constexpr const char* kSummary = "NeuroLogic that looks ahead for missing literals";
  static constexpr const char* kReplaces = "BeamSearchDecoder";
  static constexpr const char* kPaper = "Lu et al. 2022, arXiv 2112.08726";
  static std::vector<std::string> examples();
  explicit NeuroLogicAStarDecoder(const NeuroLogicAStarOptions& o);
  NeuroLogicAStarDecoder(Box<LanguageModel> base, const NeuroLogicAStarOptions& o);
  Decoded generate(const DecodeArgs& args) override;
};

}  // namespace dropin
