// Texts to train on, out of files.
#pragma once
#include <string>

namespace dropin::cli {

/// A UTF-8 text; what the file's end cuts off within a character stays. FileError that names the
/// byte and what to do for a file that is no such text: a zero byte, another encoding, or more than
/// one control character in ten.
std::string read_text_file(const std::string& path);

}  // namespace dropin::cli
