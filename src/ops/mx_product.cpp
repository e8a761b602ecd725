// Products of matrices and convolutions whose operands are in the formats of microscaling.
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "ops/common.h"
#include "ops/conv_geometry.h"
#include "ops/mx.h"

namespace dropin {
namespace {

// One operand along one axis, in the format of a layer.
Tensor along(const Tensor& x, const std::string& format, int64_t axis, const MXProductParams& p) {
  return ops_detail::mx_quantized(x, {.format = format,
                                      .axis = axis,
                                      .block_size = p.block_size,
                                      .rounding = p.rounding,
                                      .scale_mode = p.scale_mode});
}
const std::string& or_forward(const std::string& backward, const std::string& forward) {
  return backward.empty() ? forward : backward;
}
void no_second(const char* who) {
  if (grad_enabled())
    fail<AutogradError>({who, ": its gradient is quantized and cannot be differentiated again"});
}

}  // namespace

Tensor mx_linear(const Tensor& x_, const Tensor& w_, const Tensor& bias, const MXProductParams& p,
                 bool frozen) {
  ops_detail::need_floating("mx_linear", x_);
  DROPIN_CHECK(w_.dim() == 2 && x_.dim() > 0 && x_.size(-1) == w_.size(1), ShapeError,
               "mx_linear: x is ", x_.sizes(), ", expected [*, ", w_.size(-1), "] for a weight of ",
               w_.sizes());
  const DType t =
      promote(ops_detail::compute_type(x_.dtype()), ops_detail::compute_type(w_.dtype()));
  const Tensor x = x_.dim() == 1 ? x_.to(t).unsqueeze(0) : x_.to(t), w = w_.to(t),
               b = bias.defined() ? bias.to(t) : bias;
  Tensor y;
  {
    no_grad guard;
    y = linear(along(x, p.first, -1, p), frozen ? w.detach() : along(w, p.second, -1, p),
               b.defined() ? b.detach() : b);
  }
  const bool keep_x = w.requires_grad(), keep_w = x.requires_grad();
  y = record(
      "mx_linear", y, {x, w, b}, {keep_x ? x : Tensor(), keep_w ? w : Tensor()},
      [p, frozen](const Saved& s, const Tensor& g_) -> Tensors {
        no_second("mx_linear");
        const Tensor g = g_.contiguous(), flat = g.reshape({-1, g.size(-1)});
        Tensor gx, gw;
        if (s.needs(0))
          gx = p.quantize_backward
                   ? matmul(along(g, p.grad, -1, p),
                            frozen ? s[1] : along(s[1], or_forward(p.second_bp, p.second), 0, p))
                   : matmul(g, s[1]);
        if (s.needs(1)) {
          const Tensor x = s[0];
          const Tensor gq = p.quantize_backward ? along(g, p.grad, -2, p) : g,
                       xq = p.quantize_backward ? along(x, or_forward(p.first_bp, p.first), -2, p)
                                                : x.contiguous();
          gw = matmul(gq.reshape({-1, g.size(-1)}).mT(), xq.reshape({-1, x.size(-1)}));
        }
        return {gx, gw, s.needs(2) ? sum(flat, {0}) : Tensor()};
      });
  return (x_.dim() == 1 ? y.squeeze(0) : y).to(x_.dtype());
}

Tensor mx_conv2d(const Tensor& x_, const Tensor& w_, const Tensor& bias, const ConvParams& conv,
                 const MXProductParams& p, bool frozen) {
  ops_detail::need_floating("mx_conv2d", x_);
  DROPIN_CHECK(x_.dim() == 4 && w_.dim() == 4, ShapeError, "mx_conv2d: x is ", x_.sizes(),
               " and the weight ", w_.sizes(),
               ", expected [B, C, H, W] and [O, C / groups, kh, kw]");
  const DType t =
      promote(ops_detail::compute_type(x_.dtype()), ops_detail::compute_type(w_.dtype()));
  const Tensor x = x_.to(t), w = w_.to(t), b = bias.defined() ? bias.to(t) : bias;
  Tensor y;
  {
    no_grad guard;
    y = conv2d(along(x, p.first, 1, p), frozen ? w.detach() : along(w, p.second, 1, p),
               b.defined() ? b.detach() : b, conv);
  }
  const bool keep_x = w.requires_grad(), keep_w = x.requires_grad();
  return record("mx_conv2d", y, {x, w, b}, {keep_x ? x : Tensor(), keep_w ? w : Tensor()},
                [p, conv, frozen, sx = x.sizes(), sw = w.sizes()](const Saved& s,
                                                                  const Tensor& g_) -> Tensors {
                  no_second("mx_conv2d");
                  const Tensor g = g_.contiguous();
                  Tensor gx, gw;
                  if (s.needs(0)) {
                    gx = empty(sx, g.options());
                    const Tensor gq = p.quantize_backward ? along(g, p.grad, 1, p) : g;
                    const Tensor wq = p.quantize_backward && !frozen
                                          ? along(s[1], or_forward(p.second_bp, p.second), 0, p)
                                          : s[1].contiguous();
                    run<kernels::conv2d_backward_input>(g.device(), gq.in(), wq.in(),
                                                        ops_detail::conv_geometry(conv), gx.out());
                  }
                  if (s.needs(1)) {
                    gw = empty(sw, g.options());
                    const Tensor gq = p.quantize_backward ? along(g, p.grad, 0, p) : g,
                                 xq = p.quantize_backward
                                          ? along(s[0], or_forward(p.first_bp, p.first), 0, p)
                                          : s[0].contiguous();
                    run<kernels::conv2d_backward_weight>(g.device(), gq.in(), xq.in(),
                                                         ops_detail::conv_geometry(conv), gw.out(),
                                                         abi::TensorOut{});
                  }
                  return {gx, gw, s.needs(2) ? sum(g, {0, 2, 3}) : Tensor()};
                })
      .to(x_.dtype());
}

Tensor mx_matmul(const Tensor& a_, const Tensor& b_, const MXProductParams& p) {
  ops_detail::need_floating("mx_matmul", a_);
  ops_detail::need_floating("mx_matmul", b_);
  DROPIN_CHECK(a_.dim() >= 2 && b_.dim() >= 2 && a_.size(-1) == b_.size(-2), ShapeError,
               "mx_matmul: a is ", a_.sizes(), " and b ", b_.sizes(),
               ", expected [.., M, K] and [.., K, N]");
  bool batched = b_.dim() == a_.dim();
  for (int i = 0; batched && i + 2 < a_.dim(); ++i) batched = a_.size(i) == b_.size(i);
  DROPIN_CHECK(batched || b_.dim() == 2, ShapeError, "mx_matmul: a is ", a_.sizes(), " and b ",
               b_.sizes(), ", expected the same batch dimensions, or b [K, N]");
  const DType t =
      promote(ops_detail::compute_type(a_.dtype()), ops_detail::compute_type(b_.dtype()));
  const Tensor a = a_.to(t), b = b_.to(t);
  Tensor y;
  {
    no_grad guard;
    y = matmul(along(a, p.first, -1, p), along(b, p.second, -2, p));
  }
  const bool keep_a = b.requires_grad(), keep_b = a.requires_grad();
  return record(
             "mx_matmul", y, {a, b}, {keep_a ? a : Tensor(), keep_b ? b : Tensor()},
             [p, sb = b.sizes()](const Saved& s, const Tensor& g_) -> Tensors {
               no_second("mx_matmul");
               const Tensor g = g_.contiguous();
               const bool q = p.quantize_backward;
               return {
                   s.needs(0)
                       ? matmul(q ? along(g, p.grad, -1, p) : g,
                                (q ? along(s[1], or_forward(p.second_bp, p.second), -1, p) : s[1])
                                    .mT())
                       : Tensor(),
                   s.needs(1)
                       ? sum_to(
                             matmul((q ? along(s[0], or_forward(p.first_bp, p.first), -2, p) : s[0])
                                        .mT(),
                                    q ? along(g, p.grad, -2, p) : g),
                             sb)
                       : Tensor()};
             })
      .to(promote(a_.dtype(), b_.dtype()));
}

}  // namespace dropin
