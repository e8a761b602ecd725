#include "cli/named_options.h"

#include "dropin/core/error.h"

namespace dropin::cli {

NamedOptions named_options(const std::string& what, const std::string& text) {
  const std::size_t colon = text.find(':');
  NamedOptions r{text.substr(0, colon)};
  if (colon == std::string::npos) return r;
  try {
    r.options = Json::parse(text.substr(colon + 1));
  } catch (const OptionError& e) {
    fail<OptionError>({what, ": ", e.what()});
  }
  if (!r.options.is_object()) fail<OptionError>({what, ": the options are not a JSON object"});
  return r;
}

}  // namespace dropin::cli
