#include <algorithm>

#include "dropin/embedding/char2subword.h"

namespace dropin {

namespace {

constexpr char32_t kNoCharacter = 0xFFFD;

// The code points of UTF-8; a byte that fits nowhere is U+FFFD.
std::u32string decoded(const std::string& text) {
  std::u32string r;
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t more = lead < 0x80   ? 0
                             : lead < 0xC2 ? 4
                             : lead < 0xE0 ? 1
                             : lead < 0xF0 ? 2
                             : lead < 0xF5 ? 3
                                           : 4;
    char32_t c = more == 0 ? lead : lead & (0x3Fu >> more);
    bool good = more < 4 && i + more < text.size();
    for (std::size_t k = 1; good && k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      good = (next & 0xC0) == 0x80;
      c = c << 6 | (next & 0x3Fu);
    }
    r.push_back(good ? c : kNoCharacter);
    i += good ? more + 1 : 1;
  }
  return r;
}

std::string encoded_utf8(const std::u32string& text) {
  std::string r;
  auto byte = [&](char32_t b) { r.push_back(static_cast<char>(static_cast<unsigned char>(b))); };
  for (const char32_t c : text) {
    if (c < 0x80) {
      byte(c);
    } else if (c < 0x800) {
      byte(0xC0 | c >> 6), byte(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
      byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 0x3F)), byte(0x80 | (c & 0x3F));
    } else {
      byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 0x3F)), byte(0x80 | (c >> 6 & 0x3F));
      byte(0x80 | (c & 0x3F));
    }
  }
  return r;
}

bool continues(const std::string& word) { return word.size() > 2 && word.rfind("##", 0) == 0; }

}  // namespace

CharVocab::CharVocab(const std::vector<std::string>& words, bool continuation)
    : continuation_(continuation), next_(continuation ? 3 : 2) {
  for (const std::string& w : words)
    for (const char32_t c : decoded(continuation && continues(w) ? w.substr(2) : w))
      if (c != kNoCharacter && ids_.emplace(c, next_).second) ++next_;
}

std::vector<int64_t> CharVocab::encode(const std::string& word, int64_t max_chars) const {
  std::vector<int64_t> r;
  const bool piece = continuation_ && continues(word);
  if (piece) r.push_back(2);
  for (const char32_t c : decoded(piece ? word.substr(2) : word)) {
    const auto found = ids_.find(c);
    r.push_back(found == ids_.end() ? 1 : found->second);
  }
  r.resize(std::min(r.size(), static_cast<std::size_t>(std::max<int64_t>(max_chars, 0))));
  return r;
}

std::string char_noise(const std::string& word, double p, Generator* g) {
  DROPIN_CHECK(p >= 0 && p <= 1, OptionError, "char_noise: p is ", p, ", expected 0 to 1");
  std::u32string w = decoded(word);
  if (w.empty() || rand({}, kFloat64, g).item() >= p) return word;
  auto below = [&](std::size_t end) {
    return randint(0, static_cast<int64_t>(end), {}, kInt64, g).item<std::size_t>();
  };
  const std::size_t at = below(w.size());
  auto fresh = [&] {
    const std::size_t pick = below(w.size() + 26);
    return pick < 26 ? U'a' + static_cast<char32_t>(pick) : w[pick - 26];
  };
  const bool letter = (w[at] >= U'a' && w[at] <= U'z') || (w[at] >= U'A' && w[at] <= U'Z');
  switch (below(6)) {
    case 0:
      w[at] = fresh();
      break;
    case 1:
      if (w.size() > 1) w.erase(at, 1);
      break;
    case 2:
      w.insert(at, 1, fresh());
      break;
    case 3:
      if (w.size() > 1) std::swap(w[at], w[at + 1 < w.size() ? at + 1 : at - 1]);
      break;
    case 4:
      w.insert(at, 1, w[at]);
      break;
    default:
      if (letter) w[at] ^= 0x20;
  }
  return encoded_utf8(w);
}

}  // namespace dropin
