#include "dropin/dynamics/neural_ode.h"
#include "dropin/dynamics/neural_sde.h"
#include "registry/lists.h"

namespace dropin {

void register_dynamics(Registry& r) {
  r.add<NeuralODE>();
  r.add<NeuralSDE>();
}

}  // namespace dropin
