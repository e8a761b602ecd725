#include "kernels/fft/cufft.h"

#ifdef __CUDACC__
#include <cufft.h>

#include <map>
#include <mutex>
#include <tuple>

#include "kernels/cuda/library.h"

namespace dropin::kernels::cuda {
namespace {

struct Library : OpenedLibrary {
  decltype(&cufftPlanMany) plan = nullptr;
  decltype(&cufftSetStream) stream = nullptr;
  decltype(&cufftExecC2C) single = nullptr;
  decltype(&cufftExecZ2Z) twice = nullptr;
  Library()
      : OpenedLibrary({"libcufft.so.12", "libcufft.so", "/usr/local/cuda/lib64/libcufft.so.12"}) {
    find(plan, "cufftPlanMany");
    find(stream, "cufftSetStream");
    find(single, "cufftExecC2C");
    find(twice, "cufftExecZ2Z");
  }
};

}  // namespace

Status cufft_complex(const KernelContext& c, bool wide, void* data, int64_t n, int64_t count,
                     bool inverse) {
  static Library* l = new Library;
  if (!l->there) return abi::unsupported("cuFFT is not there");
  if (n > 0x7fffffff || count > 0x7fffffff) return abi::unsupported("too long for a plan");
  static std::mutex mutex;
  static auto* plans = new std::map<std::tuple<int, bool, int64_t, int64_t>, cufftHandle>;
  std::lock_guard lock(mutex);  // a plan carries its stream
  auto [at, fresh] = plans->try_emplace({c.index, wide, n, count}, 0);
  if (fresh) {
    int size = static_cast<int>(n);
    if (l->plan(&at->second, 1, &size, nullptr, 1, size, nullptr, 1, size,
                wide ? CUFFT_Z2Z : CUFFT_C2C, static_cast<int>(count)) != CUFFT_SUCCESS) {
      plans->erase(at);
      return abi::unsupported("cuFFT has no plan for this");
    }
  }
  const int direction = inverse ? CUFFT_INVERSE : CUFFT_FORWARD;
  bool good = l->stream(at->second, stream_of(c)) == CUFFT_SUCCESS;
  good = good && (wide ? l->twice(at->second, static_cast<cufftDoubleComplex*>(data),
                                  static_cast<cufftDoubleComplex*>(data), direction)
                       : l->single(at->second, static_cast<cufftComplex*>(data),
                                   static_cast<cufftComplex*>(data), direction)) == CUFFT_SUCCESS;
  return good ? checked(cudaGetLastError(), c) : abi::device_failed("cuFFT failed");
}

}  // namespace dropin::kernels::cuda

#else  // the host executor has no cuFFT; the kernels in cuda.cu do all transforms

namespace dropin::kernels::cuda {
Status cufft_complex(const KernelContext&, bool, void*, int64_t, int64_t, bool) {
  return abi::unsupported("cuFFT is not there");
}
}  // namespace dropin::kernels::cuda

#endif
