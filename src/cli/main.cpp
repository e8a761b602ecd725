// dropin: list, describe, conform, train, bench, claims, devices.
#include "cli/command_line.h"

int main(int argc, char** argv) {
  dropin::cli::CommandLine line;
  dropin::cli::add_list(line);
  dropin::cli::add_describe(line);
  dropin::cli::add_conform(line);
  dropin::cli::add_train(line);
  dropin::cli::add_bench(line);
  dropin::cli::add_claims(line);
  dropin::cli::add_devices(line);
  return line.run(argc, argv);
}
