// The plugin's entry point, its devices, streams and memory, and what becomes of a device that
// fails. Work of a device runs on one stream of its own, so memory that is freed can be handed on
// in that order without waiting.
#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <mutex>

#include "kernels/cuda/device.h"
#include "kernels/cuda/list.h"
#include "kernels/memory/kernel.h"

namespace dropin::kernels::cuda {
namespace {

constexpr int kMaxDevices = 16;

struct DeviceState {
  std::once_flag once;
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaSuccess;
  int multiprocessors = 1;
  int shared = 48 * 1024;
  std::atomic<bool> lost{false};
  char why[256] = "";
};
DeviceState states[kMaxDevices];
int device_total = 0;
std::atomic<bool> forked{false};
abi::Host host;
thread_local char message[512];

const char* said(const char* before, const char* after) {
  std::snprintf(message, sizeof message, "%s%s", before, after);
  return message;
}

DeviceState& state_of(const KernelContext& c) { return states[c.index]; }

// What a later call can still survive: the device's context is whole.
bool recoverable(cudaError_t e) {
#ifdef __CUDACC__
  switch (e) {
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDevice:
    case cudaErrorNotReady:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorNotSupported:
      return true;
    default:
      return false;
  }
#else
  return e == cudaErrorMemoryAllocation;
#endif
}

}  // namespace

Status checked(cudaError_t e, const KernelContext& c) {
  if (e == cudaSuccess) return abi::ok();
  if (e == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return abi::out_of_memory(said("CUDA: ", cudaGetErrorString(e)));
  }
  if (recoverable(e)) {
    (void)cudaGetLastError();
    return abi::device_failed(said("CUDA: ", cudaGetErrorString(e)));
  }
  DeviceState& s = state_of(c);
  if (!s.lost.exchange(true))
    std::snprintf(s.why, sizeof s.why,
                  "cuda:%d is lost to this process (%s); what lies on the CPU goes on working",
                  static_cast<int>(c.index), cudaGetErrorString(e));
  return abi::device_failed(s.why);
}

Status enter(const KernelContext& c) {
  if (c.index < 0 || c.index >= device_total)
    return abi::device_failed("there is no such CUDA device");
  if (forked.load(std::memory_order_relaxed))
    return abi::device_failed(
        "CUDA was looked for before fork(), so the child has none; name it in the child only, or "
        "start a new process");
  DeviceState& s = state_of(c);
  if (s.lost.load(std::memory_order_relaxed)) return abi::device_failed(s.why);
  if (const cudaError_t e = cudaSetDevice(c.index); e != cudaSuccess) return checked(e, c);
  std::call_once(s.once, [&] {
    s.error = cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking);
    if (s.error == cudaSuccess)
      s.error = cudaDeviceGetAttribute(&s.multiprocessors, cudaDevAttrMultiProcessorCount, c.index);
    if (s.error == cudaSuccess)
      s.error = cudaDeviceGetAttribute(&s.shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, c.index);
  });
  return checked(s.error, c);
}

cudaStream_t stream_of(const KernelContext& c) {
  return c.stream ? static_cast<cudaStream_t>(c.stream) : state_of(c).stream;
}
int multiprocessors(const KernelContext& c) { return state_of(c).multiprocessors; }
int64_t shared_limit(const KernelContext& c) { return state_of(c).shared; }
void* allocate(const KernelContext& c, int64_t bytes) {
  return host.allocate(DeviceType::CUDA, c.index, bytes);
}
void release(const KernelContext& c, void* p, int64_t bytes) {
  host.release(DeviceType::CUDA, c.index, p, bytes);
}

Status fetch(const KernelContext& c, void* to, const void* from, int64_t bytes) {
  DROPIN_TRY(checked(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes),
                                     cudaMemcpyDeviceToHost, stream_of(c)),
                     c));
  return checked(cudaStreamSynchronize(stream_of(c)), c);
}
// From pageable memory: the runtime has taken its copy when this returns.
Status upload(const KernelContext& c, void* to, const void* from, int64_t bytes) {
  return checked(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyHostToDevice,
                                 stream_of(c)),
                 c);
}

namespace {

Status allocate_bytes(const KernelContext& c, int64_t bytes, void** data) {
  return checked(cudaMalloc(data, static_cast<std::size_t>(bytes)), c);
}
Status release_bytes(const KernelContext& c, void* data, int64_t) {
  if (const cudaError_t e = cudaStreamSynchronize(stream_of(c)); e != cudaSuccess)
    return checked(e, c);
  return checked(cudaFree(data), c);
}
Status copy_bytes(const KernelContext& c, void* to, bool to_host, const void* from, bool from_host,
                  int64_t bytes) {
  if (bytes == 0) return abi::ok();
  const cudaMemcpyKind kind = to_host ? (from_host ? cudaMemcpyHostToHost : cudaMemcpyDeviceToHost)
                                      : (from_host ? cudaMemcpyHostToDevice : cudaMemcpyDefault);
  DROPIN_TRY(
      checked(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), kind, stream_of(c)), c));
  return to_host || from_host ? checked(cudaStreamSynchronize(stream_of(c)), c) : abi::ok();
}
Status synchronize(const KernelContext& c, int) {
  return checked(cudaStreamSynchronize(stream_of(c)), c);
}
Status record_event(const KernelContext& c, void** event) {
  if (!*event) {
    cudaEvent_t e = nullptr;
    DROPIN_TRY(checked(cudaEventCreateWithFlags(&e, cudaEventDefault), c));
    *event = e;
  }
  return checked(cudaEventRecord(static_cast<cudaEvent_t>(*event), stream_of(c)), c);
}
Status elapsed(const KernelContext& c, void* begin, void* end, double* ms) {
  float t = 0;
  DROPIN_TRY(checked(cudaEventSynchronize(static_cast<cudaEvent_t>(end)), c));
  DROPIN_TRY(checked(
      cudaEventElapsedTime(&t, static_cast<cudaEvent_t>(begin), static_cast<cudaEvent_t>(end)), c));
  *ms = t;
  return abi::ok();
}
Status release_event(const KernelContext& c, void* event) {
  return checked(cudaEventDestroy(static_cast<cudaEvent_t>(event)), c);
}
Status memory(const KernelContext& c, int64_t* free, int64_t* total) {
  std::size_t f = 0, t = 0;
  DROPIN_TRY(checked(cudaMemGetInfo(&f, &t), c));
  *free = static_cast<int64_t>(f), *total = static_cast<int64_t>(t);
  return abi::ok();
}

void probe(std::int32_t* count, char* text, int64_t room) {
  *count = 0;
  int driver = 0, runtime = 0, n = 0;
  auto say = [&](const char* format, auto... a) {
    const int wrote = std::snprintf(text, static_cast<std::size_t>(room), format, a...);
    if (wrote > 0 && wrote < room) text += wrote, room -= wrote;
  };
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return say("there is no NVIDIA driver on this machine");
  if (driver / 1000 < runtime / 1000)
    return say(
        "the NVIDIA driver is too old: it serves CUDA %d.%d, this plugin was built with %d.%d; "
        "install driver 580 or newer",
        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  if (const cudaError_t e = cudaGetDeviceCount(&n); e != cudaSuccess || n == 0) {
    (void)cudaGetLastError();
    return say("the NVIDIA driver finds no usable device (%s)",
               e == cudaSuccess ? "none" : cudaGetErrorString(e));
  }
  int usable = 0;
  for (int i = 0; i < n && i < kMaxDevices; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) break;
    if (p.major <
        8) {  // devices are numbered as CUDA does, so what follows an unusable one is unusable too
      if (i == 0)
        return say("%s has compute capability %d.%d, expected 8.0 or newer", p.name, p.major,
                   p.minor);
      break;
    }
    say("%scuda:%d: %s, compute capability %d.%d, %d multiprocessors, %.1f GiB; driver serves CUDA "
        "%d.%d",
        usable ? "\n" : "", i, p.name, p.major, p.minor, p.multiProcessorCount,
        static_cast<double>(p.totalGlobalMem) / (1024.0 * 1024 * 1024), driver / 1000,
        driver % 1000 / 10);
    ++usable;
  }
  *count = device_total = usable;
}

void provide_all(const abi::Host* h, KernelTable* t) {
  host = *h;
  pthread_atfork(nullptr, nullptr, [] {
    forked.store(true);
  });  // the driver was asked already: a child of this process has no CUDA
  provide<device_allocate, &allocate_bytes>(*t);
  provide<device_release, &release_bytes>(*t);
  provide<device_copy, &copy_bytes>(*t);
  provide<device_synchronize, &synchronize>(*t);
  provide<device_event_record, &record_event>(*t);
  provide<device_event_elapsed, &elapsed>(*t);
  provide<device_event_release, &release_event>(*t);
  provide<device_memory, &memory>(*t);
#define X(folder) provide_##folder(*t);
  DROPIN_CUDA_KERNELS(X)
#undef X
}

}  // namespace
}  // namespace dropin::kernels::cuda

extern "C" __attribute__((visibility("default"))) const dropin::abi::Plugin* dropin_plugin() {
#ifdef __CUDACC__
  static const dropin::abi::Plugin p{dropin::abi::kVersion, DROPIN_BUILD_ID, "dropin CUDA kernels",
                                     &dropin::kernels::cuda::probe,
                                     &dropin::kernels::cuda::provide_all};
#else
  static const dropin::abi::Plugin p{dropin::abi::kVersion, DROPIN_BUILD_ID,
                                     "dropin CUDA kernels on the host executor (tests only)",
                                     &dropin::kernels::cuda::probe,
                                     &dropin::kernels::cuda::provide_all};
#endif
  return &p;
}
