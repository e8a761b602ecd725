#include "dropin/embedding/char2subword.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

Char2SubwordOptions small() {
  return {.num_chars = 9,
          .embed_dim = 5,
          .char_dim = 8,
          .num_layers = 2,
          .num_heads = 2,
          .ff_dim = 10,
          .max_chars = 6,
          .dropout = 0};
}

TEST(Char2Subword, TokensAreIndependentOfTheirPaddingAndNeighbours) {
  for (const char* pooling : {"max", "mean"}) {
    Char2SubwordOptions o = small();
    o.pooling = pooling;
    Char2Subword m(o);
    m.to(kFloat64);
    const Tensor ids =
        tensor({3, 1, 4, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 8, 7, 6}, {4, 5}, kInt64);
    const Tensor y = m(ids);
    EXPECT_EQ(max_difference(y[2], zeros({5}, kFloat64)), 0) << "no character";
    const int64_t lengths[] = {3, 1, 0, 5};
    for (const int64_t w : {0, 1, 3})
      EXPECT_LT(max_difference(m(ids[w].narrow(0, 0, lengths[w])), y[w]), 1e-12) << w;
    EXPECT_EQ(m(ids.reshape({2, 2, 5})).sizes(), (Shape{2, 2, 5}));
    EXPECT_EQ(max_difference(m(zeros({3, 0}, kInt64)), zeros({3, 5}, kFloat64)), 0);
    EXPECT_EQ(m(zeros({0, 4}, kInt64)).sizes(), (Shape{0, 5}));
  }
}

TEST(Char2Subword, ThePaddingRowLearnsNothing) {
  Char2Subword m(small());
  sum(square(m(tensor({3, 1, 0, 5, 0, 0}, {2, 3}, kInt64)))).backward();
  for (auto& [name, p] : m.named_parameters())
    if (name == "char_embedding.weight") {
      EXPECT_EQ(amax(abs(p.grad()[0])).item(), 0);
      EXPECT_EQ(amax(abs(p.detach()[0])).item(), 0);
      EXPECT_GT(amax(abs(p.grad()[3])).item(), 0);
    }
}

TEST(Char2Subword, KeptEmbeddingsAreThoseOfTheModule) {
  const std::vector<std::string> words{"abc", "bad", "##dab", "b"};
  const CharVocab vocab(words, true);
  Char2SubwordOptions o = small();
  o.num_chars = vocab.size();
  o.dropout = 0.5;
  Char2Subword m(o);
  m.eval();
  const Tensor want = m(m.encode(words, vocab));
  m.build_cache({"abc", "b"}, vocab);
  EXPECT_EQ(max_difference(m.lookup(words, vocab), want), 0);
  EXPECT_EQ(m.lookup({}, vocab).sizes(), (Shape{0, 5}));
  const Box<Embedding> table = m.to_embedding(words, vocab);
  EXPECT_EQ(max_difference((*table)(tensor({2, 0}, {2}, kInt64)),
                           index_select(want, 0, tensor({2, 0}, {2}, kInt64))),
            0);
  EXPECT_FALSE(table->weight().requires_grad());
  {
    no_grad guard;
    m.parameters().back().add_(1.0);
  }
  m.eval();  // drops what was kept
  EXPECT_GT(max_difference(m.lookup(words, vocab), want), 1e-3);
  m.train();
  EXPECT_EQ(max_difference(m.lookup(words, vocab), m.lookup(words, vocab)), 0) << "no dropout";
  EXPECT_TRUE(m.is_training());
}

TEST(CharVocab, NumbersCharactersByFirstAppearance) {
  const CharVocab v({"ab", "b\xC3\xA9"});
  EXPECT_EQ(v.size(), 5);
  EXPECT_EQ(v.encode("\xC3\xA9xa", 9), (std::vector<int64_t>{4, 1, 2}));
  EXPECT_EQ(v.encode("aba", 2), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(v.encode("\xFF\xC3", 9), (std::vector<int64_t>{1, 1})) << "no UTF-8";
  const CharVocab pieces({"ing"}, true);
  EXPECT_EQ(pieces.encode("##in", 9), (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(pieces.encode("#i", 9), (std::vector<int64_t>{1, 3}));
}

TEST(CharNoise, ChangesOneCharacterAtMost) {
  Generator g(3);
  int changed = 0;
  const std::string word =
      "stra\xC3\x9F"
      "e";
  for (int i = 0; i < 300; ++i) {
    const std::string w = char_noise(word, 0.5, &g);
    changed += w != word;
    EXPECT_LE(w.size(), word.size() + 2);
    EXPECT_GE(w.size() + 2, word.size());
  }
  EXPECT_GT(changed, 90);
  EXPECT_LT(changed, 180);
  EXPECT_EQ(char_noise(word, 0, &g), word);
  EXPECT_EQ(char_noise("", 1, &g), "");
  EXPECT_ERROR(char_noise(word, 2, &g), OptionError, "p is 2");
}

TEST(Char2SubwordLoss, IsTheSumOfItsTerms) {
  const Tensor e = random({3, 4}).requires_grad_(), table = random({6, 4}, kFloat64, 2),
               target = tensor({5, 0, 2}, {3}, kInt64);
  double want = 0;
  auto row = [](const Tensor& t, int64_t i) { return t.detach()[i]; };
  auto cosine = [](const Tensor& a, const Tensor& b) {
    return sum(a * b).item() / (norm(a).item() * norm(b).item());
  };
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t k = target[i].item<int64_t>();
    const Tensor x = row(e, i), y = row(table, k);
    want += 0.5 * (1 - cosine(x, y)) / 3 + 0.25 * sum(square(x - y)).item() / 3;
    const Tensor logits = matmul(table, x);
    want -= 2 * (logits - logsumexp(logits, {0}))[k].item() / 3;
    std::vector<std::pair<double, int64_t>> near;
    for (int64_t j = 0; j < 6; ++j)
      if (j != k) near.emplace_back(sum(square(row(table, j) - y)).item(), j);
    std::sort(near.begin(), near.end());
    for (std::size_t a = 0; a < 2; ++a) {
      const Tensor z = row(table, near[a].second);
      want += 3 * std::pow(cosine(y, z) - cosine(x, z), 2) / 6;
    }
  }
  const Char2SubwordLossOptions o{.cos_weight = 0.5,
                                  .ce_weight = 2,
                                  .l2_weight = 0.25,
                                  .neighbor_weight = 3,
                                  .num_neighbors = 2};
  EXPECT_NEAR(char2subword_loss(e, table, target, o).item(), want, 1e-12);
  const Tensor u = random({3, 4}, kFloat64, 9),
               g = grad({char2subword_loss(e, table, target, o)}, {e})[0];
  auto value = [&](double h) {
    return char2subword_loss(e.detach() + u * h, table, target, o).item();
  };
  EXPECT_NEAR(sum(g * u).item(), (value(1e-6) - value(-1e-6)) / 2e-6, 1e-7);
}

TEST(Char2SubwordLoss, AZeroVectorHasAFiniteGradient) {
  const Tensor e = zeros({1, 4}, kFloat64).requires_grad_(), table = random({6, 4}, kFloat64, 2);
  const Tensor loss = char2subword_loss(e, table, zeros({1}, kInt64), {.ce_weight = 0});
  EXPECT_EQ(loss.item(), 1);
  EXPECT_TRUE(all(isfinite(grad({loss}, {e})[0])).item<bool>());
}

TEST(Char2Subword, NamesWhatDoesNotFit) {
  auto refused = [](auto change, const char* says) {
    Char2SubwordOptions o = small();
    change(o);
    EXPECT_ERROR(Char2Subword{o}, OptionError, says);
  };
  refused([](auto& o) { o.num_heads = 3; }, "not divisible");
  refused([](auto& o) { o.pooling = "sum"; }, "pooling is \"sum\"");
  refused([](auto& o) { o.num_chars = 1; }, "num_chars 1");
  Char2Subword m(small());
  EXPECT_ERROR(m(full({1, 2}, 9, kInt64)), IndexError, "char_ids hold 9, expected 0 to 8");
  EXPECT_ERROR(m(full({1, 2}, -1, kInt64)), IndexError, "char_ids hold -1");
  EXPECT_ERROR(m(tensor({0, 1}, {1, 2}, kInt64)), IndexError, "padding (0) before a character");
  EXPECT_ERROR(m(zeros({1, 7}, kInt64)), ShapeError, "max_chars = 6");
  EXPECT_ERROR(m(zeros({1, 2})), DTypeError, "char_ids are float32");
  const Tensor e = random({2, 3}), table = random({4, 3}), target = zeros({2}, kInt64);
  EXPECT_ERROR(char2subword_loss(e, table, target, {.cos_weight = -1}), OptionError, "below 0");
  EXPECT_ERROR(char2subword_loss(e, table, target, {.cos_weight = 0, .ce_weight = 0}), OptionError,
               "all weights are 0");
  EXPECT_ERROR(char2subword_loss(e, table, target + 4), IndexError, "target holds 4");
  EXPECT_ERROR(char2subword_loss(e, table, target, {.neighbor_weight = 1, .num_neighbors = 4}),
               OptionError, "num_neighbors is 4");
  EXPECT_ERROR(char2subword_loss(e.narrow(0, 0, 0), table, target.narrow(0, 0, 0)), ShapeError,
               "at least 1");
}

}  // namespace
}  // namespace dropin
