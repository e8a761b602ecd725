// UTF-8: places of characters, broken bytes; segments of streams and of whole texts.
#include "dropin/text/utf8.h"

#include "dropin/text/sentence_segmenter.h"
#include "dropin/text/stream.h"
#include "dropin/text/tokenizer.h"
#include "kernels/hd.h"
#include "support.h"

namespace dropin::testing {
namespace {

using Strings = std::vector<std::string>;

Strings texts(const std::string& text, const std::vector<TextSpan>& spans) {
  Strings r;
  for (const TextSpan& s : spans) r.push_back(text.substr(at(s.begin), at(s.end - s.begin)));
  return r;
}

TEST(Utf8, ComesBackAsItWas) {
  const std::string text = "a\u00e9\u20ac\U0001F600\u07ff\u0800\uffff\U0010ffff";
  const DecodedText d = decode_utf8(text);
  EXPECT_EQ(d.text.size(0), 8);
  EXPECT_TRUE(d.broken.empty());
  EXPECT_EQ(encode_utf8(d.text), text);
  EXPECT_EQ(d.bytes, (std::vector<int64_t>{0, 1, 3, 6, 10, 12, 15, 18, 22}));
  EXPECT_ERROR(encode_utf8(full({1}, 0xDFFF, kInt64)), OptionError, "surrogates");
}

TEST(Utf8, BrokenBytesKeepTheirPlaces) {
  const std::string text =
      "a\xff"
      "b\xc3"
      "c\xe2\x82"
      "d\xed\xa0\x80\xc0\x80\xf5\xe2\x82\xac\xf0\x9f";
  const DecodedText d = decode_utf8(text);
  EXPECT_EQ(d.bytes.front(), 0);
  EXPECT_EQ(d.bytes.back(), static_cast<int64_t>(text.size()));
  EXPECT_EQ(d.broken, (std::vector<int64_t>{1, 3, 5, 6, 8, 9, 10, 11, 12, 13, 17, 18}));
  const std::vector<int64_t> points = d.text.to_vector<int64_t>();
  ASSERT_EQ(points.size() + 1, d.bytes.size());
  EXPECT_EQ(points[14], 0x20AC);
}

TEST(Utf8, KnowsWhatMayStillBecomeACharacter) {
  const std::pair<const char*, std::size_t> cases[] = {{"", 0},
                                                       {"a", 0},
                                                       {"\xc3", 1},
                                                       {"a\xc3\xa9", 0},
                                                       {"\xe2\x82", 2},
                                                       {"\xf0\x9f\x98", 3},
                                                       {"\xf0\x9f\x98\x80", 0},
                                                       {"\x80\x80\x80", 0},
                                                       {"\xff", 0}};
  for (const auto& [text, want] : cases) EXPECT_EQ(incomplete_utf8(text), want) << text;
}

TEST(SegmentUtf8, SpansInBytesAndCodePoints) {
  RuleSegmenter rule({.strip_whitespace = true});
  const std::string text = "\u00c9t\u00e9. Na\xff\xc3 ja! \u4f60\u597d\u3002\u518d\u89c1";
  const std::vector<TextSpan> bytes = segment_utf8(rule, text);
  EXPECT_EQ(texts(text, bytes),
            (Strings{"\u00c9t\u00e9.", "Na\xff\xc3 ja!", "\u4f60\u597d\u3002", "\u518d\u89c1"}));
  EXPECT_EQ(segment_utf8(rule, text, nullptr, SpanUnit::CodePoints),
            (std::vector<TextSpan>{{0, 4}, {5, 13}, {14, 17}, {17, 19}}));
}

TEST(RuleSegmenter, KnowsAbbreviationsInitialsAndClosers) {
  RuleSegmenter rule({.strip_whitespace = true});
  auto cut = [&](const std::string& text) { return texts(text, segment_utf8(rule, text)); };
  EXPECT_EQ(cut("See Fig. 3 by A. Smith et al. today. Done"),
            (Strings{"See Fig. 3 by A. Smith et al. today.", "Done"}));
  EXPECT_EQ(cut("He left (\"now.\") She ran?! 3.5 km."),
            (Strings{"He left (\"now.\")", "She ran?!", "3.5 km."}));
  EXPECT_EQ(cut("\u300c\u3044\u3044\u3002\u300d\u3068\uff01\u3048"),
            (Strings{"\u300c\u3044\u3044\u3002\u300d", "\u3068\uff01", "\u3048"}));
  EXPECT_EQ(cut("etc... So"), (Strings{"etc...", "So"}));
  RuleSegmenter own({.abbreviations = {"done"}});
  EXPECT_EQ(segment_utf8(own, "Done. mr. x").size(), 2u);
  EXPECT_ERROR(rule(zeros({2, 3}, kInt64)), ShapeError, "expected [C]");
  EXPECT_ERROR(rule(zeros({2})), DTypeError, "expected int64");
}

// --- streams

// A text of words, marks, newlines and broken bytes.
std::string wild_text(int64_t n, std::uint64_t seed) {
  static const char* const kParts[] = {"a",    "Mr",      ".",      " ",      "\n",      ".\n",
                                       "e.g",  "\u3002",  "!",      "\"",     "\u00e9",  "\xff",
                                       "  \n", "\u3002.", "\n\n\n", " Word ", "\xe2\x82"};
  Generator g(seed);
  std::string r;
  for (const int64_t i : randint(0, std::size(kParts), {n}, kInt64, &g).to_vector<int64_t>())
    r += kParts[i];
  return r;
}

struct Streamed {
  std::vector<TextSpan> spans;
  int64_t broken, first;
};
Streamed stream(TextSegmenter& s, const std::string& text, std::size_t chunk,
                const SegmentStreamOptions& o, const Tokenizer& t = nullptr) {
  Streamed r{};
  SegmentStream all(
      s,
      [&](const TextSpan& span, std::string_view own) {
        EXPECT_EQ(own, std::string_view(text).substr(at(span.begin), own.size()));
        EXPECT_EQ(span.end - span.begin, static_cast<int64_t>(own.size()));
        r.spans.push_back(span);
      },
      t, o);
  for (std::size_t i = 0; i < text.size(); i += chunk)
    all.push(std::string_view(text).substr(i, chunk));
  all.finish();
  r.broken = all.broken();
  r.first = all.first_broken();
  return r;
}

TEST(SegmentStream, IsTheWholeTextWhateverThePieces) {
  for (std::uint64_t seed = 0; seed < 30; ++seed)
    for (const bool strip : {false, true})
      for (const bool newlines : {false, true}) {
        RuleSegmenter rule({.strip_whitespace = strip, .split_on_input_newlines = newlines});
        const std::string text = wild_text(300, seed);
        const std::vector<TextSpan> want = segment_utf8(rule, text);
        const DecodedText d = decode_utf8(text);
        for (const std::size_t chunk : {1, 7, 5000})
          for (const int64_t window : {1, 16, 100}) {
            const Streamed got = stream(rule, text, chunk, {.window = window});
            EXPECT_EQ(got.spans, want) << seed << " " << chunk << " " << window;
            EXPECT_EQ(got.broken, static_cast<int64_t>(d.broken.size()));
            EXPECT_EQ(got.first, d.broken.empty() ? -1 : d.broken[0]);
          }
      }
}

TEST(SegmentStream, HoldsNoMoreThanItsLimit) {
  RuleSegmenter rule({});
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "word ";
  const Streamed s = stream(rule, text, 64, {.window = 128, .limit = 1024});
  ASSERT_GT(s.spans.size(), 10u);
  int64_t end = 0;
  for (const TextSpan& span : s.spans) {
    EXPECT_EQ(span.begin, end);
    EXPECT_LE(span.end - span.begin, 1024);
    end = span.end;
  }
  EXPECT_EQ(end, static_cast<int64_t>(text.size()));
  EXPECT_ERROR(stream(rule, "a", 1, {.window = 0}), OptionError, "window is 0");
}

TEST(SegmentStream, NumbersParagraphsOn) {
  // a paragraph ends at every !, a sentence at every dot too
  struct Marks : TextSegmenter {
    TextSegments forward(const Tensor& text, const TextTokens&) override {
      const Tensor p = where(text == '!', 1.0, where(text == '.', 0.4, zeros(text.sizes())));
      return segment_text(p, text, {.paragraphs = true});
    }
  } marks;
  std::string text;
  for (int i = 0; i < 200; ++i) text += i % 7 == 6 ? "so! " : "ab. ";
  const Streamed s = stream(marks, text, 11, {.window = 64});
  EXPECT_EQ(s.spans, segment_utf8(marks, text));
  EXPECT_EQ(s.spans.back().paragraph, 28);
}

TEST(SegmentStream, OfAModelLosesNothing) {
  manual_seed(4);
  std::string text;
  for (int i = 0; i < 400; ++i) text += i % 3 ? "some words " : "and \xc3\xa9t\xff, ";
  const WordTokenizer words = WordTokenizer::from_text(text, 10);
  SentenceSegmenter m({.vocab_size = words.vocab_size(),
                       .embed_dim = 8,
                       .num_heads = 2,
                       .mlp_dim = 8,
                       .num_layers = 1,
                       .max_positions = 20,
                       .block_size = 16,
                       .stride = 8,
                       .threshold = 0.5});
  const Tokenizer t = [&](const Tensor& p) { return words(p); };
  EXPECT_EQ(stream(m, text, 100, {}, t).spans, segment_utf8(m, text, t));
  const Streamed s = stream(m, text, 100, {.window = 300}, t);
  EXPECT_GT(s.spans.size(), 20u);
  int64_t end = 0;
  for (const TextSpan& span : s.spans) {
    EXPECT_EQ(span.begin, end);
    end = span.end;
  }
  EXPECT_EQ(end, static_cast<int64_t>(text.size()));
  EXPECT_EQ(s.broken, 134);
}

// --- words

TEST(WordTokenizer, WordsAndMarksWithTheirPlaces) {
  const WordTokenizer t = WordTokenizer::from_text("the cat, the dog, \u00e9t\u00e9", 3);
  EXPECT_EQ(t.words(), (Strings{"the", ",", "cat"}));
  const TextTokens k = t(decode_utf8("the Dog,\ncat's \u00e9t\u00e9 42").text);
  EXPECT_EQ(k.ids.to_vector<int64_t>(), (std::vector<int64_t>{7, 4, 8, 9, 6, 3, 3, 5}));
  EXPECT_EQ(k.offsets.select(1, 1).to_vector<int64_t>(),
            (std::vector<int64_t>{3, 7, 8, 12, 13, 14, 18, 21}));
  EXPECT_EQ(t.vocab_size(), 10);
  EXPECT_ERROR(WordTokenizer({"a", "b", "a"}), OptionError, "twice");
}

}  // namespace
}  // namespace dropin::testing
