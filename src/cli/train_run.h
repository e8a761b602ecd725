// One training run of dropin train, and the row it makes.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "cli/train_tasks.h"

namespace dropin::cli {

/// A component of the standard model and what takes its place.
struct TrainSwap {
  std::string text, from, to;
  Json options = Json::object();
};

/// What a run found.
struct TrainRow {
  std::string name;
  int64_t parameters = 0;
  double loss = NAN, metric = NAN, ms = NAN;
  double peak_mb = 0, optimizer_mb = 0;
  std::vector<double> curve;  ///< training loss, one value every tenth of a run
};

Json to_json(const TrainRow& r);
TrainRow row_from_json(const Json& j);

/// The command's options.
struct TrainSettings {
  TaskSettings task;
  int64_t steps = 200, save_every = 100;
  double lr = 1e-3, clip = 1;
  std::string optimizer = "AdamW", device = "cpu", save, resume;
  std::vector<std::string> swaps;
  bool json = false;
  /// What a resumed run must agree on.
  Json key() const {
    Json j = options_to_json(task);
    j.set("steps", steps);
    j.set("lr", lr);
    j.set("clip", clip);
    j.set("optimizer", optimizer);
    Json s = Json::array();
    for (const auto& t : swaps) s.push_back(Json(t));
    j.set("swaps", s);
    return j;
  }
};

/// Trains one variant (the standard model without `change`); `finished` are the rows before it,
/// kept in its checkpoints. resume: goes on from the checkpoint that the settings name.
TrainRow train_one(const TrainSettings& s, const Task& task, const TrainSwap* change,
                   const std::vector<TrainRow>& finished, bool resume);

}  // namespace dropin::cli
