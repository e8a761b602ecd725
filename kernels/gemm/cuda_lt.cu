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
using Key = std::tuple<int, int, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                       int64_t, int64_t, int64_t, int>;
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

}  // namespace

// Row-major c = a b is column-major c' = b' a', so b is cuBLAS's first operand.
Status lt_matmul(const KernelContext& c, DType dtype, int64_t count, int64_t M, int64_t N,
                 int64_t K, const Operand& a, const Operand& b, double beta, const void* bias,
                 const Operand& out) {
  Library& l = library();
  if (!l.there) return abi::unsupported("cuBLASLt is not there");
  bool ta = false, tb = false, tc = false;
  const int64_t lda = leading(a, M, K, ta), ldb = leading(b, K, N, tb),
                ldc = leading(out, M, N, tc);
  if (lda < 0 || ldb < 0 || ldc < 0 || tc)
    return abi::unsupported("a layout cuBLASLt does not take");
  PerDevice& d = per_device[c.index];
  std::call_once(d.once, [&] {
    if (l.create(&d.handle) != CUBLAS_STATUS_SUCCESS) d.handle = nullptr;
  });
  if (!d.handle) return abi::unsupported("cuBLASLt has no handle");
  const cudaDataType_t type = dtype == DType::Float64    ? CUDA_R_64F
                              : dtype == DType::BFloat16 ? CUDA_R_16BF
                              : dtype == DType::Float16  ? CUDA_R_16F
                                                         : CUDA_R_32F;
  const bool wide = dtype == DType::Float64;
  int align = alignment(a.data);
  for (const void* p : {b.data, out.data})
    if (alignment(p) < align) align = alignment(p);
  const Key key{
      c.index, static_cast<int>(dtype) * 16 + ta * 8 + tb * 4 + (bias != nullptr) * 2 + (beta != 0),
      count,   M,
      N,       K,
      lda,     ldb,
      ldc,     a.batch,
      b.batch, out.batch,
      align};
  Plan plan;
  {
    std::lock_guard lock(plans_mutex);
    auto [at, fresh] = plans().try_emplace(key);
    Plan& p = at->second;
    if (fresh) {
      bool good = l.desc_create(&p.desc, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                wide ? CUDA_R_64F : CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
      auto layout = [&](cublasLtMatrixLayout_t& m, bool transposed, int64_t rows, int64_t cols,
                        int64_t ld, int64_t stride) {
        // column-major: a row-major rows x cols is cols x rows
        const auto r = static_cast<std::uint64_t>(transposed ? rows : cols),
                   q = static_cast<std::uint64_t>(transposed ? cols : rows);
        good = good && l.layout_create(&m, type, r, q, ld) == CUBLAS_STATUS_SUCCESS;
        const int n = static_cast<int>(count);
        good = good && l.layout_set(m, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n) ==
                           CUBLAS_STATUS_SUCCESS;
        good = good && l.layout_set(m, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                    sizeof stride) == CUBLAS_STATUS_SUCCESS;
      };
      layout(p.a, ta, M, K, lda, a.batch);
      layout(p.b, tb, K, N, ldb, b.batch);
      layout(p.c, false, M, N, ldc, out.batch);
      const cublasOperation_t opa = ta ? CUBLAS_OP_T : CUBLAS_OP_N,
                              opb = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
      good = good && l.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSA, &opb, sizeof opb) ==
                         CUBLAS_STATUS_SUCCESS;
      good = good && l.desc_set(p.desc, CUBLASLT_MATMUL_DESC_TRANSB, &opa, sizeof opa) ==
                         CUBLAS_STATUS_SUCCESS;
      if (bias) {
        const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        good = good && l.desc_set(p.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                  sizeof epilogue) == CUBLAS_STATUS_SUCCESS;
        good = good && l.desc_set(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias) ==
                           CUBLAS_STATUS_SUCCESS;
      }
      cublasLtMatmulPreference_t preference = nullptr;
      good = good && l.preference_create(&preference) == CUBLAS_STATUS_SUCCESS;
      const std::uint64_t room = kWorkspace;
      const std::uint32_t bytes = static_cast<std::uint32_t>(align);
      if (good) {
        l.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
        for (auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
          l.preference_set(preference, which, &bytes, sizeof bytes);
        cublasLtMatmulHeuristicResult_t found{};
        int n = 0;
        p.usable = l.heuristic(d.handle, p.desc, p.b, p.a, p.c, p.c, preference, 1, &found, &n) ==
                       CUBLAS_STATUS_SUCCESS &&
                   n > 0;
        p.algo = found.algo;
      }
      if (preference) l.preference_destroy(preference);
    }
    plan = p;
    if (!plan.usable) return abi::unsupported("cuBLASLt has no algorithm for this");
    if (bias && !fresh) l.desc_set(p.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    DROPIN_SCRATCH(char, workspace, c, static_cast<int64_t>(kWorkspace));
    const float alpha32 = 1, beta32 = static_cast<float>(beta);
    const double alpha64 = 1, beta64 = beta;
    const void *alpha = wide ? static_cast<const void*>(&alpha64) : &alpha32,
               *b_ = wide ? static_cast<const void*>(&beta64) : &beta32;
    void* to = const_cast<void*>(out.data);
    // under the lock: the description holds the bias's address until the call has read it
    const cublasStatus_t status =
        l.matmul(d.handle, plan.desc, alpha, b.data, plan.b, a.data, plan.a, b_, to, plan.c, to,
                 plan.c, &plan.algo, workspace.get(), kWorkspace, stream_of(c));
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
      return abi::unsupported("cuBLASLt does not take this");
    if (status != CUBLAS_STATUS_SUCCESS) return abi::device_failed("cuBLASLt failed");
  }
  return checked(cudaGetLastError(), c);
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
