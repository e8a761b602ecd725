// One loop for all that guess and let the base judge.
#pragma once
#include <memory>

#include "generation/verify.h"

namespace dropin::generation {

/// What guesses: a tree of tokens behind a text.
class Guesser {
 public:
  virtual ~Guesser() = default;
  /// The most nodes of a tree.
  virtual int64_t nodes() const = 0;
  /// The base read a prompt of a new text.
  virtual void start(const LanguageModel::Pass& prompt) = 0;
  struct Guess {
    DraftTree tree;
    std::vector<int64_t> tokens;  ///< of each node
  };
  /// At most `depth` deep, behind the text, whose last token is the root.
  virtual Guess propose(const std::vector<int64_t>& text, int64_t depth) = 0;
  /// The nodes of `path` stay, of which the base said `pass`.
  virtual void advance(const LanguageModel::Pass& pass, const std::vector<int64_t>& path) = 0;
};

/// Texts of args' prompts by guesses and a judgement, one after the other.
Decoded speculate(const Limits& l, const DecodeArgs& args, const VerifyOptions& rules,
                  const ProcessLogits& process, LanguageModel& base, Guesser& guesser);

}  // namespace dropin::generation
