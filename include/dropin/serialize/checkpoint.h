// Training checkpoints: parameters, optimizer state, step, generator, and whatever else the program
// wants to remember.
#pragma once
#include <string>

#include "dropin/module/module.h"
#include "dropin/optimizer/optimizer.h"

namespace dropin {

/// Where a run stands beside its tensors. The optimizer's options of every group, lr included, are
/// in its own state (Optimizer::state_dict).
struct TrainingState {
  int64_t step =
      0;  ///< steps done; the data position of a loader whose batches depend on their number
  Generator generator;  ///< of the training thread
  /// Whatever else the run must find again, by name: the state of a schedule, of a loss scaler, a
  /// data position: notes.set("loss_scaler", {"scale": 65536} as JSON).
  Json notes = Json::object();
};

/// Writes one safetensors file, atomically: "model.*", "optimizer.*", and as metadata the state and
/// what load(path) (serialize/model_file.h) builds the model from.
void save_checkpoint(const std::string& path, const Module& model, const Optimizer& optimizer,
                     const TrainingState& state);
/// The state of a file alone; FileError when it is not a checkpoint.
TrainingState read_checkpoint(const std::string& path);
/// Restores all of it, the optimizer's options of every group included. StateError naming what does
/// not fit; then neither model nor optimizer is changed.
TrainingState load_checkpoint(const std::string& path, Module& model, Optimizer& optimizer);

}  // namespace dropin
