// CUDA kernels on the host, for tests: enough of the language and of the runtime that
// kernels/*/cuda*.cu compile with a C++ compiler and run, one block after the other, one fiber per
// thread, switching at barriers, shuffles and ballots. It checks arithmetic, indexing, barriers
// that not every thread reaches and, with the order of threads reversed or shuffled
// (DROPIN_HOST_ORDER=reverse|shuffle), some missing barriers and waits. It does not check races,
// the memory model or speed. Device memory: under AddressSanitizer the heap, each block of its very
// size; otherwise an arena that only kernels and copies may touch (memory protection keys, where
// the processor has them), so that the library's host code faults when it reaches for it, as it
// would on a GPU.
#pragma once
#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __noinline__

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace dropin::cuda_host {

extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;
extern void* dynamic_shared;
/// One call of body per thread of every block.
void run(dim3 grid, dim3 block, std::size_t shared, void (*body)(void*), void* context,
         const char* name);
void sync_block();
/// Every lane gives `bytes` (at most 128); returns 32 slots of 128 bytes, valid until the second
/// exchange from now.
const unsigned char* exchange(const void* mine, std::size_t bytes);
/// cp.async: 16 bytes, or zeros, when the thread waits for them (in the orders reverse and shuffle:
/// now).
void copy_later(void* to, const void* from, bool there);
void commit_copies();
void wait_for_copies(int groups_left);
int lane();
[[noreturn]] void stop(const char* why);

template <class T>
T shuffle(T v, int from) {
  T r;
  std::memcpy(&r, exchange(&v, sizeof v) + 128 * (from & 31), sizeof r);
  return r;
}

}  // namespace dropin::cuda_host

#define threadIdx (::dropin::cuda_host::thread_index)
#define blockIdx (::dropin::cuda_host::block_index)
#define blockDim (::dropin::cuda_host::block_size)
#define gridDim (::dropin::cuda_host::grid_size)

inline void __syncthreads() { dropin::cuda_host::sync_block(); }
inline void __syncwarp(unsigned = ~0u) {
  char c = 0;
  dropin::cuda_host::exchange(&c, 1);
}
inline void __threadfence() {}
template <class T>
T __shfl_sync(unsigned, T v, int from) {
  return dropin::cuda_host::shuffle(v, from);
}
template <class T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return dropin::cuda_host::shuffle(v, dropin::cuda_host::lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T v, int by) {
  const int l = dropin::cuda_host::lane();
  return dropin::cuda_host::shuffle(v, l + by < 32 ? l + by : l);
}
template <class T>
T __shfl_up_sync(unsigned, T v, int by) {
  const int l = dropin::cuda_host::lane();
  return dropin::cuda_host::shuffle(v, l >= by ? l - by : l);
}
inline unsigned __ballot_sync(unsigned, int p) {
  const unsigned char mine = p != 0, *all = dropin::cuda_host::exchange(&mine, 1);
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= static_cast<unsigned>(all[128 * i]) << i;
  return r;
}
inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, p) == ~0u; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }

template <class T, class U>
T atomicAdd(T* p, U v) {
  const T old = *p;
  *p = static_cast<T>(old + static_cast<T>(v));
  return old;
}
template <class T, class U>
T atomicMax(T* p, U v) {
  const T old = *p;
  if (static_cast<T>(v) > old) *p = static_cast<T>(v);
  return old;
}
template <class T, class U>
T atomicMin(T* p, U v) {
  const T old = *p;
  if (static_cast<T>(v) < old) *p = static_cast<T>(v);
  return old;
}
template <class T, class U>
T atomicOr(T* p, U v) {
  const T old = *p;
  *p = static_cast<T>(old | static_cast<T>(v));
  return old;
}
template <class T, class U>
T atomicAnd(T* p, U v) {
  const T old = *p;
  *p = static_cast<T>(old & static_cast<T>(v));
  return old;
}
template <class T, class U>
T atomicExch(T* p, U v) {
  const T old = *p;
  *p = static_cast<T>(v);
  return old;
}

// --- the runtime
enum cudaError_t { cudaSuccess = 0, cudaErrorMemoryAllocation = 2 };
using cudaStream_t = void*;
using cudaEvent_t = void*;
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76
};
struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
};
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDefault = 0;

cudaError_t cudaMalloc(void** p, std::size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int device);
inline cudaError_t cudaGetDeviceCount(int* n) {
  *n = 1;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* v) {
  *v = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = 13000;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  static char one;
  *s = &one;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  static char one;
  *e = &one;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 0;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess ? "no error" : "out of memory";
}
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace dropin::cuda_host {
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared, A&&... a) {
  std::tuple<void (*)(P...), std::tuple<P...>> call(kernel, std::tuple<P...>(static_cast<P>(a)...));
  run(
      grid, block, shared,
      [](void* c) {
        auto& [k, args] = *static_cast<decltype(call)*>(c);
        std::apply(k, args);
      },
      &call, __PRETTY_FUNCTION__);
}
}  // namespace dropin::cuda_host
