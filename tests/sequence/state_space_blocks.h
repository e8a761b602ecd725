// What the tests of the blocks around ssd_scan share.
#pragma once
#include <cmath>

#include "dropin/module/module.h"
#include "support.h"

namespace dropin::testing {

template <class M, class O>
Box<M> in_double(const O& options, std::uint64_t seed = 3) {
  manual_seed(seed);
  auto m = Box<M>(new M(options));
  m->to(kFloat64);
  no_grad guard;
  for (auto& [name, p] : m->named_parameters()) p.add_(random(p.sizes(), kFloat64, ++seed), 0.2);
  return m;
}

// What stands between the convolution and out_proj, as the equations say it.
struct Block {
  StateDict s;
  Tensor z, mixed, rest;  // mixed: before SiLU
  Block(const Module& m, const Tensor& x, int64_t inner, int64_t covered) : s(m.state_dict()) {
    const Tensor all = linear(x, s.find("in_proj.weight"), s.find("in_proj.bias")),
                 taps = s.find("conv1d.weight");
    z = all.narrow(2, 0, inner);
    rest = all.narrow(2, inner + covered, all.size(2) - inner - covered);
    mixed = conv1d(all.narrow(2, inner, covered).transpose(1, 2).contiguous(), taps,
                   s.find("conv1d.bias"), 1, taps.size(2) / 2, taps.size(2) / 2, 1, covered)
                .transpose(1, 2);
  }
  Tensor end(const Tensor& y) const {
    return linear(rms_norm(y, s.find("norm.weight"), 1e-5) * silu(z), s.find("out_proj.weight"),
                  s.find("out_proj.bias"));
  }
};

// The quasiseparable matrix of one sample and head, entry by entry.
inline Tensor quasiseparable(const Tensor& dtf, const Tensor& dtb, double a, const Tensor& bf,
                             const Tensor& cf, const Tensor& bb, const Tensor& cb,
                             const Tensor& diagonal) {
  const int64_t l = dtf.size(0);
  Tensor m = zeros({l, l}, kFloat64);
  auto dot = [](const Tensor& u, const Tensor& v) { return sum(u * v).item(); };
  for (int64_t i = 0; i < l; ++i)
    for (int64_t j = 0; j < l; ++j) {
      double decay = 0;
      for (int64_t k = j + 1; k < i; ++k) decay += dtf[k].item();
      for (int64_t k = i + 1; k < j; ++k) decay += dtb[k].item();
      m[i][j] = i == j  ? diagonal[i].item()
                : i > j ? dot(cf[i - 1], bf[j]) * std::exp(a * decay) * dtf[j].item()
                        : dot(cb[i + 1], bb[j]) * std::exp(a * decay) * dtb[j].item();
    }
  return m;
}

}  // namespace dropin::testing
