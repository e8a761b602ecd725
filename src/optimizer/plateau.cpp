// What follows a measured value: a rate that falls on a plateau, and an end.
#include <algorithm>

#include "dropin/optimizer/lr_scheduler.h"
#include "kernels/hd.h"
#include "optimizer/common.h"

namespace dropin {

namespace {

void check_mode(const std::string& mode, const char* who) {
  DROPIN_CHECK(mode == "min" || mode == "max", OptionError, who, ": mode is \"", mode,
               "\", expected min or max");
}
double worst(const std::string& mode) {
  return mode == "min" ? kernels::kInf<double> : -kernels::kInf<double>;
}

int64_t counter(const NamedTensors& state, const char* name) {
  return state.get(name, "ReduceLROnPlateau").item<int64_t>();
}

}  // namespace

ReduceLROnPlateau::ReduceLROnPlateau(Optimizer& optimizer, const ReduceLROnPlateauOptions& o)
    : optimizer_(&optimizer), options_(o), best_(worst(o.mode)) {
  check_mode(o.mode, "ReduceLROnPlateau");
  DROPIN_CHECK(o.factor < 1, OptionError, "ReduceLROnPlateau: factor is ", o.factor,
               ", expected below 1");
  DROPIN_CHECK(o.threshold_mode == "rel" || o.threshold_mode == "abs", OptionError,
               "ReduceLROnPlateau: threshold_mode is \"", o.threshold_mode,
               "\", expected rel or abs");
}
void ReduceLROnPlateau::step(double metric) {
  ++last_epoch_;
  const double sign = options_.mode == "min" ? -1 : 1;
  const double bound = options_.threshold_mode == "rel" ? best_ * (1 + sign * options_.threshold)
                                                        : best_ + sign * options_.threshold;
  if (options_.mode == "min" ? metric < bound : metric > bound) {
    best_ = metric;
    bad_ = 0;
  } else {
    ++bad_;
  }
  if (cooling_ > 0) {
    --cooling_;
    bad_ = 0;
  }
  if (bad_ <= options_.patience) return;
  cooling_ = options_.cooldown;
  bad_ = 0;
  for (std::size_t g = 0; g < optimizer_->param_groups().size(); ++g) {
    const double old = optimizer_->lr(g), now = std::max(old * options_.factor, options_.min_lr);
    if (old - now > options_.eps) optimizer_->set_lr(g, now);
  }
}
std::vector<double> ReduceLROnPlateau::get_last_lr() const { return detail::rates_of(*optimizer_); }
NamedTensors ReduceLROnPlateau::state_dict() const {
  return {{"last_epoch", scalar(last_epoch_, kInt64)},
          {"best", scalar(best_, kFloat64)},
          {"num_bad_epochs", scalar(bad_, kInt64)},
          {"cooldown_counter", scalar(cooling_, kInt64)}};
}
void ReduceLROnPlateau::load_state_dict(const NamedTensors& state) {
  const int64_t epoch = counter(state, "last_epoch"), bad = counter(state, "num_bad_epochs"),
                cooling = counter(state, "cooldown_counter");
  best_ = state.get("best", "ReduceLROnPlateau").item();
  last_epoch_ = epoch;
  bad_ = bad;
  cooling_ = cooling;
}

EarlyStopping::EarlyStopping(const EarlyStoppingOptions& o) : options_(o), best_(worst(o.mode)) {
  check_mode(o.mode, "EarlyStopping");
  DROPIN_CHECK(o.patience > 0, OptionError, "EarlyStopping: patience is ", o.patience,
               ", expected at least 1");
  DROPIN_CHECK(o.min_delta >= 0, OptionError, "EarlyStopping: min_delta is ", o.min_delta,
               ", expected at least 0");
}
bool EarlyStopping::step(double metric) {
  const bool better = options_.mode == "min" ? metric < best_ - options_.min_delta
                                             : metric > best_ + options_.min_delta;
  if (better) best_ = metric;
  bad_ = better ? 0 : bad_ + 1;
  return bad_ >= options_.patience;
}

}  // namespace dropin
