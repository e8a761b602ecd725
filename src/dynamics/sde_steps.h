// Steps of du = f dt + g dW with diagonal noise.
#pragma once
#include "dynamics/solver.h"

namespace dropin::dynamics {

struct SdeFields {
  Field drift, diffusion;
};
struct SdeStep {
  Tensor next, drift_error, noise_error;
};
/// One step of strong order 1.5 with its errors. dW and dZ are independent, of variance h.
SdeStep sosri_step(const SdeFields& of, const Tensor& u, double t, double h, const Tensor& dW,
                   const Tensor& dZ);
/// One step by the named solver; dZ is for sosri.
Tensor sde_step(const std::string& solver, const SdeFields& of, const Tensor& u, double t, double h,
                const Tensor& dW, const Tensor& dZ);

}  // namespace dropin::dynamics
