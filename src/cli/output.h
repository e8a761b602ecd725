// What subcommands that print texts share.
#pragma once
#include <cstdio>
#include <string_view>

#include "dropin/core/error.h"

namespace dropin::cli {

/// The bytes as they are, and a newline.
inline void print_line(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}
/// FileError where some of what was printed did not get there.
inline void finish_output(const char* what) {
  if (std::fflush(stdout) != 0 || std::ferror(stdout))
    fail<FileError>({what, " cannot be written"});
}

}  // namespace dropin::cli
