#include "dropin/generation/speculative.h"

#include "generation/speculation.h"

namespace dropin {

using generation::Limits;

namespace {

Limits speculative_limits(const SpeculativeOptions& o, const LanguageModel& base) {
  const Limits l = generation::limits_of("SpeculativeDecoder", o, base);
  generation::check_acceptance(l.who, o);
  return l;
}

// Draft heads that grow one tree.
class HeadsGuesser : public generation::Guesser {
 public:
  HeadsGuesser(DraftHeads& heads, const DraftTree& tree) : heads_(heads), tree_(tree) {}
  int64_t nodes() const override { return tree_.size(); }
  void start(const LanguageModel::Pass& prompt) override { state_ = heads_.start(prompt.hidden); }
  Guess propose(const std::vector<int64_t>& text, int64_t depth) override {
    Guess g{tree_.up_to(depth), {}};
    g.tokens = heads_.propose(g.tree, text.back(), state_);
    return g;
  }
  void advance(const LanguageModel::Pass& pass, const std::vector<int64_t>& path) override {
    const Device device = pass.hidden.device();
    heads_.advance(index_select(pass.hidden, 0, tensor(path).to(device)), state_);
  }

 private:
  DraftHeads& heads_;
  const DraftTree& tree_;
  DraftHeads::State state_;
};

}  // namespace

std::vector<std::string> SpeculativeDecoder::examples() {
  return {R"({"tree": [[0], [1], [0, 0]], "eos_id": 1, "no_repeat_ngram": 3})",
          R"({"tree": [[0], [1], [0, 0]], "acceptance": "sample", "temperature": 0.8})",
          R"({"acceptance": "typical", "temperature": 0.7})"};
}

SpeculativeDecoder::SpeculativeDecoder(const SpeculativeOptions& o) : Component(o) {
  build(language_model_of(who(), o.base), draft_heads_of(who(), o.heads));
}
SpeculativeDecoder::SpeculativeDecoder(Box<LanguageModel> model, Box<DraftHeads> heads,
                                       const SpeculativeOptions& o)
    : Component(o) {
  build(std::move(model), std::move(heads));
}

void SpeculativeDecoder::build(Box<LanguageModel> model, Box<DraftHeads> drafts) {
  DROPIN_CHECK(drafts, OptionError, who(), ": heads are null, expected draft heads");
  set_base(std::move(model));
  heads_ = Child<DraftHeads>(add_child("heads", Box<Module>(drafts.release())));
  speculative_limits(options_, base());
  DROPIN_CHECK(base().has_trees(), OptionError, who(), ": the base ", base().type(),
               " has no tree masks, expected one that takes trees of drafts");
  DROPIN_CHECK(
      heads().embed_dim() == base().embed_dim() && heads().vocab_size() == base().vocab_size(),
      OptionError, who(), ": heads are of embed_dim ", heads().embed_dim(), " and vocab_size ",
      heads().vocab_size(), ", expected the base's ", base().embed_dim(), " and ",
      base().vocab_size());
  tree_ = draft_tree(options_.tree);
  DROPIN_CHECK(tree_.max_depth() <= heads().num_heads(), OptionError, who(), ": the tree is ",
               tree_.max_depth(), " deep, expected at most num_heads = ", heads().num_heads());
  for (const int64_t r : tree_.rank)
    DROPIN_CHECK(r < heads().vocab_size(), OptionError, who(), ": the tree has rank ", r,
                 ", expected less than vocab_size = ", heads().vocab_size());
}

Box<Module> SpeculativeDecoder::make_like() const {
  Box<Module> h = heads().make_like();
  auto r = Box<SpeculativeDecoder>(new SpeculativeDecoder(
      base_like(), Box<DraftHeads>(dynamic_cast<DraftHeads*>(h.release())), options_));
  r->process_logits_ = process_logits_;
  return r;
}

Decoded SpeculativeDecoder::generate(const DecodeArgs& args) {
  no_grad guard;
  const Limits l = speculative_limits(options_, base());
  const VerifyOptions rules{.acceptance = options_.acceptance,
                            .temperature = options_.temperature,
                            .posterior_threshold = options_.posterior_threshold,
                            .posterior_alpha = options_.posterior_alpha};
  HeadsGuesser guesser(heads(), tree_);
  return generation::speculate(l, args, rules, process_logits_, base(), guesser);
}

}  // namespace dropin
