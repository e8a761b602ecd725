// Assisted decoding gives what the base alone gives, whatever the drafter says; words.
#include "dropin/generation/assisted.h"

#include <cmath>
#include <thread>

#include "dropin/generation/draft_tree.h"
#include "dropin/registry/registry.h"
#include "generation/models.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;

// Of 11 ids: Transformers of several mixers, and the two models with trees.
Box<LanguageModel> base_of(const std::string& kind, std::uint64_t seed) {
  if (kind == "TableLM") return table_lm(11, seed);
  if (kind == "LlamaLM") {
    LlamaOptions o = llama_options();
    o.vocab_size = 11;
    return llama_lm(seed, o);
  }
  Box<LanguageModel> m = transformer_lm(kind == "half" ? kind : "none", 100 * seed);
  if (kind != "half" && kind != "none") {
    manual_seed(seed);
    const char* options = kind == "Mamba2Mixer" ? R"({"headdim": 8})" : "{}";
    swap(*m, "MultiheadAttention", kind, Json::parse(options));
  }
  return m;
}
const char* const kBases[] = {"none", "half", "GRU", "Mamba2Mixer", "TableLM", "LlamaLM"};

// A drafter of any tokens.
class Guessing : public Component<Guessing, PromptLookupOptions, Drafter> {
 public:
  explicit Guessing(const PromptLookupOptions& o) : Component(o) {}
  explicit Guessing(Ids run) : Guessing(PromptLookupOptions{}) { run_ = std::move(run); }
  Box<Module> make_like() const override { return Box<Module>(new Guessing(run_)); }
  using Drafter::draft;
  Ids draft(const Ids&, int64_t, DrafterState*) override { return run_; }

 private:
  Ids run_;
};

Box<Drafter> look_up() { return Box<Drafter>(new PromptLookupDrafter(PromptLookupOptions{})); }
Box<Drafter> drafter_of_kind(int kind, const std::string& base, std::uint64_t seed) {
  if (kind == 0) return look_up();
  if (kind == 1) return Box<Drafter>(new Guessing(Ids{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 2}));
  // one that is the base, and two that are not
  if (kind == 2) return Box<Drafter>(new ModelDrafter(base_of(base, seed)));
  return Box<Drafter>(
      new ModelDrafter(kind == 3 ? transformer_lm("half", seed) : table_lm(11, seed)));
}

TEST(AssistedDecoder, GreedyIsTheBasesOwnGreedyText) {
  int64_t texts = 0;
  for (const char* base : kBases)
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      const GreedyOptions g{.eos_id = seed == 1 ? 3 : -1,
                            .max_new_tokens = 24,
                            .min_new_tokens = 4,
                            .no_repeat_ngram = seed == 2 ? 4 : 0};
      const DecodeArgs args{.prompt = prompts(11, {6, 5}, seed),
                            .prompt_lengths = whole({5, 1, 2, 3, 4, 5})};
      GreedyDecoder greedy(base_of(base, seed), g);
      const Decoded want = greedy.generate(args);
      for (int kind = 0; kind < 5; ++kind) {
        AssistedDecoder d(base_of(base, seed), drafter_of_kind(kind, base, seed),
                          {.eos_id = g.eos_id,
                           .max_new_tokens = 24,
                           .min_new_tokens = 4,
                           .no_repeat_ngram = g.no_repeat_ngram,
                           .num_assistant_tokens = 1 + 2 * kind});
        const Decoded got = d.generate(args);
        EXPECT_EQ(max_difference(got.tokens, want.tokens), 0) << base << seed << kind;
        EXPECT_EQ(max_difference(got.lengths, want.lengths), 0);
        EXPECT_LT(max_difference(got.scores, want.scores), 1e-3);
        texts += 6;
      }
    }
  EXPECT_EQ(texts, 540);
}

TEST(AssistedDecoder, TakesEveryTokenOfADrafterThatIsTheBase) {
  for (const char* base : kBases) {
    AssistedDecoder d(base_of(base, 5), drafter_of_kind(2, base, 5),
                      {.max_new_tokens = 26, .num_assistant_tokens = 4});
    const Tensor accepted = d.generate({.prompt = prompts(11, {3, 4})}).accept_lengths;
    EXPECT_EQ(accepted.size(1), 5) << base << ": 5 tokens a pass, and the last one";
    EXPECT_EQ(amin(accepted.narrow(1, 0, 4)).item(), 4) << base;
  }
}

TEST(AssistedDecoder, TakesWhatTheTextRepeats) {
  int64_t taken = 0, passes = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    AssistedDecoder d(base_of("none", seed), look_up(), {.max_new_tokens = 30});
    const Tensor a = d.generate({.prompt = prompts(11, {6, 5}, seed)}).accept_lengths;
    for (const int64_t n : a.to_vector<int64_t>()) {
      taken += std::max<int64_t>(n, 0);
      passes += n >= 0;
    }
  }
  EXPECT_GT(taken, passes) << "greedy texts of small models go round";
}

TEST(AssistedDecoder, SamplesAreTheBasesOwn) {
  for (const char* base : {"none", "GRU", "TableLM"}) {
    SamplingDecoder sampling(base_of(base, 4),
                             {.eos_id = 1, .max_new_tokens = 15, .temperature = 0.6});
    AssistedDecoder d(base_of(base, 4), drafter_of_kind(2, base, 4),
                      {.eos_id = 1, .max_new_tokens = 15, .temperature = 0.6});
    Generator g(3), a(6), b(6);
    DecodeArgs args{.prompt = prompts(11, {10, 3}), .uniforms = rand({10, 18}, kFloat64, &g)};
    const Decoded want = sampling.generate(args), got = d.generate(args);
    EXPECT_EQ(max_difference(got.tokens, want.tokens), 0) << base;
    EXPECT_GT(amax(got.accept_lengths).item(), 0);
    args.uniforms = {};
    args.generator = &a;
    const Tensor seeded = d.generate(args).tokens;
    args.generator = &b;
    EXPECT_EQ(max_difference(sampling.generate(args).tokens, seeded), 0);
  }
}

TEST(AssistedDecoder, EndsWhereTheModelsDo) {
  for (int kind = 0; kind < 4; ++kind) {  // the Transformers hold 40
    GreedyDecoder greedy(base_of("none", 2), {.max_new_tokens = 35});
    AssistedDecoder d(base_of("none", 2), drafter_of_kind(kind, "none", 2), {.max_new_tokens = 35});
    const DecodeArgs args{.prompt = prompts(11, {4, 5})};
    EXPECT_EQ(max_difference(d.generate(args).tokens, greedy.generate(args).tokens), 0) << kind;
    EXPECT_ERROR(d.generate({.prompt = prompts(11, {4, 6})}), OptionError, "40 together");
  }
  // a drafter's model that holds less than the base
  GreedyDecoder greedy(base_of("TableLM", 2), {.max_new_tokens = 60});
  AssistedDecoder d(base_of("TableLM", 2), drafter_of_kind(3, "", 2), {.max_new_tokens = 60});
  const DecodeArgs args{.prompt = prompts(11, {2, 5})};
  EXPECT_EQ(max_difference(d.generate(args).tokens, greedy.generate(args).tokens), 0);
}

TEST(PromptLookupDrafter, GoesOnAsTheLastEarlierPlaceDid) {
  auto draft = [](const Ids& text, int64_t n, const PromptLookupOptions& o = {}) {
    return PromptLookupDrafter(o).draft(text, n);
  };
  EXPECT_EQ(draft({1, 2, 3, 4, 1, 2}, 3), Ids({3, 4, 1}));
  EXPECT_EQ(draft({1, 2, 3, 9, 2, 5, 8, 1, 2}, 1), Ids({3})) << "two tokens before one";
  EXPECT_EQ(draft({2, 3, 2, 4, 2}, 2), Ids({4, 2})) << "the last one";
  EXPECT_EQ(draft({7, 5, 5}, 4), Ids({5, 5, 5, 5})) << "goes on with itself";
  EXPECT_EQ(draft({1, 2, 1, 2}, 5), Ids({1, 2, 1, 2, 1}));
  EXPECT_EQ(draft({1, 2, 3}, 5), Ids());
  EXPECT_EQ(draft({4}, 5), Ids());
  EXPECT_EQ(draft({1, 2, 3, 2}, 2, {.min_ngram = 2}), Ids());
  EXPECT_EQ(draft({3, 2, 7, 1, 2, 8, 3, 2}, 1, {.max_ngram = 1}), Ids({8}));
}

TEST(ModelDrafter, ReadsOnAndBeginsAgain) {
  for (const char* kind : kBases) {
    auto fresh = [&](const Ids& text) { return ModelDrafter(base_of(kind, 3)).draft(text, 4); };
    ModelDrafter d(base_of(kind, 3));
    const Box<DrafterState> state = d.init_state();
    for (const Ids& text : {Ids{1, 2}, Ids{1, 2, 3, 4, 5}, Ids{1, 2, 3, 4, 5, 9}, Ids{1, 2, 3, 7},
                            Ids{1, 2, 3, 7}, Ids{8}}) {
      const Ids got = d.draft(text, 4, state.get());
      EXPECT_EQ(got, fresh(text)) << kind << text.size();
      EXPECT_EQ(got.size(), 4u);
    }
    // the greedy text of the model itself
    GreedyDecoder greedy(base_of(kind, 3), {.max_new_tokens = 4});
    EXPECT_EQ(d.draft({5, 6, 7}, 4, state.get()),
              row(greedy.generate({.prompt = whole({5, 6, 7}).unsqueeze(0)}).tokens, 0));
  }
}

TEST(AssistedDecoder, ThreadsMayShareADrafter) {
  AssistedDecoder d(base_of("none", 6), drafter_of_kind(3, "", 6), {.max_new_tokens = 12});
  const DecodeArgs args{.prompt = prompts(11, {3, 4})};
  const Decoded want = d.generate(args);
  Decoded got[4];
  std::vector<std::thread> threads;
  for (Decoded& g : got)
    threads.emplace_back([&] {
      for (int k = 0; k < 4; ++k) g = d.generate(args);
    });
  for (auto& t : threads) t.join();
  for (const Decoded& g : got) {
    EXPECT_EQ(max_difference(g.tokens, want.tokens), 0);
    EXPECT_EQ(max_difference(g.accept_lengths, want.accept_lengths), 0);
  }
}

TEST(AssistedDecoder, ClonesGiveTheSame) {
  AssistedDecoder d(base_of("none", 6), drafter_of_kind(4, "", 6), {.max_new_tokens = 8});
  const DecodeArgs args{.prompt = prompts(11, {2, 3})};
  const Box<Module> copy = d.clone();
  const Decoded want = d.generate(args), got = dynamic_cast<Decoder&>(*copy).generate(args);
  EXPECT_EQ(max_difference(got.tokens, want.tokens), 0);
  EXPECT_EQ(max_difference(got.accept_lengths, want.accept_lengths), 0);
}

// Without tree masks and without a way back.
class Forward : public Component<Forward, TableLMOptions, LanguageModel> {
 public:
  explicit Forward(const TableLMOptions& o) : Component(o) {}
  int64_t vocab_size() const override { return 11; }
  Box<LanguageState> init_state(int64_t) override { return {}; }
  Tensor step(const Tensor&, LanguageState&) override { return {}; }
};

TEST(AssistedDecoder, RefusesInWords) {
  auto refused = [](const AssistedOptions& o, const char* says) {
    EXPECT_ERROR(AssistedDecoder(base_of("none", 1), look_up(), o), OptionError, says);
  };
  refused({.num_return = 2}, "num_return");
  refused({.num_assistant_tokens = 0}, "num_assistant_tokens is 0");
  refused({.temperature = -1}, "temperature is -1");
  EXPECT_ERROR(PromptLookupDrafter({.max_ngram = 1, .min_ngram = 2}), OptionError, "min_ngram");
  EXPECT_ERROR(PromptLookupDrafter({.min_ngram = 0}), OptionError, "min_ngram is 0");
  EXPECT_ERROR(ModelDrafter(Box<LanguageModel>()), OptionError, "model is null");
  EXPECT_ERROR(ModelDrafter(table_lm(11, 1)).draft({1}, 2, nullptr), StateError, "no state");
  EXPECT_ERROR(AssistedDecoder(base_of("none", 1), Box<Drafter>(), {}), OptionError, "drafter");
  EXPECT_ERROR(AssistedDecoder(Box<LanguageModel>(new Forward({11, 2})), look_up(), {}),
               OptionError, "Forward takes no tokens back");
  EXPECT_ERROR(
      AssistedDecoder(base_of("none", 1), Box<Drafter>(new ModelDrafter(table_lm(12, 1))), {}),
      OptionError, "12 token ids, expected the base's 11");
  AssistedDecoder d(base_of("none", 1), Box<Drafter>(new Guessing(Ids{11})), {.max_new_tokens = 5});
  EXPECT_ERROR(d.generate({.prompt = prompts(11, {1, 3})}), IndexError, "Guessing drafts token 11");
  Constraints c;
  c.any({{2}});
  EXPECT_ERROR(d.generate({.prompt = prompts(11, {1, 3}), .constraints = c}), OptionError,
               "no constraints");
  Box<LanguageModel> m = base_of("none", 1);
  Box<LanguageState> state = m->init_drafts(3);
  m->read(whole({1, 2}), *state);
  EXPECT_ERROR(m->tree_step(whole({1, 2, 3}), draft_tree(std::vector<Ids>{{0}, {1}}), *state),
               OptionError, "one branch");
  EXPECT_ERROR(m->keep({0}, *state), StateError, "at most the 0");
  EXPECT_ERROR(draft_run(-1), OptionError, "depth is -1");
}

}  // namespace
}  // namespace dropin::testing
