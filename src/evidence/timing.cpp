#include "evidence/timing.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "dropin/core/parallel.h"
#include "dropin/tensor/storage.h"

namespace dropin::evidence {
namespace {

double cpu_now() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Sample {
  double seconds, cpu;
};
Sample sample(const Call& f, int64_t calls) {
  const double c = cpu_now(), t = now();
  for (int64_t i = 0; i < calls; ++i) f();
  const auto n = static_cast<double>(calls);
  return {(now() - t) / n, (cpu_now() - c) / n};
}

// The first call makes plans and memory, the second shows how many fill min_time; the peak is the
// second's.
int64_t prepare(const Call& f, double min_time, Timing& t) {
  f();
  reset_peak_memory();
  const int64_t before = memory_stats().allocated;
  const double once = sample(f, 1).seconds;
  t.peak_bytes = static_cast<double>(memory_stats().peak - before);
  return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(min_time / std::max(once, 1e-9))), 1,
                             1'000'000);
}

void finish(Timing& t, const std::vector<Sample>& all, int64_t calls) {
  std::vector<double> wall, cpu;
  for (const Sample& s : all) wall.push_back(s.seconds), cpu.push_back(s.cpu);
  t.seconds = median(wall);
  t.cpu_seconds = median(cpu);
  t.best = *std::min_element(wall.begin(), wall.end());
  t.calls = calls * static_cast<int64_t>(all.size());
}

}  // namespace

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> v) {
  if (v.empty()) return NAN;
  std::sort(v.begin(), v.end());
  const std::size_t n = v.size();
  return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}
Spread spread_of(std::vector<double> v) {
  if (v.empty()) return {NAN, NAN, NAN};
  const auto [low, high] = std::minmax_element(v.begin(), v.end());
  return {median(v), *low, *high};
}

Timing time_call(const Call& f, const Rounds& r) {
  Timing t;
  const int64_t calls = prepare(f, r.min_time, t);
  std::vector<Sample> all;
  for (int64_t i = 0; i < r.rounds; ++i) all.push_back(sample(f, calls));
  finish(t, all, calls);
  return t;
}

Contest contest(const Call& ours, const Call& theirs, const Rounds& r) {
  Contest c;
  const int64_t a = prepare(ours, r.min_time, c.ours), b = prepare(theirs, r.min_time, c.theirs);
  std::vector<Sample> x, y;
  std::vector<double> ratios;
  for (int64_t i = 0; i < r.rounds; ++i) {
    if (i % 2 == 0)
      x.push_back(sample(ours, a)), y.push_back(sample(theirs, b));
    else
      y.push_back(sample(theirs, b)), x.push_back(sample(ours, a));
    ratios.push_back(y.back().seconds / x.back().seconds);
  }
  finish(c.ours, x, a);
  finish(c.theirs, y, b);
  c.ratio = spread_of(ratios);
  c.best_ratio = c.theirs.best / c.ours.best;
  std::sort(ratios.begin(), ratios.end());
  const std::size_t n = ratios.size();
  c.noise = n < 3 ? 0 : (ratios[n - 1 - n / 4] - ratios[n / 4]) / c.ratio.middle;
  return c;
}

std::string verdict(const Contest& c) {
  std::string s =
      fmt::format("{:.3g}x ({:.3g} to {:.3g})", c.ratio.middle, c.ratio.low, c.ratio.high);
  if (c.noise > kNoiseLimit) s += ", no verdict: the machine is too noisy";
  return s;
}

Threads::Threads(int n) : before_(get_num_threads()) { set_num_threads(n); }
Threads::~Threads() { set_num_threads(before_); }

}  // namespace dropin::evidence
