#include "dropin/module/averaged_model.h"

namespace dropin {

namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

void check_alike(const Named& mine, const Named& theirs, const char* what) {
  DROPIN_CHECK(mine.size() == theirs.size(), StateError, "AveragedModel: the model has ",
               theirs.size(), " ", what, ", expected ", mine.size(), " as when it was copied");
  for (std::size_t i = 0; i < mine.size(); ++i)
    DROPIN_CHECK(
        mine[i].first == theirs[i].first && mine[i].second.sizes() == theirs[i].second.sizes(),
        StateError, "AveragedModel: the model has ", theirs[i].first, " ", theirs[i].second.sizes(),
        ", expected ", mine[i].first, " ", mine[i].second.sizes(), " as when it was copied");
}

}  // namespace

AveragedModel::AveragedModel(const Module& model, const AveragedModelOptions& o)
    : options_(o), module_(model.clone()) {
  DROPIN_CHECK(o.decay >= 0 && o.decay < 1, OptionError, "AveragedModel: decay is ", o.decay,
               ", expected at least 0 and below 1");
  module_->requires_grad_(false);
}

void AveragedModel::update_parameters(const Module& model) {
  no_grad guard;
  const Named mine = module_->named_parameters(), theirs = model.named_parameters(),
              kept = module_->named_buffers(), buffers = model.named_buffers();
  check_alike(mine, theirs, "parameters");
  check_alike(kept, buffers, "buffers");
  const double move = options_.average ? 1.0 / static_cast<double>(n_ + 1) : 1 - options_.decay;
  const auto moved = [&](Tensor mean, const Tensor& now) {
    if (n_ == 0 || !is_floating(mean.dtype()))
      mean.copy_(now.detach());
    else
      mean.add_((now.detach().to(mean.device()).to(mean.dtype()) - mean) * move);
  };
  for (std::size_t i = 0; i < mine.size(); ++i) moved(mine[i].second, theirs[i].second);
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (options_.use_buffers)
      moved(kept[i].second, buffers[i].second);
    else
      Tensor(kept[i].second).copy_(buffers[i].second.detach());
  }
  ++n_;
}

StateDict AveragedModel::state_dict() const {
  StateDict r{{"n_averaged", scalar(n_, kInt64)}};
  for (const auto& [n, t] : module_->state_dict()) r.set("module." + n, t);
  return r;
}

void AveragedModel::load_state_dict(const StateDict& state) {
  const int64_t n = state.get("n_averaged", "AveragedModel").item<int64_t>();
  StateDict own;
  const std::string_view prefix = "module.";
  for (const auto& [name, t] : state)
    if (name.starts_with(prefix)) own.set(name.substr(prefix.size()), t);
  module_->load_state_dict(own);
  n_ = n;
}

}  // namespace dropin
