#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "dropin/core/error.h"

namespace dropin::cli {

struct CommandLine::Parser {
  CLI::App app{"dropin: neural-network components that swap in by name", "dropin"};
  Action action;
};

Command& Command::flag(const char* name, bool& value, const char* doc) {
  static_cast<CLI::App*>(app_)->add_flag(name, value, doc);
  return *this;
}
template <class T>
Command& Command::option(const char* name, T& value, const char* doc, bool required) {
  CLI::Option* o = static_cast<CLI::App*>(app_)->add_option(name, value, doc)->required(required);
  if constexpr (!std::is_same_v<T, std::vector<std::string>>) o->capture_default_str();
  if constexpr (std::is_same_v<T, int64_t>)
    o->check([](const std::string& text) -> std::string {  // CLI11 would take the nearest
      errno = 0;
      std::strtoll(text.c_str(), nullptr, 10);
      return errno == ERANGE ? text + " does not fit 64 bits" : "";
    });
  if (name[0] == '-') o->allow_extra_args(false);
  return *this;
}
template Command& Command::option(const char*, std::string&, const char*, bool);
template Command& Command::option(const char*, int64_t&, const char*, bool);
template Command& Command::option(const char*, double&, const char*, bool);
template Command& Command::option(const char*, std::vector<std::string>&, const char*, bool);
Command& Command::pair(const char* name, std::vector<std::string>& value, const char* doc) {
  static_cast<CLI::App*>(app_)->add_option(name, value, doc)->expected(2);
  return *this;
}

CommandLine::CommandLine() : parser_(new Parser) {
  parser_->app.set_version_flag("--version", DROPIN_VERSION);
  parser_->app.require_subcommand(1);
}
CommandLine::~CommandLine() { delete parser_; }

Command CommandLine::add(const char* name, const char* doc, Action action) {
  CLI::App* sub = parser_->app.add_subcommand(name, doc);
  sub->callback([parser = parser_, action = std::move(action)] { parser->action = action; });
  return Command(sub);
}

namespace {
// `status`, or 2 with a line when what was printed cannot be written.
int written(int status) {
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return status;
  std::fprintf(stderr, "dropin: the results cannot be written: %s\n", std::strerror(errno));
  return 2;
}
}  // namespace

// What the parser says; of a subcommand that there is not, the nearest ones.
std::string CommandLine::unknown_command(int argc, char** argv, const std::exception& e) const {
  if (argc < 2 || argv[1][0] == '-') return e.what();
  std::vector<std::string> names;
  for (const CLI::App* sub : parser_->app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  if (std::find(names.begin(), names.end(), argv[1]) != names.end()) return e.what();
  std::string near;
  for (const std::string& n : nearest_names(argv[1], names.data(), names.size()))
    near += (near.empty() ? "" : ", ") + n;
  return std::string("no command \"") + argv[1] + "\"; the nearest are " + near;
}

bool CommandLine::read(int argc, char** argv, int& status) {
  try {
    parser_->app.parse(argc, argv);
    return true;
  } catch (const CLI::Success& e) {  // --help, --version
    status = written(parser_->app.exit(e));
  } catch (const CLI::ParseError& e) {
    std::fprintf(stderr, "dropin: %s; see dropin --help\n", unknown_command(argc, argv, e).c_str());
    status = 2;
  }
  return false;
}

int CommandLine::act() {
  try {
    return written(parser_->action());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "dropin: out of memory\n");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "dropin: %s\n", e.what());
  }
  return 2;
}

}  // namespace dropin::cli
