// The second part of the room's list: losses of videos, their objects and captions.
#include "dropin/loss/object_aware.h"
#include "dropin/ops/assignment.h"
#include "registry/lists.h"

namespace dropin {

namespace {

constexpr const char* kHelpingHands = "Zhang et al. 2023 (Helping Hands), arXiv 2308.07918";

int64_t samples_for(const SampleSpec& s) {
  return s.length >= 0 ? s.length : s.batch >= 0 ? s.batch : s.size ? 64 : 3;
}
SampleSpec next(SampleSpec s, std::uint64_t by) {
  s.seed += by;
  return s;
}
Tensor boxes_like(const SampleSpec& s, const Shape& sizes) { return sigmoid(s.normal(sizes)); }

Sample box_sets(const SampleSpec& s) {
  const int64_t m = samples_for(s);
  return {{{"pred", boxes_like(s, {m, 5, 4})},
           {"boxes", boxes_like(next(s, 1), {m, 3, 4})},
           {"box_mask", s.integers(2, {m, 3}).to(kBool)}},
          {},
          m};
}
Sample captions_words(const SampleSpec& s) {
  const int64_t b = samples_for(s), nouns = s.size ? 600 : 7, width = s.size ? 256 : 6;
  return {{{"object_embeds", s.normal({b, 4, width})},
           {"noun_embeds", next(s, 1).normal({nouns, width})},
           {"noun_ids", s.integers(nouns, {b, 3})}},
          {"object_embeds", "noun_embeds", "noun_ids"},
          b};
}
Sample videos_captions(const SampleSpec& s) {
  const int64_t v = samples_for(s), width = s.size ? 256 : 6;
  return {{{"text_embeds", s.normal({2 * v, width})},
           {"video_embeds", next(s, 1).normal({v, width})},
           {"verb_sim", eye(v, v, s.dtype)},
           {"noun_sim", eye(v, v, s.dtype)}},
          {"text_embeds", "video_embeds", "verb_sim", "noun_sim"},
          v};
}

}  // namespace

void register_video_losses(Registry& r) {
  r.add(FunctionInfo<BoxSetLossOptions>{
      .name = "BoxSetLoss",
      .family = "Function",
      .summary = "boxes matched to predictions one by one, then their distance and overlap",
      .paper = kHelpingHands,
      .call = [](const BoxSetLossOptions& o, const Arguments& in) -> NamedTensors {
        const BoxSetLosses l = box_set_loss(in["pred"], in["boxes"], in["box_mask"], o);
        return {{"y", l.y}, {"matched", l.matched}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return box_sets(s); },
      .examples = {R"({"iou_eps": 0, "cost_l1": 1})"},
      .traits = [](Traits& t) { t.surrogate_gradient = true; }});  // targets have none
  r.add(FunctionInfo<WordContrastiveLossOptions>{
      .name = "WordContrastiveLoss",
      .family = "Function",
      .summary = "objects against the vocabulary of nouns, matched to a caption's",
      .paper = kHelpingHands,
      .call = [](const WordContrastiveLossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y",
                 word_contrastive_loss(in["noun_embeds"], in["object_embeds"], in["noun_ids"], o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return captions_words(s); }});
  r.add(FunctionInfo<EgoNCELossOptions>{
      .name = "EgoNCELoss",
      .family = "Function",
      .summary = "captions against videos, those of like verbs and nouns as positives",
      .paper = kHelpingHands,
      .call = [](const EgoNCELossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"y", ego_nce_loss(in["text_embeds"], in["video_embeds"], in["verb_sim"],
                                   in["noun_sim"], in.find("caption_mask"), o)}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return videos_captions(s); },
      .traits = [](Traits& t) { t.surrogate_gradient = true; }});  // likenesses have none
  r.add(FunctionInfo<NoOptions>{.name = "hungarian",
                                .family = "Function",
                                .summary = "the cheapest one-to-one assignment",
                                .call = [](const NoOptions&, const Arguments& in) -> NamedTensors {
                                  return {{"y", hungarian(in["cost"])}};
                                },
                                .inputs = [](const auto&, const SampleSpec& s) -> Sample {
                                  const int64_t n = s.length >= 0 ? s.length : s.size ? 300 : 6;
                                  return {{{"cost", s.normal({n, n})}}, {}, n};
                                }});
}

}  // namespace dropin
