// SentenceSegmenter over texts longer than a block.
#include <algorithm>
#include <cmath>

#include "dropin/text/sentence_segmenter.h"
#include "kernels/hd.h"
#include "text/spans.h"

namespace dropin {

namespace {

constexpr int64_t kTokensAtATime = 8192;

// Where blocks of `size` start in n tokens: the last one ends with them.
std::vector<int64_t> block_starts(int64_t n, int64_t size, int64_t stride) {
  std::vector<int64_t> starts{0};
  while (starts.back() + size < n) starts.push_back(std::min(starts.back() + stride, n - size));
  return starts;
}

// Part of a text that is run at once.
struct Block {
  std::size_t text;
  int64_t start, size;
};

// A text's tokens, and the weighted sums of their logits over its blocks.
struct TokenSums {
  explicit TokenSums(std::vector<int64_t> all)
      : ids(std::move(all)), logits(ids.size(), 0), weights(ids.size(), 0) {}
  void add(const Block& b, const double* z, bool hat) {
    for (int64_t k = 0; k < b.size; ++k) {
      const double middle = static_cast<double>(2 * k + 1) / static_cast<double>(b.size) - 1;
      const auto w = static_cast<float>(hat ? 1 - std::abs(middle) : 1);
      logits[at(b.start + k)] += w * static_cast<float>(z[k]);
      weights[at(b.start + k)] += w;
    }
  }
  Tensor probs() const {
    std::vector<float> mean(logits.size());
    for (std::size_t i = 0; i < mean.size(); ++i) mean[i] = logits[i] / weights[i];
    return sigmoid(tensor(mean));
  }
  std::vector<int64_t> ids;
  std::vector<float> logits, weights;
};

void check_offsets(std::string_view who, const std::vector<int64_t>& offsets, int64_t characters) {
  for (std::size_t i = 0; i < offsets.size(); i += 2)
    DROPIN_CHECK(offsets[i] >= 0 && offsets[i] <= offsets[i + 1] && offsets[i + 1] <= characters,
                 IndexError, who, ": the offsets of token ", static_cast<int64_t>(i / 2), " are ",
                 offsets[i], " and ", offsets[i + 1],
                 ", expected 0 <= from <= before <= ", characters, ", the characters of the text");
}

}  // namespace

int64_t SentenceSegmenter::most_tokens() const {
  const int64_t most = options_.max_positions - options_.position_offset - 2;
  DROPIN_CHECK(most >= 1, OptionError, who(), ": max_positions is ", options_.max_positions,
               " and position_offset ", options_.position_offset,
               ", expected room for a token between bos and eos");
  return std::min(options_.block_size, most);
}

int64_t SentenceSegmenter::reach() const {
  constexpr int64_t kCharactersPerToken = 4;
  return kCharactersPerToken * std::min(options_.block_size, options_.max_positions);
}

Tensor SentenceSegmenter::newline_probs(const Tensor& ids) {
  return newline_probs(Tensors{ids})[0];
}

Tensors SentenceSegmenter::newline_probs(const Tensors& texts) {
  std::vector<TokenSums> sums;
  std::vector<Block> blocks;
  for (const Tensor& ids : texts) {
    DROPIN_CHECK(ids.dtype() == kInt64, DTypeError, who(), ": ids are ", ids.dtype(),
                 ", expected int64");
    DROPIN_CHECK(ids.dim() == 1, ShapeError, who(), ": ids is ", ids.sizes(), ", expected [N]");
    TokenSums& one = sums.emplace_back(ids.to_vector<int64_t>());
    for (const int64_t id : one.ids)
      DROPIN_CHECK(id >= 0 && id < options_.vocab_size, IndexError, who(), ": an id is ", id,
                   ", expected 0 to below vocab_size = ", options_.vocab_size);
    const auto n = static_cast<int64_t>(one.ids.size());
    const int64_t size = std::min(most_tokens(), n);
    if (n > 0)
      for (const int64_t start : block_starts(n, size, std::min(options_.stride, size)))
        blocks.push_back({sums.size() - 1, start, size});
  }
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const Block& a, const Block& b) { return a.size < b.size; });
  const no_grad guard;
  for (std::size_t first = 0; first < blocks.size();) {
    const int64_t size = blocks[first].size;
    const std::size_t most = first + at(std::max<int64_t>(1, kTokensAtATime / (size + 2)));
    std::size_t last = first;
    while (last < std::min(most, blocks.size()) && blocks[last].size == size) ++last;
    std::vector<int64_t> in;
    for (std::size_t b = first; b < last; ++b) {
      const auto from = sums[blocks[b].text].ids.begin() + blocks[b].start;
      in.push_back(options_.bos_id);
      in.insert(in.end(), from, from + size);
      in.push_back(options_.eos_id);
    }
    const Tensor ids = tensor(in, {static_cast<int64_t>(last - first), size + 2}, kInt64);
    const Tensor z = logits(ids.to(texts[0].device())).select(2, 0).narrow(1, 1, size);
    const std::vector<double> all = z.to(kCPU).to_vector();
    for (std::size_t b = first; b < last; ++b)
      sums[blocks[b].text].add(blocks[b], all.data() + (b - first) * at(size),
                               options_.weighting == "hat");
    first = last;
  }
  Tensors r;
  for (const TokenSums& s : sums) r.push_back(s.probs());
  return r;
}

TextSegments SentenceSegmenter::forward(const Tensor& text, const TextTokens& tokens) {
  DROPIN_CHECK(tokens.ids.defined() && tokens.offsets.defined(), StateError, who(),
               ": a text is given without its tokens, expected ids [N] and offsets [N, 2]");
  const text::Points points = text::read_text(who(), text);
  const auto n = static_cast<int64_t>(points.size());
  DROPIN_CHECK(tokens.offsets.dtype() == kInt64, DTypeError, who(), ": offsets are ",
               tokens.offsets.dtype(), ", expected int64");
  DROPIN_CHECK(tokens.ids.dim() == 1 && tokens.offsets.sizes() == Shape({tokens.ids.size(0), 2}),
               ShapeError, who(), ": ids is ", tokens.ids.sizes(), " and offsets ",
               tokens.offsets.sizes(), ", expected [N] and [N, 2]");
  const std::vector<int64_t> offsets = tokens.offsets.to_vector<int64_t>();
  check_offsets(who(), offsets, n);
  const std::vector<double> newline = newline_probs(tokens.ids).to_vector();
  std::vector<double> probs(at(n), 0);
  const bool blank = std::all_of(points.begin(), points.end(), text::is_space);
  for (std::size_t i = 0; i < newline.size() && !blank; ++i)
    if (offsets[2 * i] < offsets[2 * i + 1]) probs[at(offsets[2 * i + 1] - 1)] = newline[i];
  TextSegments r = segment_text(tensor(probs, {n}), text, cutting());
  r.probs = tensor(probs, {n});
  return r;
}

}  // namespace dropin
