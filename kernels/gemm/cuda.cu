// Matrix products: cuBLASLt where it is there and takes the layout; else a product in tiles of
// shared memory, any strides; few and short dot products one thread each.
#include "kernels/gemm/kernel.h"
#include "kernels/gemm/lt.h"

namespace dropin::kernels::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kSide = 16;  // 16 x 16 threads, 4 x 4 results each

template <class T>
struct Product {
  const T *a, *b, *bias;
  T* c;
  int64_t M, N, K, ar, ac, at, br, bc, bt, cr, cc, ct;
  double beta;
};

template <class T>
__device__ void finish(const Product<T>& p, int64_t t, int64_t i, int64_t j, ComputeOf<T> sum) {
  using C = ComputeOf<T>;
  T& to = p.c[t * p.ct + i * p.cr + j * p.cc];
  if (p.bias) sum += wide<T>(p.bias[j]);
  if (p.beta != 0) sum += static_cast<C>(p.beta) * wide<T>(to);
  to = narrow<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kSide* kSide) tiled_kernel(Product<T> p) {
  using C = ComputeOf<T>;
  __shared__ C as[kDepth][kTile + 4], bs[kDepth][kTile + 4];
  const int tid = threadIdx.x, ty = tid / kSide, tx = tid % kSide;
  const int64_t i0 = static_cast<int64_t>(blockIdx.y) * kTile,
                j0 = static_cast<int64_t>(blockIdx.x) * kTile, t = blockIdx.z;
  const T *a = p.a + t * p.at, *b = p.b + t * p.bt;
  C acc[4][4] = {};
  for (int64_t k0 = 0; k0 < p.K; k0 += kDepth) {
    DROPIN_UNROLL
    for (int r = 0; r < kTile * kDepth / (kSide * kSide); ++r) {
      const int e = tid + r * kSide * kSide;
      // neighbouring threads along the side that is dense in memory
      const int ai = p.ac == 1 ? e / kDepth : e % kTile, ak = p.ac == 1 ? e % kDepth : e / kTile;
      const int bk = p.bc == 1 ? e / kTile : e % kDepth, bj = p.bc == 1 ? e % kTile : e / kDepth;
      as[ak][ai] =
          i0 + ai < p.M && k0 + ak < p.K ? wide<T>(a[(i0 + ai) * p.ar + (k0 + ak) * p.ac]) : C(0);
      bs[bk][bj] =
          j0 + bj < p.N && k0 + bk < p.K ? wide<T>(b[(k0 + bk) * p.br + (j0 + bj) * p.bc]) : C(0);
    }
    __syncthreads();
    DROPIN_UNROLL
    for (int k = 0; k < kDepth; ++k) {
      C u[4], v[4];
      DROPIN_UNROLL
      for (int x = 0; x < 4; ++x) u[x] = as[k][ty * 4 + x], v[x] = bs[k][tx * 4 + x];
      DROPIN_UNROLL
      for (int x = 0; x < 4; ++x) DROPIN_UNROLL
      for (int y = 0; y < 4; ++y) acc[x][y] += u[x] * v[y];
    }
    __syncthreads();
  }
  for (int x = 0; x < 4; ++x)
    for (int y = 0; y < 4; ++y)
      if (i0 + ty * 4 + x < p.M && j0 + tx * 4 + y < p.N)
        finish(p, t, i0 + ty * 4 + x, j0 + tx * 4 + y, acc[x][y]);
}

template <class T>
__global__ void small_kernel(Product<T> p, int64_t total) {
  using C = ComputeOf<T>;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; n < total;
       n += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t j = n % p.N, i = n / p.N % p.M, t = n / (p.N * p.M);
    const T *a = p.a + t * p.at + i * p.ar, *b = p.b + t * p.bt + j * p.bc;
    C sum = 0;
    for (int64_t k = 0; k < p.K; ++k) sum += wide<T>(a[k * p.ac]) * wide<T>(b[k * p.br]);
    finish(p, t, i, j, sum);
  }
}

template <class T>
Status product(const KernelContext& c, DType dtype, int64_t count, Product<T> p) {
  if (count == 0 || p.M == 0 || p.N == 0) return abi::ok();
  const bool tiny = p.M * p.N <= 4096 && p.K <= 128;
  if (!tiny && p.cc == 1 && p.K > 0) {
    const Status s = lt_matmul(c, dtype, count, p.M, p.N, p.K, {p.a, p.ar, p.ac, p.at},
                               {p.b, p.br, p.bc, p.bt}, p.beta, p.bias, {p.c, p.cr, p.cc, p.ct});
    if (s.code != abi::kUnsupported) return s;
  }
  if (tiny) {
    const int64_t total = count * p.M * p.N;
    return launch(c, &small_kernel<T>, dim3(blocks_for(c, total, 128)), dim3(128), 0, p, total);
  }
  const dim3 grid(blocks_exactly(p.N, kTile), blocks_exactly(p.M, kTile), 1);
  if (grid.y > 65535) return abi::failed("too many rows for the kernel without cuBLASLt");
  for (int64_t t = 0; t < count; t += 65535) {  // what a grid holds
    Product<T> part = p;
    part.a += t * p.at, part.b += t * p.bt, part.c += t * p.ct;
    DROPIN_TRY(
        launch(c, &tiled_kernel<T>,
               dim3(grid.x, grid.y, static_cast<unsigned>(count - t < 65535 ? count - t : 65535)),
               dim3(kSide * kSide), 0, part));
  }
  return abi::ok();
}

Status matmul_cuda(const KernelContext& c, const TensorIn& a, const TensorIn& b, double beta,
                   const TensorOut& y) {
  DROPIN_REQUIRE(a.ndim == 3 && b.ndim == 3 && y.ndim == 3 && a.sizes[0] == y.sizes[0] &&
                     b.sizes[0] == y.sizes[0] && a.sizes[1] == y.sizes[1] &&
                     b.sizes[2] == y.sizes[2] && a.sizes[2] == b.sizes[1],
                 "sizes do not fit");
  DROPIN_REQUIRE(a.dtype == b.dtype && a.dtype == y.dtype, "dtypes differ");
  return visit_float(a.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    return product<T>(c, a.dtype, y.sizes[0],
                      {a.as<T>(), b.as<T>(), nullptr, y.as<T>(), y.sizes[1], y.sizes[2], a.sizes[2],
                       a.strides[1], a.strides[2], a.strides[0], b.strides[1], b.strides[2],
                       b.strides[0], y.strides[1], y.strides[2], y.strides[0], beta});
  });
}

Status linear_cuda(const KernelContext& c, const TensorIn& x, const TensorIn& w,
                   const TensorIn& bias, const TensorOut& y) {
  DROPIN_REQUIRE(x.ndim == 2 && w.ndim == 2 && y.ndim == 2 && x.sizes[1] == w.sizes[1] &&
                     y.sizes[0] == x.sizes[0] && y.sizes[1] == w.sizes[0],
                 "sizes do not fit");
  DROPIN_REQUIRE(x.dtype == w.dtype && x.dtype == y.dtype && (!bias.data || bias.dtype == x.dtype),
                 "dtypes differ");
  return visit_float(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    return product<T>(c, x.dtype, 1,
                      {x.as<T>(), w.as<T>(), bias.as<T>(), y.as<T>(), x.sizes[0], w.sizes[0],
                       x.sizes[1], x.strides[0], x.strides[1], 0, w.strides[1], w.strides[0], 0,
                       y.strides[0], y.strides[1], 0, 0.0});
  });
}

}  // namespace

/// For other folders that are products at heart.
Status product_f(const KernelContext& c, const TensorIn& a, const TensorIn& b, double beta,
                 const TensorOut& y) {
  return matmul_cuda(c, a, b, beta, y);
}

void provide_gemm(KernelTable& t) {
  provide<matmul, &matmul_cuda>(t);
  provide<linear_forward, &linear_cuda>(t);
}

}  // namespace dropin::kernels::cuda
