// What a row computes, for peers that compare outputs before they time: with DROPIN_BENCH_DUMP=FILE
// the row that runs first writes its inputs and outputs there, as safetensors, and the program
// ends.
#pragma once
#include <cstdlib>

#include "dropin/module/module.h"
#include "dropin/serialize/safetensors.h"

namespace dropin {

/// The file asked for, or null.
inline const char* dump_file() { return std::getenv("DROPIN_BENCH_DUMP"); }

/// Writes the tensors and ends the program.
[[noreturn]] inline void dump_and_exit(const NamedTensors& tensors) {
  std::vector<std::pair<std::string, Tensor>> all;
  for (const auto& [name, t] : tensors) all.emplace_back(name, t.detach().contiguous());
  save_safetensors(dump_file(), all);
  std::exit(0);
}

/// y, and the gradients g.NAME of those inputs that ask for one, for the gradient `g` of y.
/// Undefined g: no gradients.
inline NamedTensors with_gradients(const NamedTensors& inputs, const Tensor& y, const Tensor& g) {
  NamedTensors all = inputs;
  all.set("y", y);
  if (!g.defined()) return all;
  all.set("g", g);
  y.backward(g);
  for (const auto& [name, t] : inputs)
    if (t.requires_grad()) all.set("g." + name, t.grad());
  return all;
}

}  // namespace dropin
