#include "cli/text_file.h"

#include <algorithm>
#include <cstdio>

#include "dropin/core/error.h"
#include "dropin/core/json.h"
#include "dropin/serialize/safetensors.h"
#include "dropin/text/utf8.h"

namespace dropin::cli {

namespace {

// Where the first byte stands that begins no character.
std::size_t first_broken(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    std::size_t n = 1;
    while (n <= 4 && !is_utf8(text.substr(i, n))) ++n;
    if (n > 4) return i;
    i += n;
  }
  return i;
}

bool is_control(char c) {
  const auto b = static_cast<unsigned char>(c);
  return (b < 0x20 && !(b >= '\t' && b <= '\r')) || b == 0x7F;
}

std::string hex(char c) {
  char digits[8];
  std::snprintf(digits, sizeof digits, "0x%02X", static_cast<unsigned char>(c));
  return digits;
}

}  // namespace

std::string read_text_file(const std::string& path) {
  std::string text = read_file(path);
  const std::string_view all = text;
  if (all.starts_with("\xFF\xFE") || all.starts_with("\xFE\xFF"))
    fail<FileError>({path, ": it begins as UTF-16 does, expected a text in UTF-8; iconv -f UTF-16 ",
                     "-t UTF-8 converts it"});
  if (const std::size_t zero = all.find('\0'); zero != std::string_view::npos)
    fail<FileError>({path, ": byte ", zero, " is 0, expected a text in UTF-8"});
  const std::string_view whole = all.substr(0, all.size() - incomplete_utf8(all));
  if (!is_utf8(whole)) {
    const std::size_t i = first_broken(whole);
    fail<FileError>({path, ": byte ", i, " (", hex(text[i]),
                     ") is no UTF-8, expected a text in UTF-8; one in Latin-1 is converted by ",
                     "iconv -f LATIN1 -t UTF-8"});
  }
  const auto controls = std::count_if(text.begin(), text.end(), is_control);
  if (static_cast<std::size_t>(controls) > text.size() / 10)
    fail<FileError>({path, ": ", controls, " of ", text.size(),
                     " bytes are control characters, expected a text in UTF-8"});
  return text;
}

}  // namespace dropin::cli
