// mbr_decode of UTF-8 texts.
#include <algorithm>
#include <map>

#include "dropin/generation/mbr_decode.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

bool is_blank(const std::string& character) {
  static const std::string kBlanks[] = {
      "\t",           "\n",           "\v",           "\f",           "\r",
      "\x1c",         "\x1d",         "\x1e",         "\x1f",         " ",
      "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8", "\xe2\x80\xa9",
      "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
  if (character.size() == 3 && character.compare(0, 2, "\xe2\x80") == 0 &&
      static_cast<unsigned char>(character[2]) <= 0x8a)
    return true;
  return std::find(std::begin(kBlanks), std::end(kBlanks), character) != std::end(kBlanks);
}

std::vector<std::string> characters_of(const std::string& text) {
  std::vector<std::string> r;
  for (const char c : text)
    if ((static_cast<unsigned char>(c) & 0xC0) == 0x80 && !r.empty())
      r.back() += c;
    else
      r.emplace_back(1, c);
  return r;
}

std::vector<std::string> tokens_of_text(const std::string& text, const std::string& utility) {
  DROPIN_CHECK(is_utf8(text), OptionError, "mbr_decode: a text is not UTF-8, expected valid text");
  const bool rouge = utility.compare(0, 5, "rouge") == 0;
  std::vector<std::string> r;
  bool open = false;  // a word goes on
  for (std::string c : characters_of(text)) {
    if (rouge && c[0] >= 'A' && c[0] <= 'Z') c[0] = static_cast<char>(c[0] - 'A' + 'a');
    const bool word =
        rouge ? (c[0] >= 'a' && c[0] <= 'z') || (c[0] >= '0' && c[0] <= '9') : !is_blank(c);
    if (word && open && utility != "chrf")
      r.back() += c;
    else if (word)
      r.push_back(c);
    open = word;
  }
  return r;
}

}  // namespace

Choice mbr_decode(const std::vector<std::string>& candidates,
                  const std::vector<std::string>& references, const MbrDecodeOptions& o) {
  std::map<std::string, int64_t> ids;
  auto table = [&](const std::vector<std::string>& texts, Tensor& rows, Tensor& lengths) {
    std::vector<std::vector<int64_t>> all;
    std::vector<int64_t> count, flat;
    std::size_t width = 0;
    for (const std::string& t : texts) {
      auto& row = all.emplace_back();
      for (const std::string& token : tokens_of_text(t, o.utility))
        row.push_back(ids.emplace(token, static_cast<int64_t>(ids.size())).first->second);
      width = std::max(width, row.size());
      count.push_back(static_cast<int64_t>(row.size()));
    }
    for (auto& row : all) {
      row.resize(width);
      flat.insert(flat.end(), row.begin(), row.end());
    }
    const auto n = static_cast<int64_t>(texts.size());
    rows = tensor(flat, {n, static_cast<int64_t>(width)});
    lengths = tensor(count, {n});
  };
  DROPIN_CHECK(o.ignore_ids.empty(), OptionError,
               "mbr_decode: ignore_ids with texts, which have no ids; expected none");
  Candidates in;
  table(candidates, in.candidates, in.lengths);
  if (!references.empty()) table(references, in.references, in.reference_lengths);
  return mbr_decode(in, o);
}

}  // namespace dropin
