// Transforms of the middle dimension: powers of two in shared memory, a few transforms a block;
// other lengths by cuFFT on a packed copy, or by the definition.
#include "kernels/fft/block_fft.h"
#include "kernels/fft/cufft.h"
#include "kernels/fft/kernel.h"

namespace dropin::kernels::cuda {
namespace {

template <class T>
struct Job {
  const T* x;
  T* y;
  Fft kind;
  int64_t outer, n, inner;
  bool inverse;
  T scale;
  /// What goes in at place t of transform u.
  __device__ Complex<T> load(int64_t u, int64_t t) const {
    const int64_t o = u / inner, i = u % inner;
    if (kind == Fft::RealToHalf) return {x[(o * n + t) * inner + i], T(0)};
    if (kind == Fft::Complex)
      return {x[2 * ((o * n + t) * inner + i)], x[2 * ((o * n + t) * inner + i) + 1]};
    const int64_t half = n / 2 + 1;
    const bool mirrored = t >= half;
    const T* p = x + 2 * ((o * half + (mirrored ? n - t : t)) * inner + i);
    const bool edge =
        t == 0 ||
        (n % 2 == 0 && t == n / 2);  // real for a real signal; what is there besides does not count
    return {p[0], edge ? T(0) : mirrored ? -p[1] : p[1]};
  }
  __device__ void store(int64_t u, int64_t k, Complex<T> v) const {
    const int64_t o = u / inner, i = u % inner;
    if (kind == Fft::HalfToReal) {
      y[(o * n + k) * inner + i] = v.re * scale;
      return;
    }
    const int64_t rows = kind == Fft::RealToHalf ? n / 2 + 1 : n;
    if (k >= rows) return;
    T* p = y + 2 * ((o * rows + k) * inner + i);
    p[0] = v.re * scale, p[1] = v.im * scale;
  }
};

// `count` transforms a block, side by side in shared memory; neighbouring threads along whatever
// lies side by side in memory.
template <class T>
__global__ void block_kernel(Job<T> job, int bits, int count) {
  DROPIN_DYNAMIC_SHARED(Complex<T>, data);
  const int n = 1 << bits, stride = count + (count > 1 ? 1 : 0);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * count, total = job.outer * job.inner;
  const bool along = job.inner == 1;
  for (int e = threadIdx.x; e < n * count; e += blockDim.x) {
    const int t = along ? e % n : e / count, k = along ? e / n : e % count;
    data[t * stride + k] = first + k < total ? job.load(first + k, t) : Complex<T>{T(0), T(0)};
  }
  __syncthreads();
  transform_down<T>(data, bits, count, stride, job.inverse ? T(1) : T(-1));
  for (int e = threadIdx.x; e < n * count; e += blockDim.x) {
    const int t = along ? e % n : e / count, k = along ? e / n : e % count;
    if (first + k < total)
      job.store(first + k, t,
                data[static_cast<int>(reversed(static_cast<unsigned>(t), bits)) * stride + k]);
  }
}

template <class T>
__global__ void pack_kernel(Job<T> job, Complex<T>* packed) {
  const int64_t total = job.outer * job.inner * job.n;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < total;
       e += static_cast<int64_t>(gridDim.x) * blockDim.x)
    packed[e] = job.load(e / job.n, e % job.n);
}
template <class T>
__global__ void unpack_kernel(Job<T> job, const Complex<T>* packed) {
  const int64_t total = job.outer * job.inner * job.n;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < total;
       e += static_cast<int64_t>(gridDim.x) * blockDim.x)
    job.store(e / job.n, e % job.n, packed[e]);
}
// By the definition, the roots from a table of n.
template <class T>
__global__ void roots_kernel(Complex<T>* roots, int64_t n, T sign) {
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < n;
       t += static_cast<int64_t>(gridDim.x) * blockDim.x)
    roots[t] = root_of(sign * static_cast<T>(2 * static_cast<double>(t) / static_cast<double>(n)));
}
template <class T>
__global__ void direct_kernel(Job<T> job, const Complex<T>* roots) {
  const int64_t total = job.outer * job.inner * job.n;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < total;
       e += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t u = e / job.n, k = e % job.n;
    Complex<T> sum{T(0), T(0)};
    int64_t at = 0;
    for (int64_t t = 0; t < job.n; ++t) {
      sum = sum + job.load(u, t) * roots[at];
      at += k;
      if (at >= job.n) at -= job.n;
    }
    job.store(u, k, sum);
  }
}

template <class T>
Status transform(const KernelContext& c, const Job<T>& job) {
  const int64_t total = job.outer * job.inner;
  if (total == 0) return abi::ok();
  int bits = 0;
  while ((int64_t{1} << bits) < job.n) ++bits;
  const int64_t room = 8192 / static_cast<int64_t>(sizeof(T) / 4);  // complex values in 64 KiB
  if ((int64_t{1} << bits) == job.n && job.n <= room) {
    int64_t count = 2048 / job.n;
    if (count > total) count = total;
    if (count > 16) count = 16;
    if (count < 1) count = 1;
    const std::size_t bytes =
        sizeof(Complex<T>) * static_cast<std::size_t>(job.n * (count + (count > 1)));
    return launch(c, &block_kernel<T>, dim3(blocks_exactly(total, count)), dim3(256), bytes, job,
                  bits, static_cast<int>(count));
  }
  const dim3 grid(blocks_for(c, total * job.n, 256)), block(256);
  {
    DROPIN_SCRATCH(Complex<T>, packed, c, total * job.n);
    DROPIN_TRY(launch(c, &pack_kernel<T>, grid, block, 0, job, packed.get()));
    const Status s = cufft_complex(c, sizeof(T) == 8, packed.get(), job.n, total, job.inverse);
    if (s.code == abi::kDone)
      return launch(c, &unpack_kernel<T>, grid, block, 0, job, packed.get());
    if (s.code != abi::kUnsupported) return s;
  }
  DROPIN_SCRATCH(Complex<T>, roots, c, job.n);
  DROPIN_TRY(launch(c, &roots_kernel<T>, dim3(blocks_for(c, job.n, 256)), block, 0, roots.get(),
                    job.n, job.inverse ? T(1) : T(-1)));
  return launch(c, &direct_kernel<T>, grid, block, 0, job, roots.get());
}

Status fft_cuda(const KernelContext& c, const FftSpec& s, const TensorIn& x, const TensorOut& y) {
  DROPIN_REQUIRE(x.dtype == y.dtype && s.n >= 1 && x.contiguous() && y.contiguous(),
                 "arrays must be contiguous and of one type, n positive");
  return visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return transform<T>(c, {x.as<T>(), y.as<T>(), s.kind, s.outer, s.n, s.inner, s.inverse,
                            static_cast<T>(s.scale)});
  });
}

}  // namespace

void provide_fft(KernelTable& t) { provide<fft, &fft_cuda>(t); }

}  // namespace dropin::kernels::cuda
