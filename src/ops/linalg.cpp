#include "dropin/ops/linalg.h"

#include <limits>

#include "cpu/decompose.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

namespace {

void need_matrices(const char* who, const Tensor& a, bool square) {
  ops_detail::need_floating(who, a);
  if (a.dim() < 2 || (square && a.size(-1) != a.size(-2)))
    fail<ShapeError>(
        {who, ": a is ", a.sizes(),
         square ? ", expected square matrices [*, n, n]" : ", expected matrices [*, m, n]"});
  if (!a.device().is_cpu())
    fail<DeviceError>({who, ": decompositions run on the cpu; move the tensor with to(kCPU)"});
}
Shape with_last(const Shape& s, std::initializer_list<int64_t> last) {
  Shape r(s.begin(), s.size() - 2);
  for (int64_t n : last) r.push_back(n);
  return r;
}
// Calls f(T*, index) with the element type, for each matrix of the batch.
template <class F>
void each_matrix(const Tensor& a, F f) {
  const int64_t size = a.size(-1) * a.size(-2), count = size ? a.numel() / size : 0;
  for (int64_t i = 0; i < count; ++i) {
    if (a.dtype() == kFloat64)
      f(a.data<double>() + i * size, i);
    else
      f(a.data<float>() + i * size, i);
  }
}
template <class T>
T* part(const Tensor& t, int64_t i, int64_t size, T*) {
  return t.data<T>() + i * size;
}

// 1 / (x_j - x_i), 0 on the diagonal.
Tensor inverse_differences(const Tensor& x) {
  const Tensor d = x.unsqueeze(-2) - x.unsqueeze(-1), self = eye(x.size(-1), -1, kFloat32) > 0.0;
  return where(self, 0.0, reciprocal(where(self, 1.0, d)));
}

}  // namespace

SVD svd(const Tensor& a_) {
  need_matrices("svd", a_, false);
  const Tensor a = ops_detail::prepared(a_), raw = a.detach();
  const int64_t m = a.size(-2), n = a.size(-1), k = std::min(m, n);
  Tensor u = empty(with_last(a.sizes(), {m, k}), a.options()),
         s = empty(with_last(a.sizes(), {k}), a.options()),
         vh = empty(with_last(a.sizes(), {k, n}), a.options());
  each_matrix(raw, [&](auto* p, int64_t i) {
    cpu::svd(m, n, p, part(u, i, m * k, p), part(s, i, k, p), part(vh, i, k * n, p));
  });
  Tensors r = record_many("svd", {u, s, vh}, {a}, {u, s, vh},
                          [m, n, k](const Saved& saved, const Tensors& g) -> Tensors {
                            const Tensor U = saved[0], S = saved[1], Vh = saved[2], V = Vh.mT();
                            // A = U S V': Ionescu et al. 2015, in the thin form (Townsend 2016)
                            const Tensor E = inverse_differences(square(S)), si = S.unsqueeze(-2),
                                         sj = S.unsqueeze(-1), identity = eye(k, -1, S.options());
                            Tensor inner = zeros_like(matmul(U.mT(), U));
                            if (g[1].defined()) inner = inner + identity * g[1].unsqueeze(-2);
                            Tensor outer;
                            if (g[0].defined()) {
                              const Tensor skew = matmul(U.mT(), g[0]);
                              inner = inner + E * (skew - skew.mT()) * si;
                              if (m > k) outer = matmul((g[0] - matmul(U, skew)) / si, Vh);
                            }
                            if (g[2].defined()) {
                              const Tensor gv = g[2].mT(), skew = matmul(V.mT(), gv);
                              inner = inner + sj * (E * (skew - skew.mT()));
                              if (n > k) {
                                const Tensor t = matmul(U / si, (gv - matmul(V, skew)).mT());
                                outer = outer.defined() ? outer + t : t;
                              }
                            }
                            Tensor ga = matmul(matmul(U, inner), Vh);
                            return {outer.defined() ? ga + outer : ga};
                          });
  return {r[0].to(a_.dtype()), r[1].to(a_.dtype()), r[2].to(a_.dtype())};
}

QR qr(const Tensor& a_) {
  need_matrices("qr", a_, false);
  const Tensor a = ops_detail::prepared(a_), raw = a.detach();
  const int64_t m = a.size(-2), n = a.size(-1), k = std::min(m, n);
  Tensor q = empty(with_last(a.sizes(), {m, k}), a.options()),
         r = empty(with_last(a.sizes(), {k, n}), a.options());
  each_matrix(raw, [&](auto* p, int64_t i) {
    cpu::qr(m, n, p, part(q, i, m * k, p), part(r, i, k * n, p));
  });
  Tensors out = record_many(
      "qr", {q, r}, {a}, {q, r}, [m, n](const Saved& saved, const Tensors& g) -> Tensors {
        if (m < n)
          fail<AutogradError>(
              {"qr: the gradient of a wide matrix (", m, " x ", n, ") is not implemented"});
        // A = Q R: with M = R gR' - gQ' Q, gA = (gQ + Q copyltu(M)) R^-T (Walter & Lehmann 2018)
        const Tensor Q = saved[0], R = saved[1];
        Tensor M = zeros_like(R);
        if (g[1].defined()) M = M + matmul(R, g[1].mT());
        if (g[0].defined()) M = M - matmul(g[0].mT(), Q);
        Tensor rhs = matmul(Q, tril(M) + tril(M, -1).mT());
        if (g[0].defined()) rhs = rhs + g[0];
        return {solve(R, rhs.mT()).mT()};
      });
  return {out[0].to(a_.dtype()), out[1].to(a_.dtype())};
}

Eigh eigh(const Tensor& a_) {
  need_matrices("eigh", a_, true);
  const Tensor a = ops_detail::prepared(a_), raw = a.detach();
  const int64_t n = a.size(-1);
  Tensor w = empty(with_last(a.sizes(), {n}), a.options()), v = empty(a.sizes(), a.options());
  each_matrix(raw, [&](auto* p, int64_t i) {
    if (!cpu::eigh(n, p, part(w, i, n, p), part(v, i, n * n, p)))
      fail<Error>({"eigh: matrix ", i, " did not converge (NaN or Inf in it?)"});
  });
  Tensors r =
      record_many("eigh", {w, v}, {a}, {w, v}, [](const Saved& saved, const Tensors& g) -> Tensors {
        const Tensor W = saved[0], V = saved[1];
        Tensor inner = zeros_like(V);
        if (g[0].defined()) inner = inner + eye(W.size(-1), -1, W.options()) * g[0].unsqueeze(-2);
        if (g[1].defined()) inner = inner + inverse_differences(W) * matmul(V.mT(), g[1]);
        return {matmul(matmul(V, inner), V.mT())};
      });
  return {r[0].to(a_.dtype()), r[1].to(a_.dtype())};
}

Tensor solve(const Tensor& a_, const Tensor& b_) {
  need_matrices("solve", a_, true);
  need_matrices("solve", b_, false);
  const int64_t n = a_.size(-1), k = b_.size(-1);
  if (b_.size(-2) != n) fail<ShapeError>({"solve: a is ", a_.sizes(), ", b is ", b_.sizes()});
  const DType t = promote(a_.dtype(), b_.dtype());
  const Shape batch =
      broadcast_shapes(Shape(a_.sizes().begin(), static_cast<int>(a_.dim()) - 2),
                       Shape(b_.sizes().begin(), static_cast<int>(b_.dim()) - 2), "solve");
  Shape sa = batch, sb = batch;
  for (int64_t s : {n, n}) sa.push_back(s);
  for (int64_t s : {n, k}) sb.push_back(s);
  const Tensor a = ops_detail::prepared(a_.to(t).expand(sa)),
               b = ops_detail::prepared(b_.to(t).expand(sb)), ra = a.detach(), rb = b.detach();
  Tensor x = empty(sb, a.options());
  each_matrix(ra, [&](auto* p, int64_t i) {
    if (!cpu::solve(n, k, p, part(rb, i, n * k, p), part(x, i, n * k, p)))
      fail<Error>({"solve: matrix ", i, " is singular"});
  });
  return record("solve", x, {a, b}, {a, x},
                [](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor gb = solve(s[0].mT(), g);
                  return {s.needs(0) ? -matmul(gb, s[1].mT()) : Tensor(), gb};
                })
      .to(t);
}

Tensor inverse(const Tensor& a) {
  need_matrices("inverse", a, true);
  return solve(a, eye(a.size(-1), -1, a.options()));
}

}  // namespace dropin
