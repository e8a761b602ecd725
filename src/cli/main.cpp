// dropin: list, describe, conform, train, bench, claims, devices.
#include "cli/command_line.h"

int main(int argc, char** argv) {
  dropin::cli::CommandLine line;
  dropin::cli::add_commands(line);
  return line.run(argc, argv);
}
