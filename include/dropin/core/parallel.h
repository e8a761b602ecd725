// The thread pool: blocks instead of spinning, survives fork, never nests.
#pragma once
#include <cstdint>
#include <type_traits>

namespace dropin {

/// Threads used by parallel_for, the caller included. Starts at DROPIN_NUM_THREADS or the number of
/// usable cores.
int get_num_threads();
/// Sets it, 1..1024; OptionError otherwise. Not while a parallel region runs.
void set_num_threads(int n);
/// True inside a parallel_for body; a nested parallel_for runs its ranges one after the other. A
/// region of one range is a plain call: what it nests may still run in parallel.
bool in_parallel_region();

namespace detail {
using RangeFn = void (*)(void* self, int64_t begin, int64_t end);
void parallel_for(int64_t n, int64_t grain, void* self, RangeFn fn);
}  // namespace detail

/// Calls f(begin, end) over disjoint ranges that cover [0, n), each of at least `grain` (but the
/// last). Ranges depend only on n, grain and the thread count (up to a few per thread, taken as
/// threads become free); callers that meet another thread's region run theirs alone. A child forked
/// inside a body must exec or exit. The first exception a range throws is rethrown here.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& f) {
  using Body = std::remove_reference_t<F>;
  detail::parallel_for(n, grain, const_cast<void*>(static_cast<const void*>(&f)),
                       [](void* self, int64_t b, int64_t e) { (*static_cast<Body*>(self))(b, e); });
}

}  // namespace dropin
