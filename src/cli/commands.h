// The program's subcommands. Each adds itself to the command line and answers the exit code: 0 well, 1 something does not hold, 2 asked wrongly.
#pragma once
#include <functional>

namespace CLI {
class App;
}

namespace dropin::cli {

/// What main() calls after parsing.
using Action = std::function<int()>;

void add_list(CLI::App& app, Action& action);
void add_describe(CLI::App& app, Action& action);
void add_conform(CLI::App& app, Action& action);
void add_devices(CLI::App& app, Action& action);
void add_train(CLI::App& app, Action& action);

}  // namespace dropin::cli
