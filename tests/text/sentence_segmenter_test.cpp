// SentenceSegmenter: lookahead, padding, blocks, adapters, names, bad input.
#include "dropin/text/sentence_segmenter.h"

#include "dropin/text/utf8.h"
#include "kernels/hd.h"
#include "support.h"

namespace dropin::testing {
namespace {

SentenceSegmenterOptions small() {
  return {.vocab_size = 23,
          .embed_dim = 8,
          .num_heads = 2,
          .mlp_dim = 12,
          .num_layers = 3,
          .max_positions = 40,
          .num_labels = 2};
}
SentenceSegmenter made(const SentenceSegmenterOptions& o, std::uint64_t seed = 1) {
  manual_seed(seed);
  SentenceSegmenter m(o);
  for (auto& [name, p] : m.named_parameters()) {
    no_grad guard;
    p.normal_(0, 0.5);  // so that all of it counts
  }
  m.eval();
  return m;
}
Tensor random_ids(const Shape& sizes, std::uint64_t seed = 3) {
  Generator g(seed);
  return randint(3, 23, sizes, kInt64, &g);
}

// The furthest token ahead that logits at 0 depend on.
int64_t furthest(const SentenceSegmenterOptions& o) {
  SentenceSegmenter m = made(o);
  const Tensor ids = random_ids({1, 20}), want = m.logits(ids)[0][0];
  for (int64_t j = 19; j > 0; --j) {
    Tensor other = ids.clone();
    other[0][j].fill_(ids[0][j].item<int64_t>() == 4 ? 5 : 4);
    if (max_difference(m.logits(other)[0][0], want) > 0) return j;
  }
  return 0;
}

TEST(SentenceSegmenter, SeesNoFurtherAheadThanItMay) {
  SentenceSegmenterOptions o = small();
  for (const auto& [lookahead, split, want] :
       {std::tuple{0, 0, 0}, {3, 0, 3}, {8, 0, 6}, {8, 2, 8}, {7, 1, 7}, {5, 2, 4}, {30, 5, 18}}) {
    o.lookahead = lookahead;
    o.lookahead_split_layers.reset();
    if (split) o.lookahead_split_layers = split;
    EXPECT_EQ(furthest(o), want) << lookahead << " " << split;
  }
  o.lookahead.reset();
  o.lookahead_split_layers.reset();
  EXPECT_EQ(furthest(o), 19);
}

TEST(SentenceSegmenter, PaddingChangesNothing) {
  SentenceSegmenterOptions o = small();
  for (const int64_t offset : {0, 2}) {
    o.position_offset = offset;
    o.lookahead = 3;
    SentenceSegmenter m = made(o);
    const Tensor ids = random_ids({1, 7});
    Tensor padded = full({1, 10}, 1, kInt64), mask = zeros({1, 10}, kBool);
    padded.narrow(1, 0, 7).copy_(ids);
    mask.narrow(1, 7, 3).fill_(true);
    EXPECT_LT(max_difference(m.logits(padded, mask).narrow(1, 0, 7), m.logits(ids)), 1e-6);
    padded = full({1, 10}, 1, kInt64);  // on the left: positions count what is there
    padded.narrow(1, 3, 7).copy_(ids);
    mask = zeros({1, 10}, kBool);
    mask.narrow(1, 0, 3).fill_(true);
    EXPECT_LT(max_difference(m.logits(padded, mask).narrow(1, 3, 7), m.logits(ids)), 1e-6);
    EXPECT_TRUE(all(isfinite(m.logits(padded, mask))).item<bool>());
  }
}

// Weighted means of blocks, one after the other.
std::vector<double> by_hand(SentenceSegmenter& m, const Tensor& ids, int64_t size) {
  const auto& o = m.options();
  const int64_t n = ids.size(0);
  std::vector<double> sums(at(n), 0), total(at(n), 0);
  for (int64_t start = 0;; start += o.stride) {
    const int64_t from = std::min(start, n - size);
    const Tensor bos = full({1}, o.bos_id, kInt64), eos = full({1}, o.eos_id, kInt64);
    const Tensor z = m.logits(concat({bos, ids.narrow(0, from, size), eos}).unsqueeze(0));
    for (int64_t k = 0; k < size; ++k) {
      const double middle = (2.0 * static_cast<double>(k) + 1) / static_cast<double>(size) - 1;
      const double w = o.weighting == "hat" ? 1 - std::abs(middle) : 1;
      sums[at(from + k)] += w * z[0][k + 1][0].item();
      total[at(from + k)] += w;
    }
    if (start + size >= n) break;
  }
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = 1 / (1 + std::exp(-sums[i] / total[i]));
  return sums;
}

TEST(SentenceSegmenter, BlocksAreAveraged) {
  for (const char* weighting : {"uniform", "hat"})
    for (const auto& [block, stride, n] : {std::tuple{12, 5, 40},
                                           {12, 12, 36},
                                           {12, 12, 37},
                                           {12, 1, 13},
                                           {512, 64, 9},
                                           {512, 30, 100},
                                           {512, 400, 90},
                                           {7, 3, 1},
                                           {1, 1, 5}}) {
      SentenceSegmenterOptions o = small();
      o.block_size = block;
      o.stride = std::min(stride, 36);
      o.weighting = weighting;
      SentenceSegmenter m = made(o);
      const Tensor ids = random_ids({n});
      const int64_t size = std::min<int64_t>({block, n, 36});
      expect_values(m.newline_probs(ids), by_hand(m, ids, size), 1e-5);
      o.stride = stride;  // wider than what fits: still every token is covered
      EXPECT_TRUE(all(isfinite(made(o).newline_probs(ids))).item<bool>());
    }
}

TEST(SentenceSegmenter, TextsTogetherAreTextsAlone) {
  SentenceSegmenterOptions o = small();
  o.block_size = 12;
  o.stride = 5;
  SentenceSegmenter m = made(o);
  Tensors texts;
  for (const int64_t n : {40, 0, 3, 12, 1, 3, 29}) texts.push_back(random_ids({n}, 50 + n));
  const Tensors together = m.newline_probs(texts);
  ASSERT_EQ(together.size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i)
    EXPECT_LT(max_difference(together[i], m.newline_probs(texts[i])), 1e-6) << i;
}

TEST(SentenceSegmenter, ProbabilitiesStandAtTheEndsOfTokens) {
  SentenceSegmenterOptions o = small();
  o.threshold = 0;
  o.split_on_input_newlines = false;
  SentenceSegmenter m = made(o);
  const Tensor text = decode_utf8("ab c\nd").text, ids = random_ids({4});
  const Tensor offsets = tensor(std::vector<int64_t>{0, 2, 2, 2, 2, 4, 3, 4}, {4, 2});
  const TextSegments s = m(text, {ids, offsets});
  const Tensor p = m.newline_probs(ids);
  expect_values(s.probs, {0, p[0].item(), 0, p[3].item(), 0, 0}, 1e-7);
  EXPECT_EQ(s.segments.size(0), 3);
  const Tensor blank = decode_utf8(" \n  ").text;
  const TextSegments none = m(blank, {ids, minimum(offsets, full({4, 2}, 4, kInt64))});
  EXPECT_EQ(amax(none.probs).item(), 0);
  const TextSegments empty = m(zeros({0}, kInt64), {zeros({0}, kInt64), zeros({0, 2}, kInt64)});
  EXPECT_EQ(empty.segments.size(0), 0);
}

TEST(SentenceSegmenter, AdaptersMergeAndComeOutAgain) {
  SentenceSegmenterOptions o = small();
  o.lora_rank = 2;
  o.lora_alpha = 6;
  SentenceSegmenter m = made(o);
  const Tensor ids = random_ids({2, 9}), want = m.logits(ids);
  SentenceSegmenterOptions plain = small();
  SentenceSegmenter base(plain);
  base.eval();
  base.load_state_dict(m.state_dict(), false);
  EXPECT_GT(max_difference(base.logits(ids), want), 1e-3);
  const StateDict state = m.state_dict();
  const std::string q = "roberta.encoder.layer.1.attention.self.query.";
  const Tensor w = state.find(q + "weight").clone(),
               ba = matmul(state.find(q + "lora_B"), state.find(q + "lora_A")) * 3;
  m.merge_lora();
  EXPECT_TRUE(m.merged());
  EXPECT_LT(max_difference(m.state_dict().find(q + "weight"), w + ba), 1e-6);
  EXPECT_LT(max_difference(m.logits(ids), want), 1e-4);
  base.load_state_dict(m.state_dict(), false);
  EXPECT_LT(max_difference(base.logits(ids), want), 1e-4);
  EXPECT_ERROR(m.merge_lora(), StateError, "merged already");
  m.unmerge();
  EXPECT_LT(max_difference(m.logits(ids), want), 1e-4);
  EXPECT_ERROR(m.unmerge(), StateError, "not merged");
  EXPECT_ERROR(base.merge_lora(), StateError, "no adapters");
}

TEST(SentenceSegmenter, OnlyAdaptersAndClassifierLearn) {
  SentenceSegmenterOptions o = small();
  o.lora_rank = 2;
  o.lora_alpha = 4;
  SentenceSegmenter m = made(o);
  sum(square(m.logits(random_ids({2, 6})))).backward();
  int learning = 0;
  for (const auto& [name, p] : m.named_parameters()) {
    const bool learns =
        name.find("lora_") != std::string::npos || name.find("classifier") != std::string::npos;
    EXPECT_EQ(p.grad().defined(), learns) << name;
    learning += learns;
  }
  EXPECT_EQ(learning, 3 * 3 * 2 + 2);
}

TEST(SentenceSegmenter, LoadsFilesOfAdapters) {
  SentenceSegmenterOptions o = small();
  o.lora_rank = 2;
  o.lora_alpha = 4;
  SentenceSegmenter m = made(o), from = made(o, 9);
  StateDict file;
  for (const auto& [name, t] : from.state_dict()) {
    const std::size_t place = name.find(".lora_");
    if (place != std::string::npos)
      file.set(name.substr(0, place) + ".loras.sat-lora" + name.substr(place), t);
    else if (name.find("classifier") != std::string::npos)
      file.set(name, t);
  }
  file.set("roberta.embeddings.position_ids", arange(40));
  const LoadReport r = m.load_state_dict(file, false);
  EXPECT_TRUE(r.unexpected.empty());
  for (const auto& [name, t] : m.state_dict()) {
    const bool own =
        name.find("lora_") != std::string::npos || name.find("classifier") != std::string::npos;
    EXPECT_EQ(max_difference(t, from.state_dict().find(name)) == 0, own) << name;
  }
}

TEST(SentenceSegmenter, RefusesInWords) {
  auto refused = [](auto change, const char* says) {
    SentenceSegmenterOptions o = small();
    change(o);
    EXPECT_ERROR(SentenceSegmenter m(o), OptionError, says);
  };
  using O = SentenceSegmenterOptions;
  refused([](O& o) { o.vocab_size = 0; }, "vocab_size is 0");
  refused([](O& o) { o.num_heads = 3; }, "not divisible");
  refused([](O& o) { o.lookahead = -1; }, "lookahead is -1");
  refused([](O& o) { o.lookahead_split_layers = 0; }, "lookahead_split_layers is 0");
  refused([](O& o) { o.stride = 0; }, "stride is 0");
  refused([](O& o) { o.stride = 600; }, "block_size = 512");
  refused([](O& o) { o.weighting = "round"; }, "round");
  refused([](O& o) { o.lora_alpha = 2; }, "lora_rank 0");
  refused([](O& o) { o.threshold = 2; }, "threshold is 2");
  refused([](O& o) { o.min_length = 0; }, "min_length");
  refused([](O& o) { o.bos_id = 23; }, "bos_id is 23");
  SentenceSegmenter m = made(small());
  const Tensor text = decode_utf8("abcd").text, ids = random_ids({2});
  auto offsets = [](std::vector<int64_t> v) { return tensor(v, {2, 2}); };
  EXPECT_ERROR(m(text, {ids, offsets({0, 2, 3, 5})}), IndexError, "token 1");
  EXPECT_ERROR(m(text, {ids, offsets({0, 2, 3, 2})}), IndexError, "3 and 2");
  EXPECT_ERROR(m(text, {ids, offsets({-1, 2, 3, 4})}), IndexError, "-1");
  EXPECT_ERROR(m(text, {random_ids({3}), offsets({0, 2, 3, 4})}), ShapeError, "[N, 2]");
  EXPECT_ERROR(m(text, {full({2}, 23, kInt64), offsets({0, 2, 3, 4})}), IndexError, "23");
  EXPECT_ERROR(m(text), StateError, "offsets");
  EXPECT_ERROR(m.logits(random_ids({1, 39})), ShapeError, "at most");
  EXPECT_ERROR(m.logits(random_ids({1, 3}), zeros({1, 2}, kBool)), ShapeError, "key_padding_mask");
}

}  // namespace
}  // namespace dropin::testing
