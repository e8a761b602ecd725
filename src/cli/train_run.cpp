// One training run: model, optimizer, steps, checkpoints, score.
#include "cli/train_run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
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

/// A variant being trained.
class Training {
 public:
  /// The model with its change, and the optimizer of its parameters.
  Training(const TrainSettings& s, const Task& task, const TrainSwap* change, bool resume)
      : s_(s), task_(task) {
    row_.name = change ? change->text : "standard";
    manual_seed(static_cast<std::uint64_t>(s.task.seed));
    model_ = task.make_model();
    std::string optimizer_name = s.optimizer;
    Json optimizer_options = Json::object();
    if (change && registry().find(change->from).kind == ComponentKind::Optimizer) {
      if (change->from != s.optimizer)
        fail<OptionError>({"train: --swap ", change->text, ": the optimizer is ", s.optimizer});
      optimizer_name = change->to;
      optimizer_options = change->options;
    } else if (change) {
      const SwapReport report = swap(*model_, change->from, change->to, change->options);
      if (!s.json && !resume) fmt::print(stderr, "{}", report.str());
    }
    model_->to(Device(s.device));
    row_.parameters = model_->num_parameters();
    optimizer_options.set("lr", s.lr);
    optimizer_ = make_optimizer(optimizer_name, model_->parameters(), optimizer_options);
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

TrainRow train_one(const TrainSettings& s, const Task& task, const TrainSwap* change,
                   const std::vector<TrainRow>& finished, bool resume) {
  return Training(s, task, change, resume).run(finished);
}

}  // namespace dropin::cli
