// What the language models of the room share.
#pragma once
#include <string>
#include <typeinfo>
#include <utility>

#include "dropin/generation/language_model.h"

namespace dropin::generation {

/// {"type": "TableLM", "vocab_size": 16} -> the type and the other options. OptionError naming
/// `who` and the option that holds the object.
std::pair<std::string, Json> typed(std::string_view who, const char* option, const Json& spec);

/// A model's own state behind the general one.
template <class State>
State& own_rows(std::string_view who, LanguageState& state) {
  auto* own = dynamic_cast<State*>(&state);
  DROPIN_CHECK(own, StateError, who, ": was given the state of another model");
  return *own;
}

}  // namespace dropin::generation
