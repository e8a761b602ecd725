// Suppression on the device. fast: a thread per box, until an earlier one overlaps. greedy: who
// overlaps whom as bits, 64 boxes by 64, in parallel; then one block walks the list 64 boxes at a
// time: within the 64 a thread decides in turn, then all threads merge the rows of those that
// stayed into the bits of the rest.
#include "kernels/cuda/device.h"
#include "kernels/suppression/kernel.h"

namespace dropin::kernels::cuda {
namespace {

struct Box {
  double x1, y1, x2, y2;
};
template <class T>
__device__ Box box_at(const T* p) {
  const Box b{static_cast<double>(p[0]), static_cast<double>(p[1]), static_cast<double>(p[2]),
              static_cast<double>(p[3])};
  const double w = b.x2 - b.x1, h = b.y2 - b.y1, inf = bits_double(0x7ff0000000000000ll);
  return w > 0 && h > 0 && w < inf && h < inf ? b : Box{0, 0, 0, 0};  // one that overlaps nothing
}
__device__ inline double overlap(const Box& a, const Box& b) {
  const double w = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1),
               h = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
  if (!(w > 0) || !(h > 0)) return 0;
  const double inter = w * h,
               all = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - inter;
  return all > 0 ? inter / all : 0;
}

template <class T>
__global__ void fast_kernel(const T* boxes, const int64_t* order, int64_t n, double threshold,
                            std::uint8_t* kept) {
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; j < n;
       j += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const Box b = box_at(boxes + 4 * order[j]);
    bool stays = true;
    for (int64_t i = 0; i < j && stays; ++i)
      stays = !(overlap(box_at(boxes + 4 * order[i]), b) > threshold);
    kept[j] = stays;
  }
}

// bits[i, w]: which of the boxes 64 w .. 64 w + 63 after i overlap i too much. A block of 64
// threads per pair of groups.
template <class T>
__global__ void __launch_bounds__(64)
    overlap_kernel(const T* boxes, const int64_t* order, int64_t n, double threshold,
                   std::uint64_t* bits) {
  __shared__ Box others[64];
  const int64_t words = ceil_div(n, 64);
  for (int64_t u = blockIdx.x; u < words * words; u += gridDim.x) {
    const int64_t row = u / words, column = u % words;
    if (column < row) continue;
    __syncthreads();
    const int64_t j = column * 64 + threadIdx.x, i = row * 64 + threadIdx.x;
    others[threadIdx.x] = j < n ? box_at(boxes + 4 * order[j]) : Box{0, 0, 0, 0};
    __syncthreads();
    if (i >= n) continue;
    const Box b = box_at(boxes + 4 * order[i]);
    std::uint64_t word = 0;
    for (int k = row == column ? static_cast<int>(threadIdx.x) + 1 : 0; k < 64; ++k)
      if (overlap(b, others[k]) > threshold) word |= std::uint64_t{1} << k;
    bits[i * words + column] = word;
  }
}
__global__ void walk_kernel(const std::uint64_t* bits, int64_t n, std::uint64_t* gone,
                            std::uint8_t* kept) {
  __shared__ std::uint64_t stayed;
  const int64_t words = ceil_div(n, 64);
  for (int64_t w = threadIdx.x; w < words; w += blockDim.x) gone[w] = 0;
  __syncthreads();
  for (int64_t g = 0; g < words; ++g) {
    if (threadIdx.x == 0) {
      std::uint64_t out = gone[g], in = 0;
      for (int k = 0; k < 64 && g * 64 + k < n; ++k) {
        if (out >> k & 1) continue;
        in |= std::uint64_t{1} << k;
        out |= bits[(g * 64 + k) * words + g];
      }
      stayed = in;
    }
    __syncthreads();
    const std::uint64_t in = stayed;
    if (threadIdx.x < 64 && g * 64 + threadIdx.x < n)
      kept[g * 64 + threadIdx.x] = in >> threadIdx.x & 1;
    for (int64_t w = g + 1 + threadIdx.x; w < words; w += blockDim.x) {
      std::uint64_t all = gone[w];
      for (int k = 0; k < 64; ++k)
        if (in >> k & 1) all |= bits[(g * 64 + k) * words + w];
      gone[w] = all;
    }
    __syncthreads();
  }
}

template <bool kGreedy>
Status suppress(const KernelContext& c, const TensorIn& boxes, const TensorIn& order,
                const TensorIn& starts, double threshold, const TensorOut& kept) {
  DROPIN_REQUIRE(boxes.ndim == 2 && boxes.sizes[1] == 4 && boxes.contiguous() &&
                     order.contiguous() && starts.contiguous() && kept.contiguous() &&
                     starts.numel() >= 1 && order.dtype == DType::Int64 &&
                     starts.dtype == DType::Int64 && kept.dtype == DType::UInt8,
                 "suppression: arrays do not fit");
  const int64_t lists = starts.numel() - 1;
  constexpr int64_t kMostLists = 65536;
  DROPIN_REQUIRE(lists <= kMostLists, "suppression: too many lists");
  struct Starts {  // on the host, without an exception
    int64_t* p;
    explicit Starts(int64_t n)
        : p(static_cast<int64_t*>(malloc(static_cast<std::size_t>(n) * sizeof(int64_t)))) {}
    ~Starts() { free(p); }
  } s(lists + 1);
  if (!s.p) return abi::out_of_memory("no memory for the lists' starts");
  DROPIN_TRY(fetch(c, s.p, starts.data, (lists + 1) * static_cast<int64_t>(sizeof(int64_t))));
  int64_t longest = 0;
  for (int64_t l = 0; l < lists; ++l)
    longest = s.p[l + 1] - s.p[l] > longest ? s.p[l + 1] - s.p[l] : longest;
  const int64_t most = ceil_div(longest, 64);
  DROPIN_SCRATCH(std::uint64_t, bits, c, kGreedy ? longest * most : 0);
  DROPIN_SCRATCH(std::uint64_t, gone, c, kGreedy ? most : 0);
  return visit_real(boxes.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    for (int64_t l = 0; l < lists; ++l) {
      const int64_t n = s.p[l + 1] - s.p[l];
      const int64_t* o = order.as<int64_t>() + s.p[l];
      std::uint8_t* k = kept.as<std::uint8_t>() + s.p[l];
      if (n == 0) continue;
      if constexpr (kGreedy) {
        const int64_t words = ceil_div(n, 64);
        DROPIN_TRY(launch(c, &overlap_kernel<T>, dim3(blocks_for(c, words * words, 1, 64)),
                          dim3(64), 0, boxes.as<T>(), o, n, threshold, bits.get()));
        DROPIN_TRY(launch(c, &walk_kernel, dim3(1), dim3(words <= 64 ? 64 : 512), 0, bits.get(), n,
                          gone.get(), k));
      } else {
        DROPIN_TRY(launch(c, &fast_kernel<T>, dim3(blocks_for(c, n, 128)), dim3(128), 0,
                          boxes.as<T>(), o, n, threshold, k));
      }
    }
    return abi::ok();
  });
}

}  // namespace

void provide_suppression(KernelTable& t) {
  provide<greedy_suppression, &suppress<true>>(t);
  provide<fast_suppression, &suppress<false>>(t);
}

}  // namespace dropin::kernels::cuda
