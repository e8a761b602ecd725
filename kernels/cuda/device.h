// What every kernels/*/cuda*.cu builds on: 16-bit types, launching, strided iteration, reductions
// over warps and blocks. The same sources compile with nvcc, and with a C++ compiler against the
// host executor of the tests (tests/cuda/host): no kernel uses <<<>>> directly.
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "cuda_host.h"
#include "dropin/core/dtype.h"
#endif

#include "dropin/abi/abi.h"
#include "kernels/hd.h"

#ifdef __CUDACC__
#define DROPIN_DYNAMIC_SHARED(T, name)                          \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  T* name = reinterpret_cast<T*>(name##_bytes)
#define DROPIN_UNROLL _Pragma("unroll")
#else
#define DROPIN_DYNAMIC_SHARED(T, name) \
  T* name = static_cast<T*>(::dropin::cuda_host::dynamic_shared)
#define DROPIN_UNROLL
#endif

namespace dropin::kernels::cuda {

using abi::KernelContext;
using abi::KernelTable;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

#define DROPIN_REQUIRE(COND, WHY)         \
  do {                                    \
    if (!(COND)) return abi::failed(WHY); \
  } while (false)
#define DROPIN_TRY(CALL)                                                            \
  do {                                                                              \
    if (const ::dropin::abi::Status status_ = (CALL); status_.code) return status_; \
  } while (false)

constexpr unsigned kFull = 0xffffffffu;

// --- 16-bit floating point: storage; arithmetic goes through float

struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

#ifdef __CUDACC__
__device__ __forceinline__ float to_float(bf16 v) {
  return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
}
__device__ __forceinline__ float to_float(f16 v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ __forceinline__ void from_float(float v, bf16& r) {
  r.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
}
__device__ __forceinline__ void from_float(float v, f16& r) {
  r.bits = __half_as_ushort(__float2half_rn(v));
}
__device__ __forceinline__ int float_bits(float v) { return __float_as_int(v); }
__device__ __forceinline__ float bits_float(int v) { return __int_as_float(v); }
__device__ __forceinline__ long long double_bits(double v) { return __double_as_longlong(v); }
__device__ __forceinline__ double bits_double(long long v) { return __longlong_as_double(v); }
__device__ __forceinline__ float fast_exp(float v) { return __expf(v); }
__device__ __forceinline__ float fast_exp2(float v) { return exp2f(v); }
#else
inline float to_float(bf16 v) {
  dropin::bfloat16 b;
  b.bits = v.bits;
  return b;
}
inline float to_float(f16 v) { return dropin::float16::decode(v.bits); }
inline void from_float(float v, bf16& r) { r.bits = dropin::bfloat16(v).bits; }
inline void from_float(float v, f16& r) { r.bits = dropin::float16(v).bits; }
inline int float_bits(float v) {
  int r;
  std::memcpy(&r, &v, 4);
  return r;
}
inline float bits_float(int v) {
  float r;
  std::memcpy(&r, &v, 4);
  return r;
}
inline long long double_bits(double v) {
  long long r;
  std::memcpy(&r, &v, 8);
  return r;
}
inline double bits_double(long long v) {
  double r;
  std::memcpy(&r, &v, 8);
  return r;
}
inline float fast_exp(float v) { return expf(v); }
inline float fast_exp2(float v) { return exp2f(v); }
#endif

/// What a type is computed in.
template <class T>
struct Compute {
  using type = T;
};
template <>
struct Compute<bf16> {
  using type = float;
};
template <>
struct Compute<f16> {
  using type = float;
};
template <class T>
using ComputeOf = typename Compute<T>::type;
template <class T>
__device__ __forceinline__ ComputeOf<T> wide(T v) {
  if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>)
    return to_float(v);
  else
    return v;
}
template <class T>
__device__ __forceinline__ T narrow(ComputeOf<T> v) {
  if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>) {
    T r;
    from_float(v, r);
    return r;
  } else {
    return v;
  }
}

template <class F>
auto visit_float(DType t, F&& f) -> Status {
  switch (t) {
    case DType::Float32:
      return f(float{});
    case DType::Float64:
      return f(double{});
    case DType::BFloat16:
      return f(bf16{});
    case DType::Float16:
      return f(f16{});
    default:
      return abi::unsupported("needs a floating-point dtype");
  }
}
template <class F>
auto visit_real(DType t, F&& f) -> Status {  // f32 and f64 only
  if (t == DType::Float32) return f(float{});
  if (t == DType::Float64) return f(double{});
  return abi::unsupported("needs float32 or float64");
}
template <class F>
auto visit_any(DType t, F&& f) -> Status {
  switch (t) {
    case DType::Int8:
      return f(std::int8_t{});
    case DType::UInt8:
      return f(std::uint8_t{});
    case DType::Int32:
      return f(std::int32_t{});
    case DType::Int64:
      return f(int64_t{});
    case DType::Boolean:
      return f(bool{});
    default:
      return visit_float(t, f);
  }
}
constexpr bool floating(DType t) { return t <= DType::Float16; }
constexpr int64_t item_bytes(DType t) {
  switch (t) {
    case DType::Float64:
    case DType::Int64:
      return 8;
    case DType::Float32:
    case DType::Int32:
      return 4;
    case DType::BFloat16:
    case DType::Float16:
      return 2;
    default:
      return 1;
  }
}

// --- the runtime (kernels/cuda/cuda_runtime.cu)

/// A code of the runtime in words; an error from which a device does not recover marks it as lost.
Status checked(cudaError_t error, const KernelContext& c);
/// Makes the device current, or says why it cannot be used.
Status enter(const KernelContext& c);
cudaStream_t stream_of(const KernelContext& c);
int multiprocessors(const KernelContext& c);
/// Largest dynamic shared memory of a block, in bytes.
int64_t shared_limit(const KernelContext& c);
void* allocate(const KernelContext& c, int64_t bytes);
void release(const KernelContext& c, void* p, int64_t bytes);

/// Memory of the device for the length of a kernel's host function; handed on in stream order.
template <class T>
class Scratch {
 public:
  Scratch(const KernelContext& c, int64_t n)
      : c_(c),
        bytes_(n * static_cast<int64_t>(sizeof(T))),
        p_(n > 0 ? static_cast<T*>(allocate(c, bytes_)) : nullptr),
        wanted_(n > 0) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    if (p_) release(c_, p_, bytes_);
  }
  T* get() const { return p_; }
  bool ok() const { return p_ || !wanted_; }

 private:
  const KernelContext& c_;
  int64_t bytes_;
  T* p_;
  bool wanted_;
};
#define DROPIN_SCRATCH(T, name, c, n) \
  const Scratch<T> name(c, n);        \
  if (!name.ok()) return abi::out_of_memory("no device memory for intermediate results")

/// A few bytes from the device, after everything before.
Status fetch(const KernelContext& c, void* to, const void* from, int64_t bytes);
Status upload(const KernelContext& c, void* to, const void* from, int64_t bytes);

template <class... P, class... A>
Status launch(const KernelContext& c, void (*kernel)(P...), dim3 grid, dim3 block,
              std::size_t shared, A&&... a) {
  if (!grid.x || !grid.y || !grid.z) return abi::ok();
#ifdef __CUDACC__
  if (shared > 48 * 1024)
    if (const cudaError_t e = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
        e != cudaSuccess)
      return checked(e, c);
  kernel<<<grid, block, shared, stream_of(c)>>>(static_cast<P>(a)...);
  return checked(cudaGetLastError(), c);
#else
  cuda_host::launch(kernel, grid, block, shared, static_cast<A&&>(a)...);
  return abi::ok();
#endif
}
/// Blocks for n items at `each` a block, no more than fill the device a few times over; kernels
/// stride over the rest.
inline unsigned blocks_for(const KernelContext& c, int64_t n, int64_t each, int waves = 16) {
  const int64_t want = ceil_div(n, each), most = static_cast<int64_t>(multiprocessors(c)) * waves;
  return static_cast<unsigned>(want < most ? want : most);
}
inline unsigned blocks_exactly(int64_t n, int64_t each) {
  return static_cast<unsigned>(ceil_div(n, each));
}
inline bool aligned(const void* p, std::size_t to) {
  return reinterpret_cast<std::uintptr_t>(p) % to == 0;
}

/// The function a kernel table holds: makes the device current, refuses a lost one.
template <auto F>
struct Entered;
template <class... A, Status (*F)(const KernelContext&, A...)>
struct Entered<F> {
  static Status call(const KernelContext& c, A... a) {
    DROPIN_TRY(enter(c));
    return F(c, a...);
  }
};
template <class K, auto F>
void provide(KernelTable& t) {
  t.provide<K>(&Entered<F>::call);
}

// --- strided iteration: N operands over one index space, operand 0 the leader (an output);
// dimensions sorted by its strides and merged where all agree

template <int N>
struct Strided {
  int ndim = 0;
  int64_t total = 1;
  int64_t size[abi::kMaxDims];
  int64_t stride[N][abi::kMaxDims];

  static Strided make(std::initializer_list<const TensorIn*> list) {
    Strided s;
    const TensorIn* t[N];
    int n = 0;
    for (const TensorIn* x : list) t[n++] = x;
    int order[abi::kMaxDims], dims = 0;
    for (int i = 0; i < t[0]->ndim; ++i) {
      s.total *= t[0]->sizes[i];
      if (t[0]->sizes[i] == 1) continue;
      int at = dims++;
      for (; at > 0 && t[0]->strides[order[at - 1]] < t[0]->strides[i]; --at)
        order[at] = order[at - 1];
      order[at] = i;
    }
    for (int i = 0; i < dims; ++i) {
      const int from = order[i];
      const int64_t n = t[0]->sizes[from];
      bool merge = s.ndim > 0;
      for (int k = 0; merge && k < N; ++k)
        merge = s.stride[k][s.ndim - 1] == t[k]->strides[from] * n;
      if (merge)
        s.size[s.ndim - 1] *= n;
      else
        s.size[s.ndim++] = n;
      for (int k = 0; k < N; ++k) s.stride[k][s.ndim - 1] = t[k]->strides[from];
    }
    if (s.ndim == 0) {
      s.ndim = 1;
      s.size[0] = 1;
      for (int k = 0; k < N; ++k) s.stride[k][0] = 1;
    }
    return s;
  }
  /// One run in which every operand has stride 1 or repeats one value.
  bool flat() const {
    if (ndim != 1) return false;
    for (int k = 0; k < N; ++k)
      if (stride[k][0] != 1 && stride[k][0] != 0) return false;
    return stride[0][0] == 1;
  }
  __device__ void offsets(int64_t flat, int64_t (&at)[N]) const {
    for (int k = 0; k < N; ++k) at[k] = 0;
    if (total <= 0x7fffffff) {  // 32-bit divisions are several times cheaper
      unsigned rest = static_cast<unsigned>(flat);
      for (int d = ndim - 1; d > 0; --d) {
        const unsigned n = static_cast<unsigned>(size[d]), q = rest / n, r = rest - q * n;
        for (int k = 0; k < N; ++k) at[k] += r * stride[k][d];
        rest = q;
      }
      for (int k = 0; k < N; ++k) at[k] += rest * stride[k][0];
    } else {
      for (int d = ndim - 1; d > 0; --d) {
        const int64_t q = flat / size[d], r = flat - q * size[d];
        for (int k = 0; k < N; ++k) at[k] += r * stride[k][d];
        flat = q;
      }
      for (int k = 0; k < N; ++k) at[k] += flat * stride[k][0];
    }
  }
};
inline bool same_sizes(const TensorIn& a, const TensorIn& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i)
    if (a.sizes[i] != b.sizes[i]) return false;
  return true;
}

// --- reductions

template <class T, class F>
__device__ __forceinline__ T warp_reduce(T v, F f) {
  DROPIN_UNROLL
  for (int k = 16; k > 0; k >>= 1) v = f(v, __shfl_xor_sync(kFull, v, k));
  return v;
}
struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  return warp_reduce(v, Plus());
}

/// Of all threads of a block (a multiple of 32 threads in x only); every thread gets it. `room`: 32
/// values of shared memory; safe to call again at once.
template <class T, class F>
__device__ T block_reduce(T v, F f, T zero, T* room) {
  v = warp_reduce(v, f);
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (warps == 1) return v;
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = v;
  __syncthreads();
  T r = zero;
  for (int i = 0; i < warps; ++i) r = f(r, room[i]);
  return r;
}
template <class T>
__device__ T block_sum(T v, T* room) {
  return block_reduce(v, Plus(), T(0), room);
}

/// V values loaded or stored at once.
template <class T, int V>
struct alignas(sizeof(T) * V > 16 ? 16 : sizeof(T) * V) Pack {
  T v[V];
};

}  // namespace dropin::kernels::cuda
