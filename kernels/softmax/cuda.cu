// Softmax and cross entropy over rows: a warp per row up to 1024 values, a block beyond. The row is
// read again from L1 or L2 instead of being kept.
#include "kernels/cuda/device.h"
#include "kernels/softmax/kernel.h"

namespace dropin::kernels::cuda {
namespace {

dim3 group_of(int64_t n) { return n <= 1024 ? dim3(32, 4) : dim3(n <= 4096 ? 256 : 512); }
unsigned grid_of(const KernelContext& c, int64_t rows, const dim3& block) {
  return blocks_for(c, rows, block.y, 32);
}

// Maximum and sum of exponentials in its units, of all values of a row.
template <class T>
__device__ void log_sum(const T* x, int64_t n, ComputeOf<T>& m, ComputeOf<T>& s,
                        ComputeOf<T>* room) {
  using C = ComputeOf<T>;
  C mine = sizeof(C) == 4 ? C(bits_float(static_cast<int>(0xff800000)))
                          : C(bits_double(static_cast<long long>(0xfff0000000000000ull)));
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const C v = wide<T>(x[i]);
    mine = v > mine ? v : mine;
  }
  m = block_reduce(mine, Larger(), mine, room);
  C sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += exp(wide<T>(x[i]) - m);
  s = block_sum(sum, room);
}

template <class T>
__global__ void softmax_kernel(const T* x, T* y, int64_t rows, int64_t n, bool log_form) {
  using C = ComputeOf<T>;
  __shared__ C room[32];
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    C m, s;
    log_sum(x + r * n, n, m, s, room);
    const C shift = log_form ? m + log(s) : m, scale = C(1) / s;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const C v = wide<T>(x[r * n + i]);
      y[r * n + i] = narrow<T>(log_form ? v - shift : exp(v - shift) * scale);
    }
  }
}

template <class T>
__global__ void softmax_grad_kernel(const T* g, const T* y, T* gx, int64_t rows, int64_t n,
                                    bool log_form) {
  using C = ComputeOf<T>;
  __shared__ C room[32];
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    C sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      sum += log_form ? wide<T>(g[r * n + i]) : wide<T>(g[r * n + i]) * wide<T>(y[r * n + i]);
    sum = block_sum(sum, room);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const C gi = wide<T>(g[r * n + i]), yi = wide<T>(y[r * n + i]);
      gx[r * n + i] = narrow<T>(log_form ? gi - exp(yi) * sum : yi * (gi - sum));
    }
  }
}

bool alike(const TensorIn& a, const TensorIn& b) {
  return a.dtype == b.dtype && same_sizes(a, b) && a.contiguous() && b.contiguous();
}

Status forward(const KernelContext& c, const TensorIn& x, bool log, const TensorOut& y) {
  const int64_t total = x.numel();
  if (total == 0) return abi::ok();
  DROPIN_REQUIRE(alike(x, y) && x.ndim > 0, "x and y must be contiguous and alike");
  const int64_t n = x.sizes[x.ndim - 1];
  const dim3 block = group_of(n);
  return visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &softmax_kernel<T>, dim3(grid_of(c, total / n, block)), block, 0, x.as<T>(),
                  y.as<T>(), total / n, n, log);
  });
}
Status backward(const KernelContext& c, const TensorIn& g, const TensorIn& y, bool log,
                const TensorOut& gx) {
  const int64_t total = y.numel();
  if (total == 0) return abi::ok();
  DROPIN_REQUIRE(alike(g, y) && alike(y, gx) && y.ndim > 0,
                 "g, y and gx must be contiguous and alike");
  const int64_t n = y.sizes[y.ndim - 1];
  const dim3 block = group_of(n);
  return visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &softmax_grad_kernel<T>, dim3(grid_of(c, total / n, block)), block, 0,
                  g.as<T>(), y.as<T>(), gx.as<T>(), total / n, n, log);
  });
}

// --- cross entropy

__global__ void check_targets_kernel(const int64_t* target, int64_t rows, int64_t classes,
                                     int64_t ignore, int* bad) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    if (target[i] != ignore && (target[i] < 0 || target[i] >= classes)) *bad = 1;
}

template <class T>
__global__ void entropy_kernel(const T* x, const int64_t* target, const T* weight, int64_t ignore,
                               double smoothing, T* loss, T* lse, int64_t rows, int64_t n) {
  __shared__ T room[32];
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const T* row = x + r * n;
    T m, s;
    log_sum(row, n, m, s, room);
    const T l = m + log(s);
    T smooth = 0;
    if (smoothing > 0) {
      for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        smooth += (weight ? weight[i] : T(1)) * (l - row[i]);
      smooth = block_sum(smooth, room);
    }
    if (threadIdx.x == 0) {
      const int64_t t = target[r];
      lse[r] = l;
      loss[r] = t == ignore
                    ? T(0)
                    : static_cast<T>(1 - smoothing) * (weight ? weight[t] : T(1)) * (l - row[t]) +
                          static_cast<T>(smoothing / static_cast<double>(n)) * smooth;
    }
  }
}

template <class T>
__global__ void entropy_grad_kernel(const T* g, const T* x, const int64_t* target, const T* weight,
                                    int64_t ignore, double smoothing, const T* lse, T* gx,
                                    int64_t rows, int64_t n) {
  __shared__ T room[32];
  const T share = static_cast<T>(smoothing / static_cast<double>(n)),
          rest = static_cast<T>(1 - smoothing);
  T all = static_cast<T>(n);
  if (weight && smoothing > 0) {
    T mine = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) mine += weight[i];
    all = block_sum(mine, room);
  }
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; r < rows;
       r += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    const int64_t t = target[r];
    const T gr = g[r], l = lse[r];
    const T wt = t == ignore ? T(0) : rest * (weight ? weight[t] : T(1));
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
      const T p = exp(x[r * n + i] - l);
      const T v =
          wt * (p - (i == t ? T(1) : T(0))) + share * (p * all - (weight ? weight[i] : T(1)));
      gx[r * n + i] = t == ignore ? T(0) : gr * v;
    }
  }
}

Status check(const KernelContext& c, const CrossEntropyInputs& in) {
  const TensorIn &x = in.logits, &target = in.target, &weight = in.weight;
  DROPIN_REQUIRE(x.ndim == 2 && x.contiguous() && target.ndim == 1 &&
                     target.sizes[0] == x.sizes[0] && target.contiguous() &&
                     target.dtype == DType::Int64,
                 "logits must be [n, c] and target [n] int64, both contiguous");
  DROPIN_REQUIRE(!weight.data || (weight.dtype == x.dtype && weight.numel() == x.sizes[1] &&
                                  weight.contiguous()),
                 "weight must be [c], of the logits' dtype");
  if (x.sizes[0] == 0) return abi::ok();
  DROPIN_SCRATCH(int, bad, c, 1);
  DROPIN_TRY(checked(cudaMemsetAsync(bad.get(), 0, sizeof(int), stream_of(c)), c));
  DROPIN_TRY(launch(c, &check_targets_kernel, dim3(blocks_for(c, x.sizes[0], 256)), dim3(256), 0,
                    target.as<int64_t>(), x.sizes[0], x.sizes[1], in.ignore_index, bad.get()));
  int any = 0;
  DROPIN_TRY(fetch(c, &any, bad.get(), sizeof any));
  return any ? abi::out_of_range("target out of range") : abi::ok();
}

Status entropy(const KernelContext& c, const CrossEntropyInputs& in, const TensorOut& loss,
               const TensorOut& lse) {
  const TensorIn& x = in.logits;
  DROPIN_TRY(check(c, in));
  const dim3 block = group_of(x.sizes[1]);
  return visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &entropy_kernel<T>, dim3(grid_of(c, x.sizes[0], block)), block, 0, x.as<T>(),
                  in.target.as<int64_t>(), in.weight.as<T>(), in.ignore_index, in.label_smoothing,
                  loss.as<T>(), lse.as<T>(), x.sizes[0], x.sizes[1]);
  });
}
// forward has checked the targets
Status entropy_grad(const KernelContext& c, const TensorIn& g, const CrossEntropyInputs& in,
                    const TensorIn& lse, const TensorOut& gx) {
  const TensorIn& x = in.logits;
  const dim3 block = group_of(x.sizes[1]);
  return visit_real(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &entropy_grad_kernel<T>, dim3(grid_of(c, x.sizes[0], block)), block, 0,
                  g.as<T>(), x.as<T>(), in.target.as<int64_t>(), in.weight.as<T>(), in.ignore_index,
                  in.label_smoothing, lse.as<T>(), gx.as<T>(), x.sizes[0], x.sizes[1]);
  });
}

}  // namespace

void provide_softmax(KernelTable& t) {
  provide<softmax_forward, &forward>(t);
  provide<softmax_backward, &backward>(t);
  provide<cross_entropy_forward, &entropy>(t);
  provide<cross_entropy_backward, &entropy_grad>(t);
}

}  // namespace dropin::kernels::cuda
