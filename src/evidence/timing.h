// Times that can be compared: two calls take turns (A B B A ...), so that whatever else the machine
// does hits both, and the ratio of each round is kept. Google Benchmark, which bench/*.cpp use,
// runs one function to its end before the next; its repetitions can be shuffled, but not paired.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/core/device.h"

namespace dropin::evidence {

using Call = std::function<void()>;

double now();
double median(std::vector<double> v);

/// Several rounds of one measurement: the middle one and the range.
struct Spread {
  double middle = 0, low = 0, high = 0;
};
Spread spread_of(std::vector<double> v);

struct Timing {
  double seconds = 0, cpu_seconds = 0,
         best = 0;  ///< per call: the medians of the rounds, and the least
  int64_t calls = 0;
  double peak_bytes = 0;  ///< what the allocator held at most, over what it held before
};
struct Contest {
  Timing ours, theirs;
  Spread ratio;           ///< theirs over ours, round by round: above 1 ours is faster
  double best_ratio = 0;  ///< of the least times
  /// Half of the rounds lie this far apart, as a share of the middle one.
  double noise = 0;
};

struct Rounds {
  int64_t rounds = 5;
  double min_time = 0.02;  ///< seconds per measurement; each runs at least once
};

/// Times one call alone, `rounds` times.
Timing time_call(const Call& f, const Rounds& r = {});
/// Times two calls in turn.
Contest contest(const Call& ours, const Call& theirs, const Rounds& r = {});

/// Above this no verdict is given.
constexpr double kNoiseLimit = 0.25;
/// "1.52x (1.48 to 1.60)", or with the reason why it says nothing.
std::string verdict(const Contest& c);

/// Sets the number of threads for a scope.
class Threads {
 public:
  explicit Threads(int n);
  ~Threads();
  Threads(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace dropin::evidence
