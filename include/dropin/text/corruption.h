// Training a segmenter: its loss, and the ways to take newlines and marks out of a text.
#pragma once
#include <string>
#include <vector>

#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct NewlineLossOptions {
  double loss_margin = 0.5, auxiliary_weight = 0;
  static void fields(auto&& f) {
    using O = NewlineLossOptions;
    f("loss_margin", &O::loss_margin, "targets are 0.5 -+ it; 0.5: 0 and 1");
    f("auxiliary_weight", &O::auxiliary_weight, "of the cross-entropy of marks");
  }
};
/// Mean over the tokens that are not padded of BCE(logits[..., 0], newline?), and auxiliary_weight
/// times the cross-entropy of logits[..., 1:] for the mark that follows (Frohmann et al. 2024).
/// logits [B, L, K], labels [B, L] int64: 0 nothing follows, 1 a newline, 2 + k mark k;
/// key_padding_mask [B, L] bool, true = padding -> []. No token: 0. ShapeError, DTypeError,
/// OptionError, IndexError for labels.
Tensor newline_loss(const Tensor& logits, const Tensor& labels, const Tensor& key_padding_mask = {},
                    const NewlineLossOptions& o = {});

struct NewlineCorruptionOptions {
  int64_t newline_id = -1;  ///< required
  std::vector<int64_t> punctuation_ids = {};
  double newline_remove_prob = 1, punctuation_remove_prob = 0.2;
  bool keep_before_newline = true;
  static void fields(auto&& f) {
    using O = NewlineCorruptionOptions;
    f("newline_id", &O::newline_id, "the id of a newline; required");
    f("punctuation_ids", &O::punctuation_ids, "ids of marks: mark k has label 2 + k");
    f("newline_remove_prob", &O::newline_remove_prob, "of a newline");
    f("punctuation_remove_prob", &O::punctuation_remove_prob, "of a mark");
    f("keep_before_newline", &O::keep_before_newline, "marks before a newline stay");
  }
};
struct CorruptedIds {
  Tensor ids;     ///< int64 [n]
  Tensor labels;  ///< int64 [n]: what followed each token, as newline_loss takes them
};
/// Takes newlines and marks out of ids [N] int64 and labels the tokens before them. Each token that
/// one follows draws the next of `uniforms` [>= visits], in order; surplus ones stay unused.
/// ShapeError (also for too few uniforms), DTypeError, OptionError.
CorruptedIds newline_corruption(const Tensor& ids, const Tensor& uniforms,
                                const NewlineCorruptionOptions& o);

struct CorruptSentencesOptions {
  std::string scheme = "asr";
  std::vector<int64_t> punctuation = {'.', ',', '!', '?', ';', ':', '"', '\'', '(', ')', '-'};
  std::vector<int64_t> separator = {' '};
  double glue_prob = 0.1;
  static void fields(auto&& f) {
    using O = CorruptSentencesOptions;
    f("scheme", &O::scheme, "asr (no marks, lower case) or social_media (by chance)");
    f("punctuation", &O::punctuation, "the marks, as code points");
    f("separator", &O::separator, "between sentences, as code points");
    f("glue_prob", &O::glue_prob,
      "social_media: of no space behind a sentence that ends in a mark");
  }
};
struct CorruptedText {
  Tensor text;    ///< int64 [n] code points
  Tensor labels;  ///< bool [n]: true at the last character of each sentence
};
/// Joins the lines of text [C] (int64 code points, a sentence a line) after taking out marks and
/// case. social_media draws from `uniforms` [n] in order: marks, case, repeats of each mark, and
/// whether the join is glued. OptionError, DTypeError, ShapeError (also for too few uniforms).
CorruptedText corrupt_sentences(const Tensor& text, const Tensor& uniforms = {},
                                const CorruptSentencesOptions& o = {});

}  // namespace dropin
