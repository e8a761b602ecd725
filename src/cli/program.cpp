#include "dropin/program.h"

#include <csignal>
#include <cstdio>

#include "cli/command_line.h"
#include "core/environment.h"

namespace dropin {

int run_program(int argc, char** argv) {
  if (const std::string fault = environment_fault(); !fault.empty()) {
    std::fprintf(stderr, "dropin: %s\n", fault.c_str());
    return 2;
  }
  // who reads the results may go: that is an error to report, and no reason to lose a training
  std::signal(SIGPIPE, SIG_IGN);
  cli::CommandLine line;
  cli::add_commands(line);
  return line.run(argc, argv);
}

}  // namespace dropin
