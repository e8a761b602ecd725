// One training run: model, optimizer, steps, checkpoints, score.
#include "cli/train_run.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <memory>

#include "dropin/registry/registry.h"
#include "dropin/serialize/checkpoint.h"

namespace dropin::cli {

Json to_json(const TrainRow& r) {
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
TrainRow row_from_json(const Json& j) {
  auto number = [&](const char* key) {
    const Json* v = j.find(key);
    return v && v->is_number() ? v->as_double() : NAN;
  };
  TrainRow r;
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

namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Set by a signal: its number.
volatile std::sig_atomic_t g_signal = 0;

// Columns of the terminal behind stderr; 0 where there is none or it does not say.
std::size_t terminal_columns() {
  winsize size{};
  return ioctl(2, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
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
    const std::string numbers =
        fmt::format(" step {:>5}/{}  loss {:.4f}  {:.1f} ms/step  {:.0f} s left", step, steps_,
                    loss, ms, static_cast<double>(steps_ - step) * ms / 1000);
    write(fmt::format("{}{}{}", terminal_ ? "\r" : "", fitted(numbers),
                      last || !terminal_ ? "\n" : ""));
  }
  /// Leaves the line that is being overwritten.
  void leave() const {
    if (terminal_ && shown_ > 0) write("\n");
  }

 private:
  // The run's name and the numbers: in a terminal one line, cut where it ends, the name first.
  std::string fitted(const std::string& numbers) const {
    const std::size_t columns = terminal_ ? terminal_columns() : 0;
    std::size_t name = 36;
    if (columns)
      name = columns > numbers.size() + 1 ? std::min(name, columns - 1 - numbers.size()) : 0;
    std::string line = name_.size() > name && columns ? name_.substr(0, name) : name_;
    if (line.size() < name) line.resize(name, ' ');
    line += numbers;
    if (columns) line.resize(columns - 1, ' ');
    return line;
  }
  // A progress that nobody can read is no reason to end a training.
  static void write(const std::string& line) { std::fputs(line.c_str(), stderr); }

  std::string name_;
  int64_t steps_;
  bool terminal_;
  double shown_ = 0;
};

/// A variant being trained.
class Training {
 public:
  /// The model with its change, and the optimizer of its parameters.
  Training(const TrainSettings& s, const Task& task, const TrainSwap* change, bool resume)
      : s_(s), task_(task) {
    row_.name = change ? change->text : "standard";
    manual_seed(static_cast<std::uint64_t>(s.task.seed));
    model_ = task.make_model();
    if (change && registry().find(change->from).kind != ComponentKind::Optimizer) {
      const SwapReport report = swap(*model_, change->from, change->to, change->options);
      if (!s.json && !resume) fmt::print(stderr, "{}", report.str());
    }
    model_->to(Device(s.device));
    row_.parameters = model_->num_parameters();
    optimizer_ = optimizer_of(s, change, model_->parameters());
    if (resume) load();
  }

  TrainRow run(const std::vector<TrainRow>& finished) {
    BackgroundLoader loader([&](int64_t i) { return task_.batch(i); }, first_);
    reset_peak_memory(Device(s_.device));
    Progress progress(row_.name, s_.steps);
    model_->train();
    for (int64_t step = first_; step < s_.steps; ++step) {
      one_step(step, loader.next());
      if (!s_.json || isatty(2))
        progress.show(step + 1, recent_, 1000 * spent_ / static_cast<double>(times_.size()));
      if (!s_.save.empty() && ((step + 1) % s_.save_every == 0 || step + 1 == s_.steps))
        save(step + 1, finished);
      if (g_signal) stop(step + 1, finished, progress);
    }
    std::sort(times_.begin(), times_.end());
    row_.ms = times_.empty() ? NAN : 1000 * times_[times_.size() / 2];
    row_.peak_mb = static_cast<double>(memory_stats(Device(s_.device)).peak) / 1e6;
    row_.optimizer_mb = static_cast<double>(optimizer_->state_bytes()) / 1e6;
    model_->eval();
    const Score score = task_.evaluate(*model_, Device(s_.device));
    row_.loss = score.loss;
    row_.metric = score.metric;
    return row_;
  }

 private:
  void one_step(int64_t step, const Batch& b) {
    const int64_t warmup = std::max<int64_t>(1, s_.steps / 10);
    const double start = seconds();
    optimizer_->set_lr(warmup_cosine(step, warmup, s_.steps, s_.lr, 0.1 * s_.lr));
    const Batch here{b.x.to(Device(s_.device)), b.y.to(Device(s_.device))};
    const Tensor loss = optimizer_->step([&] {
      optimizer_->zero_grad();
      const Tensor now = task_.loss(*model_, here);
      now.backward();
      clip_grad_norm_(model_->parameters(), s_.clip);
      return now.detach();
    });
    const double value = loss.item(), took = seconds() - start;
    if (!std::isfinite(value))
      fail<Error>({"train: ", row_.name, ": the loss became ", value, " at step ", step + 1});
    times_.push_back(took);
    spent_ += took;
    recent_ = std::isnan(recent_) ? value : 0.9 * recent_ + 0.1 * value;
    if ((step + 1) * 10 / s_.steps != step * 10 / s_.steps) row_.curve.push_back(recent_);
  }

  [[noreturn]] void stop(int64_t step, const std::vector<TrainRow>& finished, const Progress& p) {
    p.leave();
    std::string text = fmt::format("train: interrupted at step {} of {}", step, s_.steps);
    if (s_.save.empty()) {
      text += "; nothing is kept (--save FILE would keep the state)";
    } else {
      save(step, finished);
      text += fmt::format("; the state is in {}: the same command with --resume {} goes on",
                          s_.save, s_.save);
    }
    throw Interrupted(g_signal, text);
  }

  void load() {
    const TrainingState state = load_checkpoint(s_.resume, *model_, *optimizer_);
    first_ = state.step;
    default_generator() = state.generator;
    if (const Json* r = state.notes.find("row")) row_.curve = row_from_json(*r).curve;
    if (const Json* r = state.notes.find("recent"); r && r->is_number()) recent_ = r->as_double();
  }

  void save(int64_t step, const std::vector<TrainRow>& finished) {
    Json rows = Json::array();
    for (const TrainRow& r : finished) rows.push_back(to_json(r));
    TrainingState state;
    state.notes = task_.notes();
    state.step = step;
    state.generator = default_generator();
    state.notes.set("settings", s_.key());
    state.notes.set("finished", rows);
    state.notes.set("row", to_json(row_));
    state.notes.set("recent", recent_);
    save_checkpoint(s_.save, *model_, *optimizer_, state);
  }

  const TrainSettings& s_;
  const Task& task_;
  TrainRow row_;
  Box<Module> model_;
  Box<Optimizer> optimizer_;
  int64_t first_ = 0;
  double recent_ = NAN, spent_ = 0;  // the mean of late losses, and seconds
  std::vector<double> times_;
};

}  // namespace

InterruptGuard::InterruptGuard() {
  struct sigaction action {};
  action.sa_handler = [](int number) { g_signal = number; };
  action.sa_flags = SA_RESTART | SA_RESETHAND;  // the second one ends the program
  for (int number : {SIGINT, SIGTERM}) {
    struct sigaction before {};
    sigaction(number, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(number, &action, nullptr);  // nohup stays nohup
  }
}
InterruptGuard::~InterruptGuard() {
  for (int number : {SIGINT, SIGTERM}) {
    struct sigaction now {};
    sigaction(number, nullptr, &now);
    if (now.sa_handler != SIG_IGN) std::signal(number, SIG_DFL);
  }
  g_signal = 0;
}

Box<Optimizer> optimizer_of(const TrainSettings& s, const TrainSwap* change,
                            const Tensors& parameters) {
  std::string name = s.optimizer;
  Json options = Json::object();
  if (change && registry().find(change->from).kind == ComponentKind::Optimizer) {
    if (change->from != s.optimizer)
      fail<OptionError>({"train: --swap ", change->text, ": the optimizer is ", s.optimizer});
    name = change->to;
    options = change->options;
  }
  options.set("lr", s.lr);
  return make_optimizer(name, parameters, options);
}

TrainRow train_one(const TrainSettings& s, const Task& task, const TrainSwap* change,
                   const std::vector<TrainRow>& finished, bool resume) {
  return Training(s, task, change, resume).run(finished);
}

}  // namespace dropin::cli
