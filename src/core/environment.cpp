#include "core/environment.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "dropin/core/error.h"

namespace dropin {

namespace {

constexpr std::array<std::string_view, 4> kParts = {"onednn", "cuda", "cache", "simd"};

std::string_view variable(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

// Calls f(part) for every entry of DROPIN_DISABLE.
template <class F>
void each_disabled(F f) {
  for (std::string_view rest = variable("DROPIN_DISABLE"); !rest.empty();) {
    const auto comma = std::min(rest.find(','), rest.size());
    if (comma) f(rest.substr(0, comma));
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
}

}  // namespace

int threads_by_environment() {
  int n = 0;
  for (char c : variable("DROPIN_NUM_THREADS")) {
    if (c < '0' || c > '9') return 0;
    n = n * 10 + (c - '0');
    if (n > kMaxThreads) return 0;
  }
  return n;
}

bool disabled_by_environment(std::string_view part) {
  bool found = false;
  each_disabled([&](std::string_view entry) { found = found || entry == part; });
  return found;
}

std::string environment_fault() {
  const std::string_view threads = variable("DROPIN_NUM_THREADS");
  if (!threads.empty() && threads_by_environment() == 0)
    return join({"the environment variable DROPIN_NUM_THREADS is \"", threads,
                 "\", expected a whole number from 1 to ", kMaxThreads});
  std::string fault;
  each_disabled([&](std::string_view entry) {
    if (fault.empty() && std::find(kParts.begin(), kParts.end(), entry) == kParts.end())
      fault = join({"the environment variable DROPIN_DISABLE names \"", entry,
                    "\", expected a list of onednn, cuda, cache, simd"});
  });
  return fault;
}

}  // namespace dropin
