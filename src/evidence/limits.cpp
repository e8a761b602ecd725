#include "evidence/limits.h"

#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "dropin/core/parallel.h"
#include "evidence/timing.h"

namespace dropin::evidence {
namespace {

// Twelve independent chains of multiply-adds: more than latency times units of any processor this
// runs on. The result is returned, so that it is computed. n turns of the loop; `lanes` is what one
// chain holds.
#define DROPIN_CHAINS(V)                                                                      \
  V m, p, a, b, c, d, e, f, g, h, i, j, k, l;                                                 \
  m = p = a = b = c = d = e = f = g = h = i = j = k = l = V{} + 0.5f;                         \
  for (long t = 0; t < n; ++t) {                                                              \
    a = a * m + p, b = b * m + p, c = c * m + p, d = d * m + p, e = e * m + p, f = f * m + p; \
    g = g * m + p, h = h * m + p, i = i * m + p, j = j * m + p, k = k * m + p, l = l * m + p; \
    asm volatile("" : "+m"(n)); /* the loop stays a loop */                                   \
  }                                                                                           \
  const V s = a + b + c + d + e + f + g + h + i + j + k + l;                                  \
  return s[0];
constexpr int kChains = 12;

using V4 = float __attribute__((vector_size(16)));
float chains4(long n) { DROPIN_CHAINS(V4) }
#if defined(__x86_64__)
using V8 = float __attribute__((vector_size(32)));
using V16 = float __attribute__((vector_size(64)));
__attribute__((target("avx2,fma"))) float chains8(long n) { DROPIN_CHAINS(V8) }
__attribute__((target("avx512f"))) float chains16(long n) { DROPIN_CHAINS(V16) }
#endif
#undef DROPIN_CHAINS

struct Loop {
  float (*run)(long);
  int lanes;
};
Loop widest_loop() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return {chains16, 16};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {chains8, 8};
#endif
  return {chains4, 4};
}

double peak_flops() {
  const Loop loop = widest_loop();
  const long turns = 400'000;
  const int threads = get_num_threads();
  std::vector<float> kept(static_cast<std::size_t>(threads) * 64);
  double best = 0;
  for (int r = 0; r < 12; ++r) {
    const double t = now();
    parallel_for(threads, 1, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) kept[static_cast<std::size_t>(i) * 64] = loop.run(turns);
    });
    best = std::max(
        best, 2.0 * kChains * loop.lanes * static_cast<double>(turns) * threads / (now() - t));
  }
  return best;
}

// a[i] = b[i] + 3 c[i] over arrays of n floats each, per thread a stretch of its own, again and
// again.
double triad_rate(int64_t n) {
  const std::unique_ptr<float[]> a(new float[static_cast<std::size_t>(n)]()),
      b(new float[static_cast<std::size_t>(n)]()), c(new float[static_cast<std::size_t>(n)]());
  const int threads = get_num_threads();
  const int64_t share = (n + threads - 1) / threads,
                again = std::max<int64_t>(1, (int64_t{1} << 22) / n);
  double best = 0;
  for (int r = 0; r < 9; ++r) {
    const double t = now();
    parallel_for(threads, 1, [&](int64_t k, int64_t end) {
      for (; k < end; ++k)
        for (int64_t turn = 0; turn < again; ++turn) {
          float* __restrict x = a.get();
          const float *y = b.get(), *z = c.get();
          const int64_t to = std::min(n, (k + 1) * share);
          for (int64_t i = k * share; i < to; ++i) x[i] = y[i] + 3.0f * z[i];
          asm volatile("" : : "r"(x) : "memory");
        }
    });
    best = std::max(best, 12.0 * static_cast<double>(n) * static_cast<double>(again) / (now() - t));
  }
  return best;
}

double first_touch_rate() {
  const std::size_t bytes = std::size_t{64} << 20;
  double best = 0;
  for (int r = 0; r < 3; ++r) {
    void* const p =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return best;
    const double t = now();
    parallel_for(static_cast<int64_t>(bytes >> 12), 256, [&](int64_t page, int64_t end) {
      for (; page < end; ++page) static_cast<volatile char*>(p)[page << 12] = 1;
    });
    best = std::max(best, static_cast<double>(bytes) / (now() - t));
    munmap(p, bytes);
  }
  return best;
}

std::string line_of(const char* path, const std::string& key) {
  std::ifstream f(path);
  for (std::string s; std::getline(f, s);)
    if (s.rfind(key, 0) == 0) {
      const std::size_t at = s.find_first_not_of(" \t:=\"", key.size());
      return at == std::string::npos ? "" : s.substr(at, s.find_last_not_of('"') - at + 1);
    }
  return "";
}

}  // namespace

double Limits::bandwidth(double bytes) const {
  for (const Triad& t : triads)
    if (bytes <= 1.5 * t.bytes) return t.rate;
  return triads.empty() ? 0 : triads.back().rate;
}
double Limits::least(double f, double bytes) const {
  const double rate = bandwidth(bytes);
  return std::max(flops > 0 ? f / flops : 0, rate > 0 ? bytes / rate : 0);
}

Limits measure_limits() {
  Limits l;
  l.threads = get_num_threads();
  l.flops = peak_flops();
  for (const int64_t n :
       {int64_t{1} << 11, int64_t{1} << 15, int64_t{1} << 19, int64_t{1} << 22, int64_t{1} << 24})
    l.triads.push_back({12.0 * static_cast<double>(n), triad_rate(n)});
  l.first_touch = first_touch_rate();
  return l;
}

std::vector<std::pair<std::string, std::string>> describe_machine() {
  std::vector<std::pair<std::string, std::string>> r;
  auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) r.emplace_back(name, value);
  };
  add("processor", line_of("/proc/cpuinfo", "model name"));
  add("cores", std::to_string(sysconf(_SC_NPROCESSORS_ONLN)));
  const long l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (l3 > 0) add("last cache", std::to_string(l3 >> 20) + " MiB");
  add("memory",
      std::to_string((sysconf(_SC_PHYS_PAGES) / 1024 * sysconf(_SC_PAGESIZE)) >> 20) + " GiB");
  utsname u{};
  if (uname(&u) == 0) add("kernel", std::string(u.sysname) + " " + u.release);
  add("system", line_of("/etc/os-release", "PRETTY_NAME="));
  add("compiler", std::string(
#ifdef __clang__
                      "clang "
#else
                      "g++ "
#endif
                      ) +
                      __VERSION__);
#ifdef NDEBUG
  add("build", "optimised");
#else
  add("build", "with checks; compare only within this run");
#endif
  return r;
}

}  // namespace dropin::evidence
