// WordPieceTokenizer: what BertTokenizer (tokenizers 0.22) makes of the same texts.
#include "dropin/text/wordpiece.h"

#include "files/temporary.h"

namespace dropin {
namespace {

const std::vector<std::string> kVocabulary{
    "[PAD]",        "[UNK]",   "[CLS]",    "[SEP]",    "un",         "##aff", "##able",
    "the",          "cafe",    "!",        "-",        "##s",        "a",     "##a",
    "\xE4\xB8\xAD", "strasse", "\xC3\x9F", "\xD0\xB6", "##\xD0\xB6", "i"};
using Words = std::vector<std::string>;

TEST(WordPiece, LongestPiecesFromTheLeft) {
  const WordPieceTokenizer t(kVocabulary);
  EXPECT_EQ(t.tokenize("unaffable"), (Words{"un", "##aff", "##able"}));
  EXPECT_EQ(t.tokenize("THE unAFFables!"), (Words{"the", "un", "##aff", "##able", "##s", "!"}));
  EXPECT_EQ(t.tokenize("the-the"), (Words{"the", "-", "the"}));
  EXPECT_EQ(t.tokenize("unknown the"), (Words{"[UNK]", "the"})) << "a word whose rest is no piece";
  EXPECT_EQ(t.tokenize(""), Words{});
  EXPECT_EQ(t.tokenize(" \t\n "), Words{});
  EXPECT_EQ(t.tokenize(std::string("th\0e\x7f", 5)), (Words{"the"})) << "control characters go";
  EXPECT_EQ(t.tokenize(std::string(100, 'a')).size(), 100u);
  EXPECT_EQ(t.tokenize(std::string(101, 'a')), (Words{"[UNK]"}));
  EXPECT_EQ(t.encode("the!"), (std::vector<int64_t>{7, 9}));
}

TEST(WordPiece, CharactersBeyondAscii) {
  const WordPieceTokenizer t(kVocabulary);
  if (!WordPieceTokenizer::has_unicode()) {
    EXPECT_ERROR(t.tokenize("caf\xC3\xA9"), OptionError, "utf8proc");
    return;
  }
  EXPECT_EQ(t.tokenize("Caf\xC3\xA9"), (Words{"cafe"}));
  EXPECT_EQ(t.tokenize("cafe\xCC\x81"), (Words{"cafe"})) << "a combining accent";
  EXPECT_EQ(t.tokenize("a\xE4\xB8\xAD"
                       "a"),
            (Words{"a", "\xE4\xB8\xAD", "a"}));
  EXPECT_EQ(t.tokenize("\xD0\x96\xD0\xB6"), (Words{"\xD0\xB6", "##\xD0\xB6"}));
  EXPECT_EQ(t.tokenize("\xC4\xB0"), (Words{"i"})) << "a capital I with its dot";
  EXPECT_EQ(t.tokenize("a\xC2\xA0the\xE3\x80\x80"
                       "a"),
            (Words{"a", "the", "a"}))
      << "white space";
  EXPECT_EQ(t.tokenize("the\xE2\x80\x8B"), (Words{"the"})) << "of no width: dropped";
  EXPECT_EQ(t.tokenize("the\xFF"
                       "the"),
            (Words{"[UNK]"}))
      << "a byte that is no UTF-8 is dropped";
  const WordPieceTokenizer cased(kVocabulary, {.lowercase = false});
  EXPECT_EQ(cased.tokenize("The caf\xC3\xA9 the"), (Words{"[UNK]", "[UNK]", "the"}));
  const WordPieceTokenizer accents(kVocabulary, {.strip_accents = false});
  EXPECT_EQ(accents.tokenize("CAF\xC3\x89"), (Words{"[UNK]"}));
}

TEST(WordPiece, BatchesArePaddedAndCut) {
  const WordPieceTokenizer t(kVocabulary);
  const WordPieceBatch b = t({"the", "the the the", ""}, 4);
  EXPECT_EQ(b.ids.to_vector(), (std::vector<double>{2, 7, 3, 0, 2, 7, 7, 3, 2, 3, 0, 0}));
  EXPECT_EQ(b.key_padding_mask.dtype(), kBool);
  EXPECT_EQ(b.key_padding_mask.to_vector(),
            (std::vector<double>{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(t({}, 8).ids.sizes(), (Shape{0, 2}));
  EXPECT_ERROR(t({"the"}, 1), OptionError, "max_length is 1");
}

TEST(WordPiece, VocabulariesThatCannotBe) {
  EXPECT_ERROR(WordPieceTokenizer({"[PAD]", "[UNK]", "[CLS]"}), OptionError,
               "sep_token \"[SEP]\" is not in the vocabulary of 3");
  EXPECT_ERROR(WordPieceTokenizer({"a", "a"}), OptionError, "\"a\" is in the vocabulary twice");
  EXPECT_ERROR(WordPieceTokenizer({"a", ""}), OptionError, "entry 1 of the vocabulary is empty");
  testing::TemporaryFolder dir;
  EXPECT_ERROR(WordPieceTokenizer::from_file(dir / "none"), FileError, "cannot be read");
  testing::write(dir / "v", "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nthe\r\n");
  EXPECT_EQ(WordPieceTokenizer::from_file(dir / "v").encode("the"), std::vector<int64_t>{4});
  testing::write(dir / "v", "[PAD]\n\n");
  EXPECT_ERROR(WordPieceTokenizer::from_file(dir / "v"), FileError, "entry 1");
}

}  // namespace
}  // namespace dropin
