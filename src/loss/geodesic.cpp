#include "dropin/loss/geodesic.h"

#include "dropin/ops/normalize.h"
#include "loss/geodesic_flow.h"

namespace dropin {

using namespace geodesic;

namespace {

void refuse_second_derivatives(const char* who) {
  if (grad_enabled())
    fail<AutogradError>({who, ": second derivatives through the subspaces are not implemented"});
}

}  // namespace

void detail::check_geodesic_options(std::string_view who, const std::string& center,
                                    double rank_tol) {
  DROPIN_CHECK(center == "feature" || center == "sample" || center == "none", OptionError, who,
               ": center is \"", center, "\", expected feature, sample or none");
  DROPIN_CHECK(rank_tol >= 0 && rank_tol < 1, OptionError, who, ": rank_tol is ", rank_tol,
               ", expected 0 <= rank_tol < 1");
}

Tensor detail::centred(const Tensor& rows, const std::string& center) {
  if (center == "none") return rows;
  return rows - mean(rows, {center == "feature" ? 1 : 0}, true);
}

detail::GeodesicForms detail::geodesic_forms(std::string_view who, const Tensor& x, const Tensor& y,
                                             const Tensor& source, const Tensor& target,
                                             const GeodesicSizes& sizes, bool detach_kernel) {
  const Flow f = flow_of(who, source, target, sizes);
  if (detach_kernel) return {form(f, x, y), form(f, x, x), form(f, y, y)};
  const Tensor rx = x.detach(), ry = y.detach();
  const Tensors r = record_many(
      "geodesic_forms", {form(f, rx, ry), form(f, rx, rx), form(f, ry, ry)}, {x, y, source, target},
      {rx, ry}, [f](const Saved& s, const Tensors& g) -> Tensors {
        refuse_second_derivatives("geodesic_forms");
        const Tensor x = s[0], y = s[1], none = zeros({x.size(0)}, kFloat64);
        auto column = [&](std::size_t i) { return (g[i].defined() ? g[i] : none).unsqueeze(1); };
        const Tensor xy = column(0), xx = column(1), yy = column(2);
        auto kernel = [&](const Tensor& rows) {  // rows G
          const Tensor w0 = f.column(&Weight::w0), w1 = f.column(&Weight::w1),
                       Ps = f.source.basis(), Pt = f.target.basis(), p = matmul(rows, f.P),
                       t = matmul(rows, f.T);
          return (matmul(matmul(rows, Ps), Ps.mT()) + matmul(matmul(rows, Pt), Pt.mT())) * 0.5 +
                 matmul(p * w0 + t * w1, f.P.mT()) + matmul(t * w0 + p * w1, f.T.mT());
        };
        const Tensor Gx = kernel(x), Gy = kernel(y);
        auto times = [&](const Tensor& m) {
          const Tensor xm = matmul(x, m), ym = matmul(y, m);
          return matmul(x.mT(), ym * xy * 0.5 + xm * xx) + matmul(y.mT(), xm * xy * 0.5 + ym * yy);
        };
        const Tensors rows = flow_gradients(f, times);
        return {xy * Gy + xx * Gx * 2.0, xy * Gx + yy * Gy * 2.0, rows[0], rows[1]};
      });
  return {r[0], r[1], r[2]};
}

namespace {

constexpr const char* kKernel = "geodesic_flow_kernel";

Tensor checked_rows(const char* name, const Tensor& x, int64_t width,
                    const GeodesicFlowKernelOptions& o) {
  DROPIN_CHECK(x.dim() == 2 && x.size(0) > 0 && x.size(1) > 0 && (width < 0 || x.size(1) == width),
               ShapeError, kKernel, ": ", name, " is ", x.sizes(),
               ", expected [n >= 1, d], d the same for both");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, kKernel, ": ", name, " is ", x.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(all(isfinite(x.detach())).item<bool>(), Error, kKernel, ": ", name,
               " holds NaN or infinity, expected finite numbers");
  return detail::centred(normalize(x.to(kCPU).to(kFloat64), 1), o.center);
}

detail::GeodesicSizes sizes_of(const GeodesicFlowKernelOptions& o) {
  detail::check_geodesic_options(kKernel, o.center, o.rank_tol);
  DROPIN_CHECK(o.source_dim >= 0 && o.target_dim >= 0, OptionError, kKernel, ": source_dim ",
               o.source_dim, " and target_dim ", o.target_dim, ", expected 0 (the rank) or more");
  auto most = [](int64_t n) { return n > 0 ? n : INT64_MAX; };
  return {most(o.source_dim), most(o.target_dim), o.rank_tol};
}

Tensor kernel_of(const Flow& f) {
  const Tensor w0 = f.column(&Weight::w0), w1 = f.column(&Weight::w1), Ps = f.source.basis(),
               Pt = f.target.basis();
  return (matmul(Ps, Ps.mT()) + matmul(Pt, Pt.mT())) * 0.5 + matmul(f.P * w0 + f.T * w1, f.P.mT()) +
         matmul(f.T * w0 + f.P * w1, f.T.mT());
}

}  // namespace

GeodesicFactors geodesic_factors(const Tensor& source, const Tensor& target,
                                 const GeodesicFlowKernelOptions& o) {
  const detail::GeodesicSizes sizes = sizes_of(o);
  no_grad guard;
  const Flow f = flow_of(kKernel, checked_rows("source", source, -1, o),
                         checked_rows("target", target, source.size(1), o), sizes);
  return {f.source.basis(),      f.target.basis(),         f.P, f.T, f.column(&Weight::w0),
          f.column(&Weight::w1), tensor(f.theta, kFloat64)};
}

GeodesicKernel geodesic_flow_kernel(const Tensor& source, const Tensor& target,
                                    const GeodesicFlowKernelOptions& o) {
  const detail::GeodesicSizes sizes = sizes_of(o);
  const Tensor s = checked_rows("source", source, -1, o),
               t = checked_rows("target", target, source.size(1), o);
  const Flow f = flow_of(kKernel, s, t, sizes);
  const Tensor kernel = record(
      kKernel,
      [&] {
        no_grad guard;
        return kernel_of(f);
      }(),
      {s, t}, {},
      [f](const Saved&, const Tensor& g) -> Tensors {
        refuse_second_derivatives(kKernel);
        const Tensor symmetric = (g + g.mT()) * 0.5;
        return flow_gradients(f, [&](const Tensor& m) { return matmul(symmetric, m); });
      });
  const DType type = source.dtype();
  return {kernel.to(type).to(source.device()),
          tensor(f.theta, kFloat64).to(type).to(source.device())};
}

}  // namespace dropin
