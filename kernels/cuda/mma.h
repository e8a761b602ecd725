// Tensor-core products of a warp, m16n8: C[16, 8] += A[16, k] B[k, 8], k = 16 for bf16 and f16, 8
// for f32. f32 goes as three TF32 products of high and low parts, which keeps 21 bits of the
// mantissa. Accumulators are f32. With g = lane / 4 and t = lane % 4 a lane holds
//   C: c[0], c[1] = (g, 2t), (g, 2t + 1); c[2], c[3] = (g + 8, 2t), (g + 8, 2t + 1)
//   A 16 bit: a[0] = (g, 2t..2t+1), a[1] = (g + 8, 2t..), a[2] = (g, 2t + 8..), a[3] = (g + 8, 2t
//   + 8..), two values a register, the first in the lower half B 16 bit: b[0] = (2t..2t+1, g), b[1]
//   = (2t + 8.., g) A f32: a[0] = (g, t), a[1] = (g + 8, t), a[2] = (g, t + 4), a[3] = (g + 8, t +
//   4); B f32: b[0] = (t, g), b[1] = (t + 4, g)
// 16-bit tiles come from shared memory by ldmatrix: four 8 x 8 matrices at once, their rows at the
// addresses of lanes 0..7, 8..15, 16..23, 24..31; lane l gets values (l / 4, 2 (l % 4) ..+1) of
// each, or, transposed, (2 (l % 4) ..+1, l / 4). The host executor gathers the registers (or
// addresses) of all lanes and does as these tables say.
#pragma once
#include "kernels/cuda/device.h"

namespace dropin::kernels::cuda {

template <class T>
struct Mma;

#ifdef __CUDACC__
__device__ __forceinline__ float to_tf32(float x) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return __uint_as_float(r);
}
__device__ __forceinline__ void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
__device__ __forceinline__ void mma_16(float (&c)[4], const unsigned (&a)[4],
                                       const unsigned (&b)[2], bf16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_16(float (&c)[4], const unsigned (&a)[4],
                                       const unsigned (&b)[2], f16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void* row) {
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
#else
template <bool kTransposed>
void load_matrices(unsigned (&r)[4], const void* row) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16)
    cuda_host::stop("a row for ldmatrix that does not begin at a multiple of 16 bytes");
  const unsigned char* all = cuda_host::exchange(&row, sizeof row);
  const int g = cuda_host::lane() / 4, t = cuda_host::lane() % 4;
  for (int m = 0; m < 4; ++m) {
    auto value = [&](int i, int j) {
      const std::uint16_t* p;
      std::memcpy(&p, all + 128 * (8 * m + i), sizeof p);
      return static_cast<unsigned>(p[j]);
    };
    r[m] = kTransposed ? value(2 * t, g) | value(2 * t + 1, g) << 16
                       : value(g, 2 * t) | value(g, 2 * t + 1) << 16;
  }
}
inline float to_tf32(float x) {
  const int b = float_bits(x);
  return (b & 0x7f800000) == 0x7f800000 ? x : bits_float((b + 0x1000) & ~0x1fff);
}
struct HostFragment {
  unsigned a[4], b[2];
};
// value (row, k) of A and (k, column) of B out of all lanes' registers
template <class Value>
void host_mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], int depth,
              Value value) {
  HostFragment mine;
  std::memcpy(mine.a, a, 16), std::memcpy(mine.b, b, 8);
  const unsigned char* all = cuda_host::exchange(&mine, sizeof mine);
  const int lane = cuda_host::lane(), g = lane / 4, t = lane % 4;
  auto of = [&](int l) { return reinterpret_cast<const HostFragment*>(all + 128 * l); };
  for (int i = 0; i < 4; ++i) {
    const int row = g + (i >= 2 ? 8 : 0), column = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < depth; ++k) sum += value(of, true, row, k) * value(of, false, column, k);
    c[i] += sum;
  }
}
inline void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  unsigned x[4], y[2];
  std::memcpy(x, a, 16), std::memcpy(y, b, 8);
  host_mma(c, x, y, 8, [](auto of, bool first, int i, int k) {
    const unsigned bits =
        first ? of(i % 8 * 4 + k % 4)->a[(i >= 8) + 2 * (k >= 4)] : of(i * 4 + k % 4)->b[k >= 4];
    return bits_float(static_cast<int>(bits));
  });
}
template <class T>
void mma_16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], T) {
  host_mma(c, a, b, 16, [](auto of, bool first, int i, int k) {
    const int t = k % 8 / 2;
    const unsigned bits =
        first ? of(i % 8 * 4 + t)->a[(i >= 8) + 2 * (k >= 8)] : of(i * 4 + t)->b[k >= 8];
    T v;
    v.bits = static_cast<std::uint16_t>(bits >> (16 * (k % 2)));
    return to_float(v);
  });
}
#endif

// Copies of 16 bytes from global to shared memory beside the work. A thread's copies since its last
// copies_commit() are a group; copies_wait<n>() returns when all its groups but the last n have
// arrived, for this thread: others see them after a barrier. The host executor copies as late as
// that, or, in other orders of threads, at once.
#ifdef __CUDACC__
/// Without `there`, zeros.
__device__ __forceinline__ void copy_16(void* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(__cvta_generic_to_global(global)), "r"(there ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
#else
inline void copy_16(void* shared, const void* global, bool there) {
  cuda_host::copy_later(shared, global, there);
}
inline void copies_commit() { cuda_host::commit_copies(); }
template <int kLeft>
void copies_wait() {
  cuda_host::wait_for_copies(kLeft);
}
#endif

template <class T>
__device__ __forceinline__ unsigned pack2(float low, float high) {
  T a, b;
  from_float(low, a), from_float(high, b);
  return static_cast<unsigned>(a.bits) | static_cast<unsigned>(b.bits) << 16;
}

// 16-bit types. Tiles in shared memory are rows of `ld` values.
template <class T>
struct Mma {
  static constexpr int kDepth = 16, kTilesPerA = 2;  ///< accumulator tiles that make one A
  struct A {
    unsigned r[4];
  };
  struct B {
    unsigned r[2];
  };
  struct Pair {
    B b[2];
  };
  /// A = rows row0.. of m[row][k], from column k0.
  static __device__ __forceinline__ A load_a(const T* m, int ld, int row0, int k0) {
    const int lane = threadIdx.x % 32;
    A a;
    load_matrices<false>(a.r, m + (row0 + lane % 16) * ld + k0 + lane / 16 * 8);
    return a;
  }
  /// Two B of neighbouring columns: transposed rows n0.. and n0 + 8.. of m[n][k].
  static __device__ __forceinline__ Pair load_b_rows(const T* m, int ld, int n0, int k0) {
    const int lane = threadIdx.x % 32;
    unsigned r[4];
    load_matrices<false>(r, m + (n0 + lane % 8 + lane / 16 * 8) * ld + k0 + lane / 8 % 2 * 8);
    return {{{{r[0], r[1]}}, {{r[2], r[3]}}}};
  }
  /// Two B: rows k0.. of m[k][n], columns n0.. and n0 + 8..
  static __device__ __forceinline__ Pair load_b_columns(const T* m, int ld, int k0, int n0) {
    const int lane = threadIdx.x % 32;
    unsigned r[4];
    load_matrices<true>(r, m + (k0 + lane % 16) * ld + n0 + lane / 16 * 8);
    return {{{{r[0], r[1]}}, {{r[2], r[3]}}}};
  }
  /// Accumulator tiles c[0], c[1] (columns 0..15) as A, rounded.
  static __device__ __forceinline__ A from_c(const float (*c)[4]) {
    return {{pack2<T>(c[0][0], c[0][1]), pack2<T>(c[0][2], c[0][3]), pack2<T>(c[1][0], c[1][1]),
             pack2<T>(c[1][2], c[1][3])}};
  }
  static __device__ __forceinline__ void run(float (&c)[4], const A& a, const B& b) {
    mma_16(c, a.r, b.r, T{});
  }
};

template <>
struct Mma<float> {
  static constexpr int kDepth = 8, kTilesPerA = 1;
  struct A {
    float r[4];
  };
  struct B {
    float r[2];
  };
  static __device__ __forceinline__ A load_a(const float* m, int ld, int row0, int k0) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float* p = m + (row0 + g) * ld + k0 + t;
    return {{p[0], p[8 * ld], p[4], p[8 * ld + 4]}};
  }
  struct Pair {
    B b[2];
  };
  static __device__ __forceinline__ Pair load_b_rows(const float* m, int ld, int n0, int k0) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float *p = m + (n0 + g) * ld + k0 + t, *q = p + 8 * ld;
    return {{{{p[0], p[4]}}, {{q[0], q[4]}}}};
  }
  // A column t of A is row 2t of m here and column t + 4 is row 2t + 1: as from_c gives them
  static __device__ __forceinline__ Pair load_b_columns(const float* m, int ld, int k0, int n0) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float* p = m + (k0 + 2 * t) * ld + n0 + g;
    return {{{{p[0], p[ld]}}, {{p[8], p[ld + 8]}}}};
  }
  static __device__ __forceinline__ A from_c(const float (*c)[4]) {
    return {{c[0][0], c[0][2], c[0][1], c[0][3]}};
  }
  static __device__ __forceinline__ void run(float (&c)[4], const A& a, const B& b) {
    float ah[4], al[4], bh[2], bl[2];
    DROPIN_UNROLL
    for (int i = 0; i < 4; ++i)
      ah[i] = to_tf32(a.r[i]), al[i] = ah[i] == a.r[i] ? 0.0f : to_tf32(a.r[i] - ah[i]);
    DROPIN_UNROLL
    for (int i = 0; i < 2; ++i)
      bh[i] = to_tf32(b.r[i]), bl[i] = bh[i] == b.r[i] ? 0.0f : to_tf32(b.r[i] - bh[i]);
    mma_tf32(c, al, bh);
    mma_tf32(c, ah, bl);
    mma_tf32(c, ah, bh);
  }
};

}  // namespace dropin::kernels::cuda
