// The environment variables that the library reads.
// DROPIN_NUM_THREADS: a whole number from 1 to 1024.
// DROPIN_DISABLE: a list of parts to do without, with commas between: onednn, cuda, cache, simd.
#pragma once
#include <string>
#include <string_view>

namespace dropin {

constexpr int kMaxThreads = 1024;

/// DROPIN_NUM_THREADS; 0 where it is unset, empty or no such number.
int threads_by_environment();
/// Whether DROPIN_DISABLE names `part`.
bool disabled_by_environment(std::string_view part);
/// What is wrong with a variable, with what was expected; empty when all can be read. The library
/// warns of it and goes on without the variable, the program refuses.
std::string environment_fault();

}  // namespace dropin
