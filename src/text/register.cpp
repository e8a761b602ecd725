#include "dropin/text/corruption.h"
#include "dropin/text/segment.h"
#include "dropin/text/sentence_segmenter.h"
#include "registry/lists.h"

namespace dropin {

namespace {

// Lengths of texts of a size.
int64_t characters(const SampleSpec& s) {
  static constexpr int64_t kLengths[] = {80, 1024, 4096, 16384};
  return s.length >= 0 ? s.length : s.of(kLengths);
}
SampleSpec next_seed(SampleSpec s) {
  s.seed += 1;
  return s;
}

// Words of one to seven letters, and a probability at each character.
Sample words(const SampleSpec& s) {
  const int64_t n = characters(s);
  const Tensor letters = s.integers(26, {n}) + 97;
  return {{{"probs", sigmoid(s.normal({n}) - 1)},
           {"text", where(next_seed(s).integers(4, {n}) == 0, full({n}, 32, kInt64), letters)}},
          {},
          n};
}

// Tokens of few kinds, some of them newlines (0) and marks (1 and 2).
Sample corruptible_ids(const SampleSpec& s) {
  const int64_t n = characters(s);
  return {{{"ids", s.integers(9, {n})}, {"uniforms", sigmoid(s.normal({n}))}}, {}, n};
}
// Printable characters, one in about a hundred a newline.
Sample corruptible_text(const SampleSpec& s) {
  const int64_t n = characters(s);
  const Tensor points = s.integers(96, {n}) + 32;
  return {{{"text", where(points == 127, full({n}, 10, kInt64), points)},
           {"uniforms", sigmoid(s.normal({40 * n + 64}))}},
          {},
          n};
}
Sample labelled_logits(const NewlineLossOptions& o, const SampleSpec& s) {
  const int64_t length = s.length >= 0 ? s.length : 6, batch = s.batch >= 0 ? s.batch : 2,
                classes = o.auxiliary_weight > 0 ? 4 : 1;
  return {{{"logits", s.normal({batch, length, classes})},
           {"labels", s.integers(classes, {batch, length})}}};
}

void register_corruption(Registry& r, const char* paper) {
  r.add_family({.name = "NewlineLoss",
                .call = "logits [B, L, K], labels [B, L] int64 -> loss []",
                .traits = {.no_batch = true}});
  r.add(FunctionInfo<NewlineLossOptions>{
      .name = "newline_loss",
      .family = "NewlineLoss",
      .summary = "whether a newline follows each token, and which mark",
      .paper = paper,
      .call = [](const NewlineLossOptions& o, const Arguments& in) -> NamedTensors {
        return {{"loss", newline_loss(in["logits"], in["labels"], in.find("key_padding_mask"), o)}};
      },
      .inputs = labelled_logits,
      .examples = {R"({"loss_margin": 0.4, "auxiliary_weight": 0.5})"}});
  r.add_family({.name = "TokenCorruption",
                .call = "ids [N] int64, uniforms [n] -> ids [M], labels [M] int64"});
  r.add(FunctionInfo<NewlineCorruptionOptions>{
      .name = "newline_corruption",
      .family = "TokenCorruption",
      .summary = "ids without newlines and some marks, labelled by what followed",
      .paper = paper,
      .call = [](const NewlineCorruptionOptions& o, const Arguments& in) -> NamedTensors {
        const CorruptedIds c = newline_corruption(in["ids"], in["uniforms"], o);
        return {{"ids", c.ids}, {"labels", c.labels}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return corruptible_ids(s); },
      .sample = R"({"newline_id": 0})",
      .examples = {R"({"punctuation_ids": [1, 2], "keep_before_newline": false})"}});
  r.add_family({.name = "SentenceCorruption",
                .call = "text [C] int64, uniforms [n] -> text [M] int64, labels [M] bool"});
  r.add(FunctionInfo<CorruptSentencesOptions>{
      .name = "corrupt_sentences",
      .family = "SentenceCorruption",
      .summary = "lines joined without marks and case, labelled where they ended",
      .paper = paper,
      .call = [](const CorruptSentencesOptions& o, const Arguments& in) -> NamedTensors {
        const CorruptedText c = corrupt_sentences(in["text"], in.find("uniforms"), o);
        return {{"text", c.text}, {"labels", c.labels}};
      },
      .inputs = [](const auto&, const SampleSpec& s) { return corruptible_text(s); },
      .examples = {R"({"scheme": "social_media", "glue_prob": 0.5})"}});
}

}  // namespace

void register_text(Registry& r) {
  constexpr const char* kPaper = SentenceSegmenter::kPaper;
  r.add<RuleSegmenter>();
  r.add<SentenceSegmenter>();
  r.add_family({.name = "SegmentText",
                .call = "probs [C], text [C] int64 -> segments [S, 2], paragraph [S] int64"});
  r.add(FunctionInfo<SegmentTextOptions>{
      .name = "segment_text",
      .family = "SegmentText",
      .summary = "segments of a text by probabilities of ends, within limits of length",
      .paper = kPaper,
      .call = [](const SegmentTextOptions& o, const Arguments& in) -> NamedTensors {
        return segment_text(in["probs"], in["text"], o).named();
      },
      .inputs = [](const auto&, const SampleSpec& s) { return words(s); },
      .examples = {R"({"paragraphs": true, "strip_whitespace": true})",
                   R"({"min_length": 5, "max_length": 20, "prior": "lognormal"})",
                   R"({"min_length": 5, "max_length": 20, "length_mode": "exact"})",
                   R"({"max_length": 30, "algorithm": "greedy", "prior": "gaussian"})"}});
  register_corruption(r, kPaper);
}

}  // namespace dropin
