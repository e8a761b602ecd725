// dropin train: the standard model beside the same model with a component swapped.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

#include "cli/command_line.h"
#include "cli/named_options.h"
#include "cli/train_run.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/checkpoint.h"

namespace dropin::cli {
namespace {

// OLD=NEW or OLD=NEW:{json}
TrainSwap parse_swap(const std::string& text) {
  TrainSwap s;
  s.text = text;
  const std::size_t equal = text.find('=');
  if (equal == std::string::npos || equal == 0 || equal + 1 >= text.size())
    fail<OptionError>(
        {"train: --swap ", text, ": expected OLD=NEW or OLD=NEW:{\"option\": value}"});
  s.from = text.substr(0, equal);
  NamedOptions made = named_options("train: --swap " + text, text.substr(equal + 1));
  s.to = made.name;
  s.options = std::move(made.options);
  const ComponentInfo &from = registry().find(s.from), &to = registry().find(s.to);
  if (from.family != to.family)
    fail<OptionError>({"train: --swap ", text, ": ", s.from, " is a ", from.family, ", ", s.to,
                       " a ", to.family});
  return s;
}

// Goes on where `there`, a checkpoint's settings, left off: the names of what differs from `here`,
// with both values. A longer run is the same run as long as none of its variants has ended.
std::string differences(const Json& there, const Json& here, bool any_finished) {
  std::string s;
  for (const auto& [name, value] : here.items()) {
    const Json* old = there.find(name);
    if (old && *old == value) continue;
    if (name == "steps" && !any_finished && old && old->is_int() && value.as_int() > old->as_int())
      continue;
    s += fmt::format("{}{} is {}, there {}", s.empty() ? "" : "; ", name, value.dump(),
                     old ? old->dump() : "not given");
  }
  return s;
}

/// The rows that the checkpoint of --resume holds; it must be of the same run.
std::vector<TrainRow> resumed_rows(const TrainSettings& s) {
  std::vector<TrainRow> rows;
  const TrainingState state = read_checkpoint(s.resume);
  if (const Json* finished = state.notes.find("finished"))
    for (std::size_t i = 0; i < finished->size(); ++i)
      rows.push_back(row_from_json((*finished)[i]));
  const Json* settings = state.notes.find("settings");
  if (!settings)
    fail<OptionError>({"train: --resume ", s.resume, ": it was not written by dropin train"});
  if (const std::string other = differences(*settings, s.key(), !rows.empty()); !other.empty())
    fail<OptionError>(
        {"train: --resume ", s.resume, ": it was written by a run with other settings: ", other});
  return rows;
}

void check_settings(const TrainSettings& s) {
  if (s.steps <= 0) fail<OptionError>({"train: --steps is ", s.steps, ", expected at least 1"});
  if (s.save_every <= 0)
    fail<OptionError>({"train: --save-every is ", s.save_every, ", expected at least 1"});
  if (!(s.lr > 0 && std::isfinite(s.lr)))
    fail<OptionError>({"train: --lr is ", s.lr, ", expected a positive number"});
  if (!(s.clip > 0))
    fail<OptionError>({"train: --clip is ", s.clip, ", expected a positive number"});
  if (s.save.empty()) return;
  auto folder = std::filesystem::path(s.save).parent_path();
  if (folder.empty()) folder = ".";
  if (!std::filesystem::is_directory(folder))
    fail<FileError>({"train: --save ", s.save, ": there is no folder ", folder.string()});
  if (std::filesystem::is_directory(s.save))
    fail<FileError>({"train: --save ", s.save, ": it is a folder, expected a file"});
  if (std::filesystem::exists(s.save) && !std::filesystem::is_regular_file(s.save))
    fail<FileError>({"train: --save ", s.save, ": it is not a regular file"});
  if (access(folder.c_str(), W_OK) != 0)
    fail<FileError>({"train: --save ", s.save, ": nothing can be written in ", folder.string(),
                     ": ", std::strerror(errno)});
}

// Everything that could be refused, before anything is trained: each swap is made, its optimizer
// too, and runs one batch forward.
void try_swaps(const TrainSettings& s, const Task& task, const std::vector<TrainSwap>& swaps) {
  const Batch batch = task.batch(0);
  const Device device(s.device);
  for (std::size_t i = 0; i <= swaps.size(); ++i) {
    const TrainSwap* change = i ? &swaps[i - 1] : nullptr;
    Box<Module> trial = task.make_model();
    if (change && registry().find(change->from).kind != ComponentKind::Optimizer)
      swap(*trial, change->from, change->to, change->options);
    trial->to(device);
    optimizer_of(s, change, trial->parameters());
    no_grad guard;
    task.loss(*trial, {batch.x.to(device), batch.y.to(device)});
  }
}

void print_rows(const TrainSettings& s, const Task& task, const std::vector<TrainRow>& rows) {
  if (s.json) {
    Json out = Json::object(), list = Json::array();
    for (const TrainRow& r : rows) list.push_back(to_json(r));
    out.set("task", s.task.task);
    out.set("metric", task.metric_name());
    out.set("steps", s.steps);
    out.set("runs", list);
    fmt::print("{}\n", out.dump(2));
    return;
  }
  std::size_t width = 10;
  for (const TrainRow& r : rows) width = std::max(width, r.name.size());
  fmt::print("\n{:<{}}  {:>10}  {:>9}  {:>12}  {:>9}  {:>8}  {:>12}\n", s.task.task, width,
             "parameters", "loss", task.metric_name(), "ms/step", "peak MB", "optimizer MB");
  for (const TrainRow& r : rows)
    fmt::print("{:<{}}  {:>10}  {:>9.4f}  {:>12.4f}  {:>9.2f}  {:>8.1f}  {:>12.2f}\n", r.name,
               width, r.parameters, r.loss, r.metric, r.ms, r.peak_mb, r.optimizer_mb);
}

int run(const TrainSettings& s) {
  check_settings(s);
  std::vector<TrainSwap> swaps;
  for (const auto& t : s.swaps) swaps.push_back(parse_swap(t));
  const std::unique_ptr<Task> task(make_task(s.task).release());
  try_swaps(s, *task, swaps);
  const InterruptGuard interrupts;
  std::vector<TrainRow> rows;
  bool resume = !s.resume.empty();
  if (resume) rows = resumed_rows(s);
  while (rows.size() <= swaps.size()) {
    const TrainSwap* change = rows.empty() ? nullptr : &swaps[rows.size() - 1];
    try {
      rows.push_back(train_one(s, *task, change, rows, resume));
    } catch (const Interrupted& e) {
      fmt::print(stderr, "dropin: {}\n", e.what());
      return 128 + e.signal;
    }
    resume = false;
  }
  print_rows(s, *task, rows);
  return 0;
}

}  // namespace

void add_train(CommandLine& line) {
  auto s = std::make_shared<TrainSettings>();
  using D = TaskDefaults;
  auto own = [](const char* what, int64_t D::*field) {
    return std::string(what) + "; 0: " + defaults_text(field);
  };
  line.add("train", "trains a model and the same model with a component swapped, and compares them",
           [s] { return run(*s); })
      .option("--task", s->task.task, "recall, text, images or segment", true)
      .option("--data", s->task.data,
              "a text file, or a folder with IDX files; none: a generated task")
      .option("--swap", s->swaps,
              "OLD=NEW or OLD=NEW:{\"option\": value}; may be repeated, one run each")
      .option("--steps", s->steps, "optimizer steps")
      .option("--batch", s->task.batch, own("sequences or pictures per step", &D::batch).c_str())
      .option("--length", s->task.length, own("length of a sequence", &D::length).c_str())
      .option("--width", s->task.width,
              own("embed_dim, or channels of the first block", &D::width).c_str())
      .option("--layers", s->task.layers, own("blocks", &D::layers).c_str())
      .option("--vocab", s->task.vocab, own("ids, or words", &D::vocab).c_str())
      .option("--optimizer", s->optimizer, "an optimizer of dropin list")
      .option("--lr", s->lr, "greatest learning rate (warm-up, then cosine)")
      .option("--clip", s->clip, "greatest gradient norm")
      .option("--seed", s->task.seed, "of initial values and data")
      .option("--device", s->device, "cpu or cuda")
      .option("--save", s->save, "checkpoint file, written while training")
      .option("--save-every", s->save_every, "steps between checkpoints")
      .option("--resume", s->resume,
              "goes on from a checkpoint of the same command; --steps may be more")
      .flag("--json", s->json, "results as JSON");
}

}  // namespace dropin::cli
