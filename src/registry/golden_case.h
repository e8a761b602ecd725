// A golden case in memory, and a result beside what it expects.
#pragma once
#include <string>
#include <vector>

#include "dropin/registry/conform.h"

namespace dropin::registry_detail {

/// What a file of golden cases holds: a component, its options, tensors by their role.
struct GoldenCase {
  std::string kind, name;
  Json config;
  bool training = false;
  double rtol = 0, atol = 0;
  NamedTensors parameters, buffers, inputs, outputs, grad_outputs, grad_inputs, grad_parameters,
      step_gradients;
};

/// FileError where the file is not a golden case.
GoldenCase read_case(const std::string& path, const SafetensorsFile& file);
/// `got` against `want`, within the tolerances of the case; the worst element in words.
TensorCheck compare(std::string name, const Tensor& got, const Tensor& want, const GoldenCase& c);

}  // namespace dropin::registry_detail
