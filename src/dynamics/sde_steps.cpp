#include "dynamics/sde_steps.h"

#include <cmath>

namespace dropin::dynamics {

namespace {

// Roessler's SRI method of strong order 1.5 that is stable longest (SOSRI).
struct Sosri {
  double a0[4][3] = {{},
                     {-0.04199224421316468},
                     {2.842612915017106, -2.0527723684000727},
                     {4.338237071435815, -2.8895936137439793, 2.3017575594644466}};
  double a1[4][3] = {{},
                     {0.26204282091330466},
                     {0.20903646383505375, -0.1502377115150361},
                     {0.05836595312746999, 0.6149440396332373, 0.08535117634046772}};
  double b0[4][3] = {{},
                     {-0.21641093549612528},
                     {1.5336352863679572, 0.26066223492647056},
                     {-1.0536037558179159, 1.7015284721089472, -0.20725685784180017}};
  double b1[4][3] = {{},
                     {-0.5119011827621657},
                     {2.67767339866713, -4.9395031322250995},
                     {0.15580956238299215, 3.2361551006624674, -1.4223118283355949}};
  double alpha[4] = {1.140099274172029, -0.6401334255743456, 0.4736296532772559,
                     0.026404498125060714};
  double c0[4] = {0, -0.04199224421316468, 0.7898405466170333, 3.7504010171562823};
  double c1[4] = {0, 0.26204282091330466, 0.05879875232001766, 0.758661169101175};
  double beta1[4] = {-1.8453464565104432, 2.688764531100726, -0.2523866501071323,
                     0.40896857551684956};
  double beta2[4] = {0.4969658141589478, -0.5771202869753592, -0.12919702470322217,
                     0.2093514975196336};
  double beta3[4] = {2.8453464565104425, -2.688764531100725, 0.2523866501071322,
                     -0.40896857551684945};
  double beta4[4] = {0.11522663875443433, -0.57877086147738, 0.2857851028163886,
                     0.17775911990655704};
};

}  // namespace

SdeStep sosri_step(const SdeFields& of, const Tensor& u, double t, double h, const Tensor& dW,
                   const Tensor& dZ) {
  static const Sosri m;
  const double root = std::sqrt(h);
  const Tensor chi1 = (square(dW) - h) * (1 / (2 * root)),
               chi2 = (dW + dZ * (1 / std::sqrt(3.0))) * 0.5,
               chi3 = (dW * square(dW) - dW * (3 * h)) * (1 / (6 * h));
  Tensors ks, gs;
  for (int i = 0; i < 4; ++i) {
    Tensor h0 = combined(u, ks, m.a0[i], h), h1 = combined(u, ks, m.a1[i], h);
    if (i > 0) {
      h0 = h0 + chi2 * combined({}, gs, m.b0[i], 1);
      h1 = combined(h1, gs, m.b1[i], root);
    }
    ks.push_back(of.drift(h0, t + m.c0[i] * h));
    gs.push_back(of.diffusion(h1, t + m.c1[i] * h));
  }
  auto noise = [&](const double* weights) { return combined({}, gs, weights, 1); };
  SdeStep r;
  r.noise_error = chi2 * noise(m.beta3) + chi3 * noise(m.beta4);
  r.next =
      combined(u, ks, m.alpha, h) + r.noise_error + dW * noise(m.beta1) + chi1 * noise(m.beta2);
  const double ones[] = {1, 1, 1, 1};
  r.drift_error = combined({}, ks, ones, h);
  return r;
}

Tensor sde_step(const std::string& solver, const SdeFields& of, const Tensor& u, double t, double h,
                const Tensor& dW, const Tensor& dZ) {
  if (solver == "sosri") return sosri_step(of, u, t, h, dW, dZ).next;
  const Tensor k = of.drift(u, t), l = of.diffusion(u, t), moved = add(u, k, h);
  if (solver == "euler_maruyama") return moved + l * dW;
  if (solver == "milstein") {
    const double root = std::sqrt(h);
    const Tensor slope = (of.diffusion(add(moved, l, root), t) - l) * (1 / root);
    return moved + l * dW + slope * (square(dW) - h) * 0.5;
  }
  const Tensor p = moved + l * dW;  // euler_heun
  return add(u, k + of.drift(p, t + h), h / 2) + (l + of.diffusion(p, t + h)) * dW * 0.5;
}

}  // namespace dropin::dynamics
