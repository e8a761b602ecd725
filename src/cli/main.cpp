// dropin: list, describe, conform, train, devices.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>

#include "cli/commands.h"
#include "dropin/core/error.h"

int main(int argc, char** argv) {
  CLI::App app{"dropin: neural-network components that swap in by name", "dropin"};
  app.set_version_flag("--version", DROPIN_VERSION);
  app.require_subcommand(1);
  dropin::cli::Action action;
  dropin::cli::add_list(app, action);
  dropin::cli::add_describe(app, action);
  dropin::cli::add_conform(app, action);
  dropin::cli::add_train(app, action);
  dropin::cli::add_devices(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    std::fprintf(stderr, "dropin: %s; see dropin --help\n", e.what());
    return 2;
  }
  try {
    return action();
  } catch (const dropin::Error& e) {
    std::fprintf(stderr, "dropin: %s\n", e.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "dropin: out of memory\n");
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "dropin: %s\n", e.what());
    return 2;
  }
}
