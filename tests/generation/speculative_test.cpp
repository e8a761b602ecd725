// Speculative decoding gives what the base alone gives; words.
#include "dropin/generation/speculative.h"

#include <cmath>

#include "generation/models.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;

Json tree_of(const char* text) { return Json::parse(text); }
const char* const kTree = "[[0], [1], [2], [0, 0], [0, 1], [1, 0], [0, 0, 0]]";

// Heads that guess well: their output layers are copies of the base's, so that some drafts are
// taken.
Box<DraftHeads> heads_for(LanguageModel& base, std::uint64_t seed, bool medusa = false) {
  Box<DraftHeads> h;
  if (medusa)
    h = Box<DraftHeads>(new MedusaHeads(
        {.embed_dim = base.embed_dim(), .vocab_size = base.vocab_size(), .num_heads = 3}));
  else
    h = Box<DraftHeads>(new HydraHeads({.embed_dim = base.embed_dim(),
                                        .vocab_size = base.vocab_size(),
                                        .num_heads = 3,
                                        .prefix_attention = seed % 2 == 0,
                                        .prefix_mlp_dim = 8}));
  return randomized(std::move(h), seed);
}
Box<LanguageModel> base_of(bool llama, std::uint64_t seed) {
  return llama ? llama_lm(seed) : table_lm(13, seed, 6);
}

TEST(SpeculativeDecoder, GreedyIsTheBasesOwnGreedyText) {
  int64_t taken = 0, texts = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed)
    for (const bool llama : {false, true}) {
      const SpeculativeOptions o{.tree = tree_of(kTree),
                                 .max_new_tokens = 20,
                                 .eos_id = seed % 3 ? 1 : -1,
                                 .stop_ids = {2},
                                 .min_new_tokens = 5,
                                 .no_repeat_ngram = seed % 2 ? 3 : 0};
      GreedyDecoder greedy(base_of(llama, seed), {.eos_id = o.eos_id,
                                                  .stop_ids = o.stop_ids,
                                                  .max_new_tokens = 20,
                                                  .min_new_tokens = 5,
                                                  .no_repeat_ngram = o.no_repeat_ngram});
      Box<LanguageModel> base = base_of(llama, seed);
      Box<DraftHeads> heads = heads_for(*base, seed, seed == 3);
      SpeculativeDecoder d(std::move(base), std::move(heads), o);
      const Tensor p = prompts(13, {8, 4}, seed);
      const DecodeArgs args{.prompt = p, .prompt_lengths = whole({4, 1, 2, 3, 4, 4, 2, 1})};
      const Decoded want = greedy.generate(args), got = d.generate(args);
      EXPECT_EQ(max_difference(got.tokens, want.tokens), 0) << seed << llama;
      EXPECT_EQ(max_difference(got.lengths, want.lengths), 0);
      EXPECT_LT(max_difference(got.scores, want.scores), 1e-3);
      taken += static_cast<int64_t>(sum(clamp(got.accept_lengths, 0, 9)).item());
      texts += 8;
    }
  EXPECT_GT(taken, texts / 2) << "drafts that were taken";
}

TEST(SpeculativeDecoder, SamplesAreTheBasesOwn) {
  for (const bool llama : {false, true}) {
    SamplingDecoder sampling(base_of(llama, 4),
                             {.eos_id = 1, .max_new_tokens = 15, .temperature = 0.6});
    Box<LanguageModel> base = base_of(llama, 4);
    Box<DraftHeads> heads = heads_for(*base, 4);
    SpeculativeDecoder d(std::move(base), std::move(heads),
                         {.tree = tree_of(kTree),
                          .acceptance = "sample",
                          .temperature = 0.6,
                          .max_new_tokens = 15,
                          .eos_id = 1});
    Generator g(3);
    const Tensor p = prompts(13, {10, 3});
    DecodeArgs args{.prompt = p, .uniforms = rand({10, 18}, kFloat64, &g)};
    const Decoded want = sampling.generate(args), got = d.generate(args);
    EXPECT_EQ(max_difference(got.tokens, want.tokens), 0);
    EXPECT_GT(amax(got.accept_lengths).item(), 0);
    args.uniforms = {};
    Generator a(6), b(6);
    args.generator = &a;
    const Tensor seeded = d.generate(args).tokens;
    args.generator = &b;
    EXPECT_EQ(max_difference(sampling.generate(args).tokens, seeded), 0);
  }
}

TEST(SpeculativeDecoder, TypicalTakesMoreOrAsMany) {
  Box<LanguageModel> base = base_of(true, 5);
  Box<DraftHeads> heads = heads_for(*base, 5);
  SpeculativeDecoder d(std::move(base), std::move(heads),
                       {.tree = tree_of(kTree),
                        .acceptance = "typical",
                        .temperature = 1,
                        .posterior_threshold = 1e-9,
                        .max_new_tokens = 12});
  const Decoded got = d.generate({.prompt = prompts(13, {3, 3})});
  EXPECT_EQ(amin(got.lengths).item(), 12);
  EXPECT_EQ(got.accept_lengths[0][0].item(), 3) << "every draft is good enough";
}

TEST(SpeculativeDecoder, TreesEndWhereTheModelDoes) {
  LlamaOptions o = llama_options();
  o.max_len = 12;
  GreedyDecoder greedy(llama_lm(2, o), {.max_new_tokens = 9});
  Box<LanguageModel> base = llama_lm(2, o);
  Box<DraftHeads> heads = heads_for(*base, 2);
  SpeculativeDecoder d(std::move(base), std::move(heads),
                       {.tree = tree_of(kTree), .max_new_tokens = 9});
  const Tensor p = prompts(13, {4, 3});
  EXPECT_EQ(max_difference(d.generate({.prompt = p}).tokens, greedy.generate({.prompt = p}).tokens),
            0);
  EXPECT_ERROR(d.generate({.prompt = prompts(13, {4, 4})}), OptionError, "12 together");
}

TEST(SpeculativeDecoder, ProcessesLogitsAtEveryNode) {
  Box<LanguageModel> base = base_of(false, 4);
  Box<DraftHeads> heads = heads_for(*base, 4);
  SpeculativeDecoder d(std::move(base), std::move(heads),
                       {.tree = tree_of(kTree), .max_new_tokens = 15});
  int64_t other = 0;
  const Tensor p = prompts(13, {6, 3});
  for (const int64_t t : d.generate({.prompt = p}).tokens.to_vector<int64_t>()) other += t % 2;
  EXPECT_GT(other, 0);
  d.set_process_logits([](int64_t, const Ids& path, double* z) {
    EXPECT_GE(path.size(), 3u);
    for (int64_t i = 1; i < 13; i += 2) z[i] = -INFINITY;
  });
  for (const int64_t t : d.generate({.prompt = p}).tokens.to_vector<int64_t>()) EXPECT_EQ(t % 2, 0);
}

TEST(SpeculativeDecoder, ClonesGiveTheSame) {
  Box<LanguageModel> base = base_of(true, 6);
  Box<DraftHeads> heads = heads_for(*base, 6);
  SpeculativeDecoder d(std::move(base), std::move(heads),
                       {.tree = tree_of(kTree), .max_new_tokens = 8});
  const Tensor p = prompts(13, {2, 3});
  const Box<Module> copy = d.clone();
  EXPECT_EQ(max_difference(dynamic_cast<Decoder&>(*copy).generate({.prompt = p}).tokens,
                           d.generate({.prompt = p}).tokens),
            0);
}

TEST(SpeculativeDecoder, RefusesInWords) {
  auto refused = [](const SpeculativeOptions& o, const char* says) {
    Box<LanguageModel> base = base_of(false, 1);
    Box<DraftHeads> heads = heads_for(*base, 1);
    EXPECT_ERROR(SpeculativeDecoder(std::move(base), std::move(heads), o), OptionError, says);
  };
  refused({}, "deep");
  refused({.tree = tree_of("[[13]]")}, "rank 13");
  refused({.tree = tree_of("[[0, 1]]")}, "prefix");
  refused({.tree = tree_of(kTree), .temperature = 1}, "temperature");
  refused({.tree = tree_of(kTree), .acceptance = "typical"}, "temperature");
  Box<LanguageModel> base = base_of(false, 1), other = table_lm(12, 1, 6);
  EXPECT_ERROR(
      SpeculativeDecoder(base_of(false, 1), heads_for(*other, 1), {.tree = tree_of(kTree)}),
      OptionError, "expected the base's");
  EXPECT_ERROR(SpeculativeDecoder(base_of(false, 1), Box<DraftHeads>(), {}), OptionError, "heads");
  EXPECT_ERROR(SpeculativeDecoder(Box<LanguageModel>(new TransformerLM(TransformerOptions{
                                      .vocab_size = 13, .embed_dim = 8, .num_heads = 2})),
                                  heads_for(*base, 1), {.tree = tree_of(kTree)}),
               OptionError, "no tree masks");
  Box<DraftHeads> heads = heads_for(*base, 1);
  SpeculativeDecoder d(
      std::move(base), std::move(heads),
      {.tree = tree_of(kTree), .acceptance = "sample", .temperature = 1, .max_new_tokens = 5});
  const Tensor p = prompts(13, {2, 3});
  EXPECT_ERROR(d.generate({.prompt = p, .uniforms = zeros({2, 7})}), ShapeError, "at least 8");
  EXPECT_ERROR(d.generate({.prompt = p, .uniforms = ones({2, 8})}), OptionError, "[0, 1)");
  d.base().parameters()[0].detach().fill_(std::nan(""));
  EXPECT_ERROR(d.generate({.prompt = p}), StateError, "step 0 in row 0");
}

}  // namespace
}  // namespace dropin::testing
