// dropin train: the standard model beside the same model with a component swapped.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>

#include "cli/command_line.h"
#include "cli/train_tasks.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/checkpoint.h"

namespace dropin::cli {
namespace {

struct Swap {
  std::string text, from, to;
  Json options = Json::object();
};

// OLD=NEW or OLD=NEW:{json}
Swap parse_swap(const std::string& text) {
  Swap s;
  s.text = text;
  const std::size_t equal = text.find('='),
                    colon = text.find(':', equal == std::string::npos ? 0 : equal);
  if (equal == std::string::npos || equal == 0 || equal + 1 >= text.size())
    fail<OptionError>(
        {"train: --swap ", text, ": expected OLD=NEW or OLD=NEW:{\"option\": value}"});
  s.from = text.substr(0, equal);
  s.to = text.substr(equal + 1, colon == std::string::npos ? std::string::npos : colon - equal - 1);
  if (colon != std::string::npos) {
    try {
      s.options = Json::parse(text.substr(colon + 1));
    } catch (const OptionError& e) {
      fail<OptionError>({"train: --swap ", text, ": ", e.what()});
    }
    if (!s.options.is_object())
      fail<OptionError>({"train: --swap ", text, ": the options are not a JSON object"});
  }
  const ComponentInfo &from = registry().find(s.from), &to = registry().find(s.to);
  if (from.family != to.family)
    fail<OptionError>({"train: --swap ", text, ": ", s.from, " is a ", from.family, ", ", s.to,
                       " a ", to.family});
  return s;
}

struct Row {
  std::string name;
  int64_t parameters = 0;
  double loss = NAN, metric = NAN, ms = NAN;
  double peak_mb = 0, optimizer_mb = 0;
  std::vector<double> curve;  ///< training loss, one value every tenth of a run
};

Json to_json(const Row& r) {
  auto number = [](double v) { return std::isfinite(v) ? Json(v) : Json(); };
  Json j = Json::object();
  j.set("name", r.name);
  j.set("parameters", r.parameters);
  j.set("loss", number(r.loss));
  j.set("metric", number(r.metric));
  j.set("ms_per_step", number(r.ms));
  j.set("peak_mb", r.peak_mb);
  j.set("optimizer_mb", r.optimizer_mb);
  Json curve = Json::array();
  for (double v : r.curve) curve.push_back(number(v));
  j.set("curve", curve);
  return j;
}
Row row_from_json(const Json& j) {
  auto number = [&](const char* key) {
    const Json* v = j.find(key);
    return v && v->is_number() ? v->as_double() : NAN;
  };
  Row r;
  if (const Json* n = j.find("name")) r.name = n->as_string();
  r.parameters = static_cast<int64_t>(number("parameters"));
  r.loss = number("loss");
  r.metric = number("metric");
  r.ms = number("ms_per_step");
  r.peak_mb = number("peak_mb");
  r.optimizer_mb = number("optimizer_mb");
  if (const Json* c = j.find("curve"))
    for (std::size_t i = 0; i < c->size(); ++i)
      r.curve.push_back((*c)[i].is_number() ? (*c)[i].as_double() : NAN);
  return r;
}

struct Settings {
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

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Progress {
 public:
  Progress(std::string name, int64_t steps)
      : name_(std::move(name)), steps_(steps), terminal_(isatty(2)) {}
  void show(int64_t step, double loss, double ms) {
    const bool last = step == steps_;
    if (!last &&
        (terminal_ ? seconds() - shown_ < 0.2 : step * 10 / steps_ == (step - 1) * 10 / steps_))
      return;
    shown_ = seconds();
    fmt::print(stderr, "{}{:<36} step {:>5}/{}  loss {:.4f}  {:.1f} ms/step  {:.0f} s left{}",
               terminal_ ? "\r" : "", name_, step, steps_, loss, ms,
               static_cast<double>(steps_ - step) * ms / 1000, last || !terminal_ ? "\n" : "   ");
  }

 private:
  std::string name_;
  int64_t steps_;
  bool terminal_;
  double shown_ = 0;
};

// Trains one variant; `finished` are the rows before it, kept in its checkpoints.
Row train_one(const Settings& s, const Task& task, const Swap* change,
              const std::vector<Row>& finished, bool resume) {
  Row row;
  row.name = change ? change->text : "standard";
  manual_seed(static_cast<std::uint64_t>(s.task.seed));
  Box<Module> model = task.make_model();
  std::string optimizer_name = s.optimizer;
  Json optimizer_options = Json::object();
  if (change && registry().find(change->from).kind == ComponentKind::Optimizer) {
    if (change->from != s.optimizer)
      fail<OptionError>({"train: --swap ", change->text, ": the optimizer is ", s.optimizer});
    optimizer_name = change->to;
    optimizer_options = change->options;
  } else if (change) {
    const SwapReport report = swap(*model, change->from, change->to, change->options);
    if (!s.json && !resume) fmt::print(stderr, "{}", report.str());
  }
  model->to(Device(s.device));
  row.parameters = model->num_parameters();
  optimizer_options.set("lr", s.lr);
  Box<Optimizer> optimizer = make_optimizer(optimizer_name, model->parameters(), optimizer_options);
  int64_t first = 0;
  double recent = NAN, spent = 0;  // the mean of late losses, and seconds
  if (resume) {
    const TrainingState state = load_checkpoint(s.resume, *model, *optimizer);
    first = state.step;
    default_generator() = state.generator;
    if (const Json* r = state.notes.find("row")) row.curve = row_from_json(*r).curve;
    if (const Json* r = state.notes.find("recent"); r && r->is_number()) recent = r->as_double();
  }
  BackgroundLoader loader([&](int64_t i) { return task.batch(i); }, first);
  reset_peak_memory(Device(s.device));
  Progress progress(row.name, s.steps);
  std::vector<double> times;
  auto save = [&](int64_t step) {
    Json rows = Json::array();
    for (const Row& r : finished) rows.push_back(to_json(r));
    TrainingState state;
    state.step = step;
    state.generator = default_generator();
    state.notes.set("settings", s.key());
    state.notes.set("finished", rows);
    state.notes.set("row", to_json(row));
    state.notes.set("recent", recent);
    save_checkpoint(s.save, *model, *optimizer, state);
  };
  model->train();
  const int64_t warmup = std::max<int64_t>(1, s.steps / 10);
  for (int64_t step = first; step < s.steps; ++step) {
    const Batch b = loader.next();
    const double start = seconds();
    optimizer->set_lr(warmup_cosine(step, warmup, s.steps, s.lr, 0.1 * s.lr));
    optimizer->zero_grad();
    const Tensor loss = task.loss(*model, {b.x.to(Device(s.device)), b.y.to(Device(s.device))});
    loss.backward();
    clip_grad_norm_(model->parameters(), s.clip);
    optimizer->step();
    const double value = loss.item(), took = seconds() - start;
    if (!std::isfinite(value))
      fail<Error>({"train: ", row.name, ": the loss became ", value, " at step ", step + 1});
    times.push_back(took);
    spent += took;
    recent = std::isnan(recent) ? value : 0.9 * recent + 0.1 * value;
    if ((step + 1) * 10 / s.steps != step * 10 / s.steps) row.curve.push_back(recent);
    if (!s.json || isatty(2))
      progress.show(step + 1, recent, 1000 * spent / static_cast<double>(times.size()));
    if (!s.save.empty() && ((step + 1) % s.save_every == 0 || step + 1 == s.steps)) save(step + 1);
  }
  std::sort(times.begin(), times.end());
  row.ms = times.empty() ? NAN : 1000 * times[times.size() / 2];
  row.peak_mb = static_cast<double>(memory_stats(Device(s.device)).peak) / 1e6;
  row.optimizer_mb = static_cast<double>(optimizer->state_bytes()) / 1e6;
  model->eval();
  const Score score = task.evaluate(*model, Device(s.device));
  row.loss = score.loss;
  row.metric = score.metric;
  return row;
}

int run(const Settings& s) {
  if (s.steps <= 0) fail<OptionError>({"train: --steps is ", s.steps, ", expected at least 1"});
  if (s.save_every <= 0)
    fail<OptionError>({"train: --save-every is ", s.save_every, ", expected at least 1"});
  if (!(s.lr > 0)) fail<OptionError>({"train: --lr is ", s.lr, ", expected a positive number"});
  std::vector<Swap> swaps;
  for (const auto& t : s.swaps) swaps.push_back(parse_swap(t));
  if (!s.save.empty()) {
    const auto folder = std::filesystem::path(s.save).parent_path();
    if (!folder.empty() && !std::filesystem::is_directory(folder))
      fail<FileError>({"train: --save ", s.save, ": there is no folder ", folder.string()});
  }
  const std::unique_ptr<Task> task(make_task(s.task).release());
  for (const Swap& change : swaps) {  // refuse a swap that cannot be made before training anything
    if (registry().find(change.from).kind == ComponentKind::Optimizer) continue;
    Box<Module> trial = task->make_model();
    swap(*trial, change.from, change.to, change.options);
  }
  std::vector<Row> rows;
  bool resume = !s.resume.empty();
  if (resume) {
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
  }
  while (rows.size() <= swaps.size()) {
    rows.push_back(
        train_one(s, *task, rows.empty() ? nullptr : &swaps[rows.size() - 1], rows, resume));
    resume = false;
  }
  if (s.json) {
    Json out = Json::object(), list = Json::array();
    for (const Row& r : rows) list.push_back(to_json(r));
    out.set("task", s.task.task);
    out.set("metric", task->metric_name());
    out.set("steps", s.steps);
    out.set("runs", list);
    fmt::print("{}\n", out.dump(2));
    return 0;
  }
  std::size_t width = 10;
  for (const Row& r : rows) width = std::max(width, r.name.size());
  fmt::print("\n{:<{}}  {:>10}  {:>9}  {:>12}  {:>9}  {:>8}  {:>12}\n", s.task.task, width,
             "parameters", "loss", task->metric_name(), "ms/step", "peak MB", "optimizer MB");
  for (const Row& r : rows)
    fmt::print("{:<{}}  {:>10}  {:>9.4f}  {:>12.4f}  {:>9.2f}  {:>8.1f}  {:>12.2f}\n", r.name,
               width, r.parameters, r.loss, r.metric, r.ms, r.peak_mb, r.optimizer_mb);
  return 0;
}

}  // namespace

void add_train(CommandLine& line) {
  auto s = std::make_shared<Settings>();
  line.add("train", "trains a model and the same model with a component swapped, and compares them",
           [s] { return run(*s); })
      .option("--task", s->task.task, "recall, text or images", true)
      .option("--data", s->task.data,
              "a text file, or a folder with IDX files; none: a generated task")
      .option("--swap", s->swaps,
              "OLD=NEW or OLD=NEW:{\"option\": value}; may be repeated, one run each")
      .option("--steps", s->steps, "optimizer steps")
      .option("--batch", s->task.batch, "sequences or pictures per step; 0: the task's own")
      .option("--length", s->task.length, "length of a sequence; 0: the task's own")
      .option("--width", s->task.width,
              "embed_dim, or channels of the first block; 0: the task's own")
      .option("--layers", s->task.layers, "blocks; 0: the task's own")
      .option("--vocab", s->task.vocab, "ids of the recall task; 0: the task's own")
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
