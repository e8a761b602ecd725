// One training run of dropin train, and the row it makes.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "cli/train_tasks.h"
#include "dropin/optimizer/optimizer.h"

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

/// SIGINT or SIGTERM came: what was reached, and how to go on.
struct Interrupted : Error {
  Interrupted(int number, const std::string& text) : Error(text), signal(number) {}
  int signal;
};
/// While it lives, the first SIGINT or SIGTERM is only noted, for train_one to end at its next
/// step; a second one ends the program.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// The optimizer of one variant: the command's own, or the one that `change` puts in its place.
/// OptionError on another name or other options than there are.
Box<Optimizer> optimizer_of(const TrainSettings& s, const TrainSwap* change,
                            const Tensors& parameters);

/// Trains one variant (the standard model without `change`); `finished` are the rows before it,
/// kept in its checkpoints. resume: goes on from the checkpoint that the settings name. Interrupted
/// after a signal, once the state is saved (where the settings say where to).
TrainRow train_one(const TrainSettings& s, const Task& task, const TrainSwap* change,
                   const std::vector<TrainRow>& finished, bool resume);

}  // namespace dropin::cli
