#include "kernels/gemm/lt.h"

#ifdef __CUDACC__
#include <cublasLt.h>

#include <map>
#include <mutex>
#include <tuple>

#include "kernels/cuda/library.h"

namespace dropin::kernels::cuda {
namespace {

struct Library : OpenedLibrary {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;

  Library()
      : OpenedLibrary(
            {"libcublasLt.so.13", "libcublasLt.so", "/usr/local/cuda/lib64/libcublasLt.so.13"}) {
    find(create, "cublasLtCreate");
    find(matmul, "cublasLtMatmul");
    find(desc_create, "cublasLtMatmulDescCreate");
    find(desc_destroy, "cublasLtMatmulDescDestroy");
    find(desc_set, "cublasLtMatmulDescSetAttribute");
    find(layout_create, "cublasLtMatrixLayoutCreate");
    find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    find(layout_set, "cublasLtMatrixLayoutSetAttribute");
    find(preference_create, "cublasLtMatmulPreferenceCreate");
    find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
  }
};
Library& library() {
  static Library* l = new Library;
  return *l;
}

constexpr int kMaxDevices = 16;
constexpr std::size_t kWorkspace = std::size_t{32} << 20;

struct PerDevice {
  std::once_flag once;
  cublasLtHandle_t handle = nullptr;
};
PerDevice per_device[kMaxDevices];

// A description that exists once per shape: creating it and asking for an algorithm takes longer
// than a small product.
struct Plan {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algo{};
  bool usable = false;
};
// What an algorithm depends on.
struct Problem {
  int device = 0;
  DType dtype = DType::Float32;
  bool ta = false, tb = false, biased = false, added = false;
  int64_t count = 0, M = 0, N = 0, K = 0, lda = 0, ldb = 0, ldc = 0, a_batch = 0, b_batch = 0,
          out_batch = 0;
  int align = 0;
  bool wide() const { return dtype == DType::Float64; }
  auto key() const {
    return std::make_tuple(device, static_cast<int>(dtype), ta, tb, biased, added, count, M, N, K,
                           lda, ldb, ldc, a_batch, b_batch, out_batch, align);
  }
};
using Key = decltype(Problem().key());
std::mutex plans_mutex;
std::map<Key, Plan>& plans() {
  static auto* p = new std::map<Key, Plan>;
  return *p;
}

// As a column-major matrix: rows that lie side by side are its columns. -1: neither way.
int64_t leading(const Operand& m, int64_t rows, int64_t cols, bool& transposed) {
  if ((m.col == 1 || cols == 1) && (m.row >= cols || rows == 1)) {
    transposed = false;
    return rows == 1 ? (cols > 1 ? cols : 1) : m.row;
  }
  if ((m.row == 1 || rows == 1) && (m.col >= rows || cols == 1)) {
    transposed = true;
    return cols == 1 ? (rows > 1 ? rows : 1) : m.col;
  }
  return -1;
}

int alignment(const void* p) {
  const auto v = reinterpret_cast<std::uintptr_t>(p);
  return v % 16 == 0 ? 16 : v % 8 == 0 ? 8 : v % 4 == 0 ? 4 : 2;
}

// The descriptions of a problem and the algorithm for it; `usable` tells whether there is one.
void make_plan(const Library& l, cublasLtHandle_t handle, const Problem& q, const void* bias,
               Plan& p) {
  const cudaDataType_t type = q.dtype == DType::Float64    ? CUDA_R_64F
                              : q.dtype == DType::BFloat16 ? CUDA_R_16BF
                              : q.dtype == DType::Float16  ? CUDA_R_16F
                                                           : CUDA_R_32F;
  bool good = true;
  auto ok = [&](auto call) { good = good && call() == CUBLAS_STATUS_SUCCESS; };
  auto layout = [&](cublasLtMatrixLayout_t& m, bool transposed, int64_t rows, int64_t cols,
                    int64_t ld, int64_t stride) {
    // column-major: a row-major rows x cols is cols x rows
    const auto r = static_cast<std::uint64_t>(transposed ? rows : cols),
               c = static_cast<std::uint64_t>(transposed ? cols : rows);
    const int n = static_cast<int>(q.count);
    ok([&] { return l.layout_create(&m, type, r, c, ld); });
    ok([&] { return l.layout_set(m, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n); });
    ok([&] {
      return l.layout_set(m, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    });
  };
  auto describe = [&](cublasLtMatmulDescAttributes_t what, const auto& value) {
    ok([&] { return l.desc_set(p.desc, what, &value, sizeof value); });
  };
  ok([&] {
    return l.desc_create(&p.desc, q.wide() ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                         q.wide() ? CUDA_R_64F : CUDA_R_32F);
  });
  layout(p.a, q.ta, q.M, q.K, q.lda, q.a_batch);
  layout(p.b, q.tb, q.K, q.N, q.ldb, q.b_batch);
  layout(p.c, false, q.M, q.N, q.ldc, q.out_batch);
  describe(CUBLASLT_MATMUL_DESC_TRANSA, q.tb ? CUBLAS_OP_T : CUBLAS_OP_N);
  describe(CUBLASLT_MATMUL_DESC_TRANSB, q.ta ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (bias) {
    describe(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    describe(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  cublasLtMatmulPreference_t preference = nullptr;
  ok([&] { return l.preference_create(&preference); });
  if (!good) return;
  const std::uint64_t room = kWorkspace;
  const std::uint32_t bytes = static_cast<std::uint32_t>(q.align);
  l.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
  for (auto which :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    l.preference_set(preference, which, &bytes, sizeof bytes);
  cublasLtMatmulHeuristicResult_t found{};
  int n = 0;
  p.usable = l.heuristic(handle, p.desc, p.b, p.a, p.c, p.c, preference, 1, &found, &n) ==
                 CUBLAS_STATUS_SUCCESS &&
             n > 0;
  p.algo = found.algo;
  l.preference_destroy(preference);
}

// Under the lock: the description holds the bias's address until the call has read it.
Status run_plan(const KernelContext& c, const Library& l, cublasLtHandle_t handle, bool wide,
                const Plan& plan, const Operand& a, const Operand& b, double beta,
                const Operand& out) {
  DROPIN_SCRATCH(char, workspace, c, static_cast<int64_t>(kWorkspace));
  const float alpha32 = 1, beta32 = static_cast<float>(beta);
  const double alpha64 = 1, beta64 = beta;
  const void *alpha = wide ? static_cast<const void*>(&alpha64) : &alpha32,
             *old = wide ? static_cast<const void*>(&beta64) : &beta32;
  void* to = const_cast<void*>(out.data);
  const cublasStatus_t status =
      l.matmul(handle, plan.desc, alpha, b.data, plan.b, a.data, plan.a, old, to, plan.c, to,
               plan.c, &plan.algo, workspace.get(), kWorkspace, stream_of(c));
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
    return abi::unsupported("cuBLASLt does not take this");
  if (status != CUBLAS_STATUS_SUCCESS) return abi::device_failed("cuBLASLt failed");
  return checked(cudaGetLastError(), c);
}

}  // namespace

// Row-major c = a b is column-major c' = b' a', so b is cuBLAS's first operand.
Status lt_matmul(const KernelContext& c, DType dtype, int64_t count, int64_t M, int64_t N,
                 int64_t K, const Operand& a, const Operand& b, double beta, const void* bias,
                 const Operand& out) {
  Library& l = library();
  if (!l.there) return abi::unsupported("cuBLASLt is not there");
  Problem q;
  q.device = c.index, q.dtype = dtype, q.biased = bias != nullptr, q.added = beta != 0;
  q.count = count, q.M = M, q.N = N, q.K = K;
  q.a_batch = a.batch, q.b_batch = b.batch, q.out_batch = out.batch;
  bool tc = false;
  q.lda = leading(a, M, K, q.ta), q.ldb = leading(b, K, N, q.tb), q.ldc = leading(out, M, N, tc);
  if (q.lda < 0 || q.ldb < 0 || q.ldc < 0 || tc)
    return abi::unsupported("a layout cuBLASLt does not take");
  q.align = alignment(a.data);
  for (const void* p : {b.data, out.data})
    if (alignment(p) < q.align) q.align = alignment(p);
  PerDevice& d = per_device[c.index];
  std::call_once(d.once, [&] {
    if (l.create(&d.handle) != CUBLAS_STATUS_SUCCESS) d.handle = nullptr;
  });
  if (!d.handle) return abi::unsupported("cuBLASLt has no handle");
  std::lock_guard lock(plans_mutex);
  auto [at, fresh] = plans().try_emplace(q.key());
  Plan& plan = at->second;
  if (fresh) make_plan(l, d.handle, q, bias, plan);
  if (!plan.usable) return abi::unsupported("cuBLASLt has no algorithm for this");
  if (bias && !fresh) l.desc_set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
  return run_plan(c, l, d.handle, q.wide(), plan, a, b, beta, out);
}

}  // namespace dropin::kernels::cuda

#else  // the host executor has no cuBLASLt; the kernels in cuda.cu do all products

namespace dropin::kernels::cuda {
Status lt_matmul(const KernelContext&, DType, int64_t, int64_t, int64_t, int64_t, const Operand&,
                 const Operand&, double, const void*, const Operand&) {
  return abi::unsupported("cuBLASLt is not there");
}
}  // namespace dropin::kernels::cuda

#endif
