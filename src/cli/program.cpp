#include "dropin/program.h"

#include "cli/command_line.h"

namespace dropin {

int run_program(int argc, char** argv) {
  cli::CommandLine line;
  cli::add_commands(line);
  return line.run(argc, argv);
}

}  // namespace dropin
