// oneDNN: whether it is there and works, its threads, products of matrices.
#include "src/cpu/onednn.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "src/core/environment.h"
#include "src/cpu/onednn_common.h"

namespace dropin::cpu {
namespace {

bool products_work();

std::atomic<bool>& enabled_flag() {
  static std::atomic<bool> flag{!disabled_by_environment("onednn") && products_work()};
  return flag;
}

std::atomic<bool> g_ended{false};

// A second oneDNN in the process, as LibTorch brings one, can take the start-up of this one's
// products to itself where it is linked first: the standard library's invoker of call_once has the
// same weak name in both. Then nothing here runs, and our own kernels serve.
bool products_work() {
  float a[64], c[64] = {};
  std::fill(std::begin(a), std::end(a), 1.0f);
  if (onednn::sgemm(false, false, 8, 8, 8, a, 8, a, 8, 0, c, 8) && c[63] == 8) return true;
  std::fputs(
      "dropin: note: another oneDNN is linked before dropin's, which does not run; the library's "
      "own "
      "kernels serve. To have both, link dropin before LibTorch.\n",
      stderr);
  return false;
}

}  // namespace

bool onednn_enabled() {
  return enabled_flag().load(std::memory_order_relaxed) && !g_ended.load(std::memory_order_relaxed);
}
void set_onednn_enabled(bool on) { enabled_flag().store(on); }
int64_t onednn_primitives_created() { return onednn::created.load(); }

const char* onednn_version() {
  static const auto text = [] {
    struct {
      char s[32];
    } t;
    const dnnl_version_t* v = ::dnnl_version();
    std::snprintf(t.s, sizeof t.s, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return t;
  }();
  return text.s;
}

namespace onednn {

std::atomic<int64_t> created{0};

void watch_the_end() {
  std::atexit([] { g_ended.store(true); });
}

namespace {

/// The OpenMP runtime that oneDNN itself uses, which need not be the one our compiler would link:
/// looked up beside oneDNN's own symbols.
struct OpenMP {
  int (*get_max_threads)() = nullptr;
  void (*set_num_threads)(int) = nullptr;
  OpenMP() {
#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
    void* library = nullptr;
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&::dnnl_sgemm), &info))
      library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    for (void* where : {library, RTLD_DEFAULT}) {
      if (set_num_threads || (!where && where != RTLD_DEFAULT)) continue;
      get_max_threads = reinterpret_cast<int (*)()>(dlsym(where, "omp_get_max_threads"));
      set_num_threads = reinterpret_cast<void (*)(int)>(dlsym(where, "omp_set_num_threads"));
    }
    if (!get_max_threads) set_num_threads = nullptr;
#endif
  }
};

const OpenMP& openmp() {
  static const OpenMP o;
  return o;
}

}  // namespace

OneThread::OneThread() {
  if (openmp().set_num_threads && (before_ = openmp().get_max_threads()) != 1)
    openmp().set_num_threads(1);
}
OneThread::~OneThread() {
  if (before_ > 1) openmp().set_num_threads(before_);
}

bool sgemm(bool trans_a, bool trans_b, int64_t M, int64_t N, int64_t K, const float* a, int64_t lda,
           const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const OneThread one;
  const bool done = ::dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', M, N, K, 1.0f, a, lda, b,
                                 ldb, beta, c, ldc) == dnnl_success;
  // each form of product has its own code, made at its first call
  static std::atomic<std::uint32_t> seen{0};
  const std::uint32_t form =
      1u << (trans_a | trans_b << 1 | (beta != 0) << 2 | (M == 1) << 3 | (N == 1) << 4);
  if (!(seen.load(std::memory_order_relaxed) & form) && !(seen.fetch_or(form) & form))
    watch_the_end();
  return done;
}

}  // namespace onednn
}  // namespace dropin::cpu
