#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace dropin::cli {
void add_train(CLI::App&, Action&) {}
}  // namespace dropin::cli
