// One pool, one region at a time. A region is a set of ranges dealt to slots (slot 0: the caller);
// whoever has finished its own slot takes ranges from the others, so a worker that the system does
// not schedule costs nothing: the caller does its share and closes the gate without it.
#include "dropin/core/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "core/environment.h"
#include "dropin/core/error.h"

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dropin {
namespace {

constexpr int kRangesPerThread = 4;  // enough to even out a core that someone else is using
constexpr auto kSpin = std::chrono::microseconds(4);
constexpr std::uint32_t kOpen = 1u << 31,
                        kCallerSleeps =
                            1u << 30;  // the gate's flags; the low bits count the workers inside

thread_local bool t_in_region = false;

void sleep_while(std::atomic<std::uint32_t>& word, std::uint32_t value) {
#ifdef __linux__
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr,
          nullptr, 0);
#else
  word.wait(value);
#endif
}

void wake(std::atomic<std::uint32_t>& word) {
#ifdef __linux__
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr,
          nullptr, 0);
#else
  word.notify_all();
#endif
}

/// Polls for a few microseconds; true as soon as `done` says so.
template <class F>
bool spin_until(F&& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

/// CPU time this control group may use per unit of time, rounded up; 0 when unlimited or unknown.
int cgroup_cpus() {
  char line[512], path[600];
  auto quota = [&](const char* file) {
    long long max = 0, period = 0;
    if (FILE* f = std::fopen(file, "r")) {
      if (std::fscanf(f, "%lld %lld", &max, &period) != 2) max = period = 0;
      std::fclose(f);
    }
    return max > 0 && period > 0
               ? static_cast<int>(std::min<long long>((max + period - 1) / period, kMaxThreads))
               : 0;
  };
  int best = quota("/sys/fs/cgroup/cpu.max");
  if (FILE* f = std::fopen("/proc/self/cgroup", "r")) {
    while (std::fgets(line, sizeof line, f)) {
      if (std::strncmp(line, "0::", 3) != 0) continue;
      line[std::strcspn(line, "\n")] = 0;
      std::snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
      if (int q = quota(path)) best = best ? std::min(best, q) : q;
    }
    std::fclose(f);
  }
  return best;
}

int default_threads() {
  if (const std::string fault = environment_fault(); !fault.empty()) warn_once(fault);
  if (const int n = threads_by_environment()) return n;
  int n = 0;
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
#endif
  if (n < 1) n = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (int q = cgroup_cpus()) n = std::min(n, q);
  return std::clamp(n, 1, kMaxThreads);
}

struct Region {
  void* self;
  detail::RangeFn fn;
  int64_t n, ranges;
  int slots;
  std::atomic<bool> failed{false};
  std::exception_ptr error;

  void call(int64_t i) {
    const int64_t base = n / ranges, extra = n % ranges;
    const int64_t begin = i * base + std::min(i, extra);
    fn(self, begin, begin + base + (i < extra ? 1 : 0));
  }
};

/// Lives in static storage and is never destroyed, so that parallel_for works at any moment of the
/// program's life.
class Pool {
 public:
  std::atomic<int> threads{0};

  /// False when another thread has a region open (or the program is ending): the caller runs its
  /// ranges itself.
  bool run(Region& r) {
    if (stopped_.load(std::memory_order_acquire) || busy_.exchange(true, std::memory_order_acquire))
      return false;
    start_workers(r.slots - 1);
    for (int s = 0; s < r.slots; ++s) {
      slots_[s].end = r.ranges * (s + 1) / r.slots;
      slots_[s].next.store(r.ranges * s / r.slots, std::memory_order_relaxed);
    }
    region_ = &r;
    gate_.store(kOpen, std::memory_order_release);
    epoch_.fetch_add(1);
    if (sleepers_.load()) wake(epoch_);
    work(r, 0);
    // Every range is taken. Shut the door, then wait for those still inside.
    if (gate_.fetch_and(~kOpen, std::memory_order_acq_rel) != kOpen &&
        !spin_until([&] { return gate_.load(std::memory_order_acquire) == 0; })) {
      for (std::uint32_t g =
               gate_.fetch_or(kCallerSleeps, std::memory_order_acq_rel) | kCallerSleeps;
           g & ~kCallerSleeps; g = gate_.load(std::memory_order_acquire))
        sleep_while(gate_, g);
    }
    region_ = nullptr;
    busy_.store(false, std::memory_order_release);
    return true;
  }

  void stop() {
    stopped_.store(true);
    epoch_.fetch_add(1);
    wake(epoch_);
    for (int i = 0; i < started_; ++i) {
      if (pthread_equal(workers_[i], pthread_self()))
        pthread_detach(workers_[i]);  // exit() called inside a range
      else
        pthread_join(workers_[i], nullptr);
    }
    started_ = 0;
  }

  /// In a forked child the workers are gone, and whatever the other threads of the parent were
  /// doing with them.
  void forget_workers() {
    started_ = 0;
    gate_.store(0);
    sleepers_.store(0);
    busy_.store(false);
  }

 private:
  struct alignas(64) Slot {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void work(Region& r, int first) {
    t_in_region = true;
    for (int k = 0; k < r.slots; ++k) {
      Slot& s = slots_[(first + k) % r.slots];
      while (s.next.load(std::memory_order_relaxed) < s.end) {
        const int64_t i = s.next.fetch_add(1, std::memory_order_relaxed);
        if (i >= s.end) break;
        if (r.failed.load(std::memory_order_relaxed)) continue;
        try {
          r.call(i);
        } catch (...) {
          if (!r.failed.exchange(true)) r.error = std::current_exception();
        }
      }
    }
    t_in_region = false;
  }

  void start_workers(int wanted) {
    if (started_ >= wanted) return;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);  // signals are for the user's threads
    while (started_ < wanted) {
      // A worker that can not be started is not needed: the others take its ranges.
      if (pthread_create(&workers_[started_], nullptr, &worker_main,
                         reinterpret_cast<void*>(static_cast<std::intptr_t>(started_ + 1))) != 0)
        break;
      ++started_;
    }
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
  }

  static void* worker_main(void* slot);

  void serve(int slot) {
    std::uint32_t seen = 0;  // never a live epoch: the first look always tries the gate
    for (;;) {
      const std::uint32_t now = epoch_.load();
      if (now == seen) {
        auto changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
        if (spin_until(changed)) continue;
        sleepers_.fetch_add(1);
        if (epoch_.load() == seen) sleep_while(epoch_, seen);
        sleepers_.fetch_sub(1);
        continue;
      }
      seen = now;
      if (stopped_.load()) return;
      std::uint32_t g = gate_.load(std::memory_order_acquire);
      while ((g & kOpen) && !gate_.compare_exchange_weak(g, g + 1, std::memory_order_acq_rel)) {
      }
      if (!(g & kOpen)) continue;
      if (slot < region_->slots) work(*region_, slot);
      if (gate_.fetch_sub(1, std::memory_order_acq_rel) == (kCallerSleeps | 1)) {
        wake(gate_);
      }
    }
  }

  Slot slots_[kMaxThreads];
  alignas(64) std::atomic<std::uint32_t> epoch_{1};
  std::atomic<std::uint32_t> sleepers_{0};
  std::atomic<bool> stopped_{false};
  alignas(64) std::atomic<std::uint32_t> gate_{0};
  alignas(64) std::atomic<bool> busy_{false};
  Region* region_ = nullptr;
  std::atomic<int> started_{0};
  pthread_t workers_[kMaxThreads];
};

union Storage {  // never destroyed
  Pool pool;
  Storage() : pool() {}
  ~Storage() {}
};

Pool& pool() {
  static Storage storage;
  static const struct AtExit {
    AtExit() {
      pthread_atfork(nullptr, nullptr, [] { storage.pool.forget_workers(); });
    }
    ~AtExit() { storage.pool.stop(); }
  } at_exit;
  return storage.pool;
}

void* Pool::worker_main(void* slot) {
  dropin::pool().serve(static_cast<int>(reinterpret_cast<std::intptr_t>(slot)));
  return nullptr;
}

}  // namespace

int get_num_threads() {
  int n = pool().threads.load(std::memory_order_relaxed);
  if (n == 0) {
    int none = 0;
    n = default_threads();
    if (!pool().threads.compare_exchange_strong(none, n)) n = none;
  }
  return n;
}

void set_num_threads(int n) {
  DROPIN_CHECK(n >= 1 && n <= kMaxThreads, OptionError, "set_num_threads: ", n, " is not in 1..",
               kMaxThreads);
  pool().threads.store(n, std::memory_order_relaxed);
}

bool in_parallel_region() { return t_in_region; }

namespace detail {

void parallel_for(int64_t n, int64_t grain, void* self, RangeFn fn) {
  if (n <= 0) return;
  const int64_t threads = get_num_threads(), fit = grain > 1 ? n / grain : n;
  if (fit <= 1 || threads == 1) return fn(self, 0, n);
  // A multiple of the thread count where there are enough, so that equal work ends at the same
  // time.
  Region r{self, fn,
           n,    fit < threads ? fit : threads * std::min<int64_t>(fit / threads, kRangesPerThread),
           0,    {},
           {}};
  r.slots = static_cast<int>(std::min(threads, r.ranges));
  if (t_in_region || !pool().run(r)) {
    struct Nested {
      bool before = t_in_region;
      Nested() { t_in_region = true; }
      ~Nested() { t_in_region = before; }
    } nested;
    for (int64_t i = 0; i < r.ranges; ++i) r.call(i);
    return;
  }
  if (r.error) std::rethrow_exception(r.error);
}

}  // namespace detail
}  // namespace dropin
