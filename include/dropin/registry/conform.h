// The conformance runner: golden cases (safetensors files of format dropin-golden-1) against the
// registry.
#pragma once
#include <string>
#include <vector>

#include "dropin/registry/registry.h"
#include "dropin/serialize/safetensors.h"

namespace dropin {

/// How one tensor of a case compared.
struct TensorCheck {
  std::string name;  ///< "output.y", "grad_param.q_proj.weight", ...
  bool passed = false;
  double worst = 0;  ///< greatest abs(got - want) / (atol + rtol abs(want)); for exact tensors the
                     ///< number of wrong elements
  double max_error = 0;  ///< greatest abs(got - want)
  std::string detail;    ///< where it failed, and how
};

struct CaseResult {
  std::string path, component, note;
  bool passed = false, skipped = false;
  std::string error;  ///< what stopped the case, or why it was skipped
  std::vector<TensorCheck> checks;
};

/// Runs one file. A malformed file is a FileError; an error of the component is a failed case.
/// `skip_unknown`: a case whose component is not registered is skipped.
CaseResult conform(const std::string& path, const Device& device = kCPU, bool skip_unknown = false);
/// The .safetensors files of a folder and its folders, sorted; a file stands for itself. FileError
/// when there is nothing.
std::vector<std::string> golden_files(const std::string& path);

}  // namespace dropin
