// The command line, with CLI11 behind it in one unit: its headers take longer to compile than the
// program.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace dropin::cli {

/// What runs once the arguments are read: 0 well, 1 something does not hold, 2 asked wrongly.
using Action = std::function<int()>;

/// The arguments of one subcommand. Values are written when the line is read, so they must live as
/// long as the action.
class Command {
 public:
  explicit Command(void* app) : app_(app) {}
  Command& flag(const char* name, bool& value, const char* doc);
  /// A value after "--name", or a positional argument for a name without dashes. T: string,
  /// int64_t, double, vector<string>; a list may be given again and again.
  template <class T>
  Command& option(const char* name, T& value, const char* doc, bool required = false);
  /// Exactly two values after "--name".
  Command& pair(const char* name, std::vector<std::string>& value, const char* doc);

 private:
  void* app_;
};

class CommandLine {
 public:
  CommandLine();
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;
  Command add(const char* name, const char* doc, Action action);
  /// Reads the line: true when there is an action to run; otherwise `status` is how to end (0 after
  /// --help, 2 after an error, which is one line on stderr).
  bool read(int argc, char** argv, int& status);
  /// Runs the action that was read; errors become one line on stderr and 2.
  int act();
  int run(int argc, char** argv) {
    int status = 0;
    return read(argc, argv, status) ? act() : status;
  }

 private:
  std::string unknown_command(int argc, char** argv, const std::exception& e) const;
  struct Parser;
  Parser* parser_;
};

// The subcommands, each in a file of its own.
void add_list(CommandLine& line);
void add_describe(CommandLine& line);
void add_conform(CommandLine& line);
void add_train(CommandLine& line);
void add_bench(CommandLine& line);
void add_claims(CommandLine& line);
void add_devices(CommandLine& line);
void add_generate(CommandLine& line);
void add_segment(CommandLine& line);
void add_index(CommandLine& line);
void add_inspect(CommandLine& line);
void add_convert(CommandLine& line);
/// All of them.
inline void add_commands(CommandLine& line) {
  for (auto add : {add_list, add_describe, add_conform, add_train, add_generate, add_segment,
                   add_index, add_inspect, add_convert, add_bench, add_claims, add_devices})
    add(line);
}

}  // namespace dropin::cli
