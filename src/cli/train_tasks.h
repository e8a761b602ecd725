// The tasks of dropin train: model, data, loss, score.
#pragma once
#include <string>

#include "dropin/data/tasks.h"
#include "dropin/module/module.h"

namespace dropin::cli {

struct TaskSettings {
  std::string task, data;
  int64_t batch = 0, length = 0, width = 0, layers = 0, vocab = 0, seed = 0;
  static void fields(auto&& f) {
    using O = TaskSettings;
    f("task", &O::task);
    f("data", &O::data);
    f("batch", &O::batch);
    f("length", &O::length);
    f("width", &O::width);
    f("layers", &O::layers);
    f("vocab", &O::vocab);
    f("seed", &O::seed);
  }
};

/// The sizes that a task has where the settings say 0; 0: the task has no such size.
struct TaskDefaults {
  const char* task;
  int64_t batch, length, width, layers, vocab;
};
inline constexpr TaskDefaults kTaskDefaults[] = {{"recall", 32, 65, 64, 2, 10},
                                                 {"text", 16, 128, 128, 2, 0},
                                                 {"images", 32, 0, 16, 4, 0},
                                                 {"segment", 32, 64, 64, 3, 5000}};
/// "recall 32, text 16, ...": one of these sizes for every task that has it.
std::string defaults_text(int64_t TaskDefaults::*field);

struct Score {
  double loss, metric;
};

class Task {
 public:
  virtual ~Task() = default;
  /// A fresh model, initialised from the default generator.
  virtual Box<Module> make_model() const = 0;
  /// Batch number i of the training data; the same for every run with this seed.
  virtual Batch batch(int64_t i) const = 0;
  virtual Tensor loss(Module& model, const Batch& b) const = 0;
  virtual const char* metric_name() const = 0;
  /// What the model is used with and its checkpoints keep, by name: a vocabulary.
  virtual Json notes() const { return Json::object(); }
  /// On data the training never saw.
  virtual Score evaluate(Module& model, const Device& device) const = 0;
};

/// A text task of lines: newlines are taken out, and where they were is learned.
Box<Task> make_segment_task(const TaskSettings& s);
/// Numbers of batch i of a run with this seed, far from those of all others.
Generator batch_generator(int64_t seed, int64_t i, bool evaluation = false);

/// OptionError on an unknown task or sizes out of range, FileError on bad data.
Box<Task> make_task(const TaskSettings& s);

}  // namespace dropin::cli
