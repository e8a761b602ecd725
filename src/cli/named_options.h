// NAME:{...}, as several subcommands take it.
#pragma once
#include <string>

#include "dropin/core/json.h"

namespace dropin::cli {

/// A component and the options beside it.
struct NamedOptions {
  std::string name;
  Json options = Json::object();
};

/// NAME or NAME:{"option": value}. OptionError beginning with `what` for other options.
NamedOptions named_options(const std::string& what, const std::string& text);

}  // namespace dropin::cli
