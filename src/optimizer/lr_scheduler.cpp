// Rates by epoch.
#include "dropin/optimizer/lr_scheduler.h"

#include <algorithm>
#include <cmath>

#include "optimizer/common.h"

namespace dropin {

using detail::half_cosine;
using detail::rates_of;

namespace {

int64_t entry(const NamedTensors& state, const char* name, std::string_view who) {
  return state.get(name, who).item<int64_t>();
}

void check_factor(double v, const char* who, const char* what) {
  DROPIN_CHECK(v > 0 && v <= 1, OptionError, who, ": ", what, " is ", v,
               ", expected above 0 and at most 1");
}
void check_epochs(int64_t v, const char* who, const char* what) {
  DROPIN_CHECK(v > 0, OptionError, who, ": ", what, " is ", v, ", expected at least 1");
}
}  // namespace

// --- the base

std::vector<double> LRScheduler::get_last_lr() const { return rates_of(*optimizer_); }

void LRScheduler::go_to(int64_t epoch) {
  const auto& groups = optimizer_->param_groups();
  std::vector<double> rates;
  for (std::size_t g = 0; g < groups.size(); ++g)
    rates.push_back(rate(groups[g].initial_lr, epoch, g));
  apply_rest(epoch);
  for (std::size_t g = 0; g < rates.size(); ++g) optimizer_->set_lr(g, rates[g]);
  last_epoch_ = epoch;
}

NamedTensors LRScheduler::state_dict() const {
  return {{"last_epoch", scalar(last_epoch_, kInt64)}};
}
void LRScheduler::load_state_dict(const NamedTensors& state) {
  last_epoch_ = entry(state, "last_epoch", "the schedule");
}

// --- factors of the initial rate

LambdaLR::LambdaLR(Optimizer& optimizer, std::vector<Function> lr_lambda)
    : LRScheduler(optimizer), functions_(std::move(lr_lambda)) {
  const std::size_t groups = optimizer.param_groups().size();
  DROPIN_CHECK(functions_.size() == 1 || functions_.size() == groups, OptionError,
               "LambdaLR: ", functions_.size(), " functions for ", groups,
               " groups, expected one or one each");
  for (const Function& f : functions_)
    DROPIN_CHECK(f, OptionError, "LambdaLR: a function is empty");
  go_to(0);
}
double LambdaLR::rate(double initial, int64_t epoch, std::size_t group) const {
  return initial * functions_[functions_.size() == 1 ? 0 : group](epoch);
}

StepLR::StepLR(Optimizer& optimizer, const StepLROptions& o) : LRScheduler(optimizer), options_(o) {
  check_epochs(o.step_size, "StepLR", "step_size");
  go_to(0);
}
double StepLR::rate(double initial, int64_t epoch, std::size_t) const {
  return initial * std::pow(options_.gamma, static_cast<double>(epoch / options_.step_size));
}

MultiStepLR::MultiStepLR(Optimizer& optimizer, const MultiStepLROptions& o)
    : LRScheduler(optimizer), options_(o) {
  DROPIN_CHECK(std::is_sorted(o.milestones.begin(), o.milestones.end()), OptionError,
               "MultiStepLR: the milestones fall, expected them in rising order");
  go_to(0);
}
double MultiStepLR::rate(double initial, int64_t epoch, std::size_t) const {
  const auto& m = options_.milestones;
  const auto passed = std::upper_bound(m.begin(), m.end(), epoch) - m.begin();
  return initial * std::pow(options_.gamma, static_cast<double>(passed));
}

ExponentialLR::ExponentialLR(Optimizer& optimizer, double gamma)
    : LRScheduler(optimizer), gamma_(gamma) {
  go_to(0);
}
double ExponentialLR::rate(double initial, int64_t epoch, std::size_t) const {
  return initial * std::pow(gamma_, static_cast<double>(epoch));
}

LinearLR::LinearLR(Optimizer& optimizer, const LinearLROptions& o)
    : LRScheduler(optimizer), options_(o) {
  check_factor(o.start_factor, "LinearLR", "start_factor");
  DROPIN_CHECK(o.end_factor >= 0 && o.end_factor <= 1, OptionError, "LinearLR: end_factor is ",
               o.end_factor, ", expected 0 to 1");
  check_epochs(o.total_iters, "LinearLR", "total_iters");
  go_to(0);
}
double LinearLR::rate(double initial, int64_t epoch, std::size_t) const {
  const double share = static_cast<double>(std::min(epoch, options_.total_iters)) /
                       static_cast<double>(options_.total_iters);
  return initial * (options_.start_factor + (options_.end_factor - options_.start_factor) * share);
}

ConstantLR::ConstantLR(Optimizer& optimizer, const ConstantLROptions& o)
    : LRScheduler(optimizer), options_(o) {
  DROPIN_CHECK(o.factor >= 0 && o.factor <= 1, OptionError, "ConstantLR: factor is ", o.factor,
               ", expected 0 to 1");
  go_to(0);
}
double ConstantLR::rate(double initial, int64_t epoch, std::size_t) const {
  return epoch < options_.total_iters ? initial * options_.factor : initial;
}

PolynomialLR::PolynomialLR(Optimizer& optimizer, const PolynomialLROptions& o)
    : LRScheduler(optimizer), options_(o) {
  check_epochs(o.total_iters, "PolynomialLR", "total_iters");
  go_to(0);
}
double PolynomialLR::rate(double initial, int64_t epoch, std::size_t) const {
  const double share = static_cast<double>(std::min(epoch, options_.total_iters)) /
                       static_cast<double>(options_.total_iters);
  return initial * std::pow(1 - share, options_.power);
}

// --- cosines

CosineAnnealingLR::CosineAnnealingLR(Optimizer& optimizer, const CosineAnnealingLROptions& o)
    : LRScheduler(optimizer), options_(o) {
  check_epochs(o.T_max, "CosineAnnealingLR", "T_max");
  go_to(0);
}
double CosineAnnealingLR::rate(double initial, int64_t epoch, std::size_t) const {
  return half_cosine(initial, options_.eta_min,
                     static_cast<double>(epoch) / static_cast<double>(options_.T_max));
}

CosineAnnealingWarmRestarts::CosineAnnealingWarmRestarts(
    Optimizer& optimizer, const CosineAnnealingWarmRestartsOptions& o)
    : LRScheduler(optimizer), options_(o) {
  check_epochs(o.T_0, "CosineAnnealingWarmRestarts", "T_0");
  check_epochs(o.T_mult, "CosineAnnealingWarmRestarts", "T_mult");
  go_to(0);
}
double CosineAnnealingWarmRestarts::rate(double initial, int64_t epoch, std::size_t) const {
  int64_t length = options_.T_0, within = epoch;
  if (options_.T_mult == 1) within %= length;
  while (within >= length) {
    within -= length;
    length *= options_.T_mult;
  }
  return half_cosine(initial, options_.eta_min,
                     static_cast<double>(within) / static_cast<double>(length));
}

// --- one cycle

OneCycleLR::OneCycleLR(Optimizer& optimizer, const OneCycleLROptions& o)
    : LRScheduler(optimizer), options_(o) {
  const std::size_t groups = optimizer.param_groups().size();
  check_epochs(o.total_steps, "OneCycleLR", "total_steps");
  DROPIN_CHECK(o.max_lr.size() == 1 || o.max_lr.size() == groups, OptionError,
               "OneCycleLR: max_lr has ", o.max_lr.size(), " entries for ", groups,
               " groups, expected one or one each");
  DROPIN_CHECK(o.pct_start >= 0 && o.pct_start <= 1, OptionError, "OneCycleLR: pct_start is ",
               o.pct_start, ", expected 0 to 1");
  DROPIN_CHECK(o.anneal_strategy == "cos" || o.anneal_strategy == "linear", OptionError,
               "OneCycleLR: anneal_strategy is \"", o.anneal_strategy,
               "\", expected cos or linear");
  const auto total = static_cast<double>(o.total_steps), up = o.pct_start * total - 1;
  ends_ = o.three_phase ? std::vector<double>{up, 2 * o.pct_start * total - 2, total - 1}
                        : std::vector<double>{up, total - 1};
  if (o.cycle_momentum)
    for (const ParamGroup& g : optimizer.param_groups())
      DROPIN_CHECK(g.options.find("betas") || g.options.find("momentum"), OptionError,
                   "OneCycleLR: ", optimizer.type(),
                   " has neither momentum nor betas; set cycle_momentum to false");
  go_to(0);
}
double OneCycleLR::between(int64_t epoch, const std::vector<double>& corners) const {
  DROPIN_CHECK(epoch <= options_.total_steps, StateError, "OneCycleLR: step ", epoch,
               " is beyond total_steps, which is ", options_.total_steps);
  const auto now = static_cast<double>(epoch);
  std::size_t phase = 0;
  while (phase + 1 < ends_.size() && now > ends_[phase]) ++phase;
  const double start = phase ? ends_[phase - 1] : 0;
  const double share = std::min(1.0, (now - start) / (ends_[phase] - start));
  const double from = corners[phase], to = corners[phase + 1];
  return options_.anneal_strategy == "cos" ? half_cosine(from, to, share)
                                           : from + (to - from) * share;
}
double OneCycleLR::rate(double, int64_t epoch, std::size_t group) const {
  const double most = options_.max_lr[options_.max_lr.size() == 1 ? 0 : group],
               first = most / options_.div_factor, last = first / options_.final_div_factor;
  return between(epoch, options_.three_phase ? std::vector<double>{first, most, first, last}
                                             : std::vector<double>{first, most, last});
}
void OneCycleLR::apply_rest(int64_t epoch) {
  if (!options_.cycle_momentum) return;
  const double most = options_.max_momentum;
  const double momentum = between(epoch, {most, options_.base_momentum, most, most});
  Optimizer& all = optimizer();
  for (std::size_t g = 0; g < all.param_groups().size(); ++g) {
    const Json& options = all.param_groups()[g].options;
    Json changes = Json::object();
    if (const Json* betas = options.find("betas")) {
      Json pair = Json::array();
      pair.push_back(momentum);
      for (std::size_t i = 1; i < betas->size(); ++i) pair.push_back((*betas)[i]);
      changes.set("betas", pair);
    } else {
      changes.set("momentum", momentum);
    }
    all.set_options(g, changes);
  }
}

// --- one after another

SequentialLR::SequentialLR(Optimizer& optimizer, std::vector<LRScheduler*> schedulers,
                           std::vector<int64_t> milestones)
    : LRScheduler(optimizer),
      schedulers_(std::move(schedulers)),
      milestones_(std::move(milestones)) {
  DROPIN_CHECK(!schedulers_.empty() && milestones_.size() + 1 == schedulers_.size(), OptionError,
               "SequentialLR: ", schedulers_.size(), " schedules and ", milestones_.size(),
               " milestones, expected one milestone fewer than schedules");
  DROPIN_CHECK(std::is_sorted(milestones_.begin(), milestones_.end()), OptionError,
               "SequentialLR: the milestones fall, expected them in rising order");
  for (const LRScheduler* s : schedulers_)
    DROPIN_CHECK(s && s->optimizer_ == &optimizer, OptionError,
                 "SequentialLR: a schedule is of another optimizer");
  go_to(0);
}
std::pair<LRScheduler*, int64_t> SequentialLR::at_epoch(int64_t epoch) const {
  const auto passed = static_cast<std::size_t>(
      std::upper_bound(milestones_.begin(), milestones_.end(), epoch) - milestones_.begin());
  return {schedulers_[passed], passed ? epoch - milestones_[passed - 1] : epoch};
}
double SequentialLR::rate(double initial, int64_t epoch, std::size_t group) const {
  const auto [schedule, own] = at_epoch(epoch);
  return schedule->rate(initial, own, group);
}
void SequentialLR::apply_rest(int64_t epoch) {
  const auto [schedule, own] = at_epoch(epoch);
  schedule->apply_rest(own);
}

}  // namespace dropin
