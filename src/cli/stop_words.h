// Stop words for any decoder of bytes.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "dropin/generation/language_model.h"

namespace dropin::cli {

/// A model of bytes with one id more, kStop, which is all that may follow a stop word. Words of the
/// prompt do not count. Child "model".
class StopWordsLM : public LanguageModel {
 public:
  static constexpr int64_t kBytes = 256, kStop = 256;
  StopWordsLM(Box<LanguageModel> model, std::vector<std::string> words);
  std::string_view type() const override { return "StopWordsLM"; }
  Json options_json() const override;
  Box<Module> make_like() const override;
  int64_t vocab_size() const override { return kBytes + 1; }
  int64_t max_len() const override { return model().max_len(); }
  Box<LanguageState> init_state(int64_t rows) override;
  Tensor step(const Tensor& tokens, LanguageState& state) override;
  bool has_soft_step() const override { return model().has_soft_step(); }
  /// The most probable bytes are what is searched for words.
  Tensor step_soft(const Tensor& probs, LanguageState& state) override;
  Tensor prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                 LanguageState& state) override;
  bool has_runs() const override { return model().has_runs(); }
  Box<LanguageState> init_drafts(int64_t nodes) override;
  Pass read(const Tensor& prompt, LanguageState& state) override;
  Pass tree_step(const Tensor& tokens, const DraftTree& tree, LanguageState& state) override;
  void keep(const std::vector<int64_t>& path, LanguageState& state) override;
  LanguageModel& model() const { return *model_; }
  /// The word that a text ends with; empty: none.
  std::string_view ended_by(std::string_view text) const;

 private:
  Tensor widened(const Tensor& logits, const std::vector<std::string>& texts) const;
  Child<LanguageModel> model_;
  std::vector<std::string> words_;
};

}  // namespace dropin::cli
