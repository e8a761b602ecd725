// Normalisation by statistics per channel, of the batch or of each sample, PyTorch's names and
// buffers.
#pragma once
#include "dropin/norm/contract.h"

namespace dropin {

struct BatchNormOptions {
  int64_t num_features = 0;  ///< required
  double eps = 1e-5;
  std::optional<double> momentum = 0.1;
  bool affine = true, track_running_stats = true;
  static void fields(auto&& f) {
    using O = BatchNormOptions;
    f("num_features", &O::num_features, "channels; required");
    f("eps", &O::eps, "added to the variance");
    f("momentum", &O::momentum, "share of the new statistics; null: cumulative average");
    f("affine", &O::affine, "learns weight and bias per channel");
    f("track_running_stats", &O::track_running_stats,
      "keeps running statistics for eval; otherwise batch statistics always");
  }
};
struct InstanceNormOptions {
  int64_t num_features = 0;  ///< required
  double eps = 1e-5;
  double momentum = 0.1;
  bool affine = false, track_running_stats = false;
  static void fields(auto&& f) {
    using O = InstanceNormOptions;
    f("num_features", &O::num_features, "channels; required");
    f("eps", &O::eps, "added to the variance");
    f("momentum", &O::momentum, "share of the new statistics");
    f("affine", &O::affine, "learns weight and bias per channel");
    f("track_running_stats", &O::track_running_stats,
      "keeps running statistics for eval; otherwise those of each sample always");
  }
};

namespace detail {
/// Weight, bias and running statistics of a layer per channel.
template <class Self, class O>
class ChannelNorm : public Component<Self, O, Norm> {
 public:
  explicit ChannelNorm(const O& o) : Component<Self, O, Norm>(o) {
    DROPIN_CHECK(o.num_features > 0, OptionError, this->who(), ": num_features is ", o.num_features,
                 ", expected a positive number");
    const Shape channels{o.num_features};
    weight_ = &this->parameter("weight", o.affine ? ones(channels) : Tensor());
    bias_ = &this->parameter("bias", o.affine ? zeros(channels) : Tensor());
    const bool track = o.track_running_stats;
    mean_ = &this->buffer("running_mean", track ? zeros(channels) : Tensor());
    var_ = &this->buffer("running_var", track ? ones(channels) : Tensor());
    batches_ = &this->buffer("num_batches_tracked", track ? zeros({}, kInt64) : Tensor());
  }

 protected:
  /// ShapeError unless x is [B, C] and one of `more` dimensions behind.
  void check(const Tensor& x, std::initializer_list<int64_t> more, const char* expected) const {
    bool fits = x.dim() >= 2 && x.size(1) == this->options_.num_features, one = false;
    for (const int64_t d : more) one = one || x.dim() == 2 + d;
    DROPIN_CHECK(fits && one, ShapeError, this->who(), ": x is ", x.sizes(), ", expected [B, ",
                 this->options_.num_features, expected);
  }
  /// As torch does for old checkpoints: the counter may be missing beside the other statistics.
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>&) const override {
    if (batches_->defined() && state.contains(prefix + "running_mean") &&
        !state.contains(prefix + "num_batches_tracked"))
      state.set(prefix + "num_batches_tracked", batches_->clone());
  }
  /// By statistics of the batch when training, which move the running ones; else by these.
  Tensor by_batch(const Tensor& x) {
    const O& o = this->options_;
    const bool training = this->is_training(), batch = training || !o.track_running_stats;
    double momentum = std::optional<double>(o.momentum).value_or(0);
    if (training && o.track_running_stats) {
      DROPIN_CHECK(x.numel() != x.size(1), ShapeError, this->who(),
                   ": expected more than 1 value per channel when training, got x of ", x.sizes());
      batches_->add_(1);
      if (!std::optional<double>(o.momentum)) momentum = 1 / batches_->item();
    }
    const bool given = training || !batch;
    return batch_norm(x, given ? *mean_ : Tensor(), given ? *var_ : Tensor(), *weight_, *bias_,
                      batch, momentum, o.eps);
  }
  /// By statistics of each sample, or, where they are tracked and after eval(), the running ones.
  Tensor by_sample(const Tensor& x) {
    const O& o = this->options_;
    const bool track = o.track_running_stats, training = this->is_training();
    if (track && !training) return batch_norm(x, *mean_, *var_, *weight_, *bias_, false, 0, o.eps);
    DROPIN_CHECK(x.flatten(2).size(2) != 1, ShapeError, this->who(),
                 ": expected more than 1 value per channel of a sample, got x of ", x.sizes());
    if (track && x.size(0) > 0) follow(x.detach());
    return group_norm(x, o.num_features, *weight_, *bias_, o.eps);
  }

 private:
  /// Moves the running statistics towards the samples' mean and unbiased variance; as in torch, the
  /// batches are not counted.
  void follow(const Tensor& x) {
    no_grad guard;
    const Tensor flat = x.flatten(2);
    const double m = std::optional<double>(this->options_.momentum).value_or(0);
    mean_->mul_(1 - m).add_(flat.mean(2).mean(0).to(mean_->dtype()), m);
    var_->mul_(1 - m).add_(flat.var(2).mean(0).to(var_->dtype()), m);
  }
  Tensor *weight_, *bias_, *mean_, *var_, *batches_;
};
/// x [batch, channels, length], the batch of several samples.
Sample sample_channels(const SampleSpec& s, int64_t channels);
}  // namespace detail

/// y = (x - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c], statistics per channel over batch
/// and positions when training, the running ones after eval() (Ioffe & Szegedy 2015). x [B, C] or
/// [B, C, L]. Buffers running_mean, running_var (over n - 1), num_batches_tracked.
/// torch.nn.BatchNorm1d.
class BatchNorm1d : public detail::ChannelNorm<BatchNorm1d, BatchNormOptions> {
 public:
  static constexpr const char* kSummary =
      "mean 0 and variance 1 per channel of rows or signals over the batch";
  static constexpr const char* kCall = "x [B, C] or [B, C, L] -> y of the same shape";
  static constexpr const char* kPaper = "Ioffe & Szegedy 2015, arXiv 1502.03167";
  static Sample sample(const Options& o, const SampleSpec& s) {
    return detail::sample_channels(s, o.num_features);
  }
  static void traits(const Options&, Traits& t) { t.mixes_batch = true; }
  explicit BatchNorm1d(const BatchNormOptions& o) : ChannelNorm(o) {}
  Tensor forward(const Tensor& x) override {
    check(x, {0, 1}, "] or [B, C, L]");
    return by_batch(x);
  }
};

using BatchNorm2dOptions = BatchNormOptions;
/// The same of pictures: x [B, C, H, W]. torch.nn.BatchNorm2d.
class BatchNorm2d : public detail::ChannelNorm<BatchNorm2d, BatchNorm2dOptions> {
 public:
  static constexpr const char* kSummary = "mean 0 and variance 1 per channel over the batch";
  static void traits(const Options&, Traits& t) { t.mixes_batch = true; }
  explicit BatchNorm2d(const BatchNorm2dOptions& o) : ChannelNorm(o) {}
  Tensor forward(const Tensor& x) override {
    check(x, {2}, ", H, W]");
    return by_batch(x);
  }
};

/// y = (x - mean) / sqrt(var + eps) * weight[c] + bias[c], statistics per sample and channel
/// (Ulyanov et al. 2016). x [B, C, L]. With track_running_stats their mean over the batch is kept,
/// and used after eval(). torch.nn.InstanceNorm1d.
class InstanceNorm1d : public detail::ChannelNorm<InstanceNorm1d, InstanceNormOptions> {
 public:
  static constexpr const char* kSummary = "mean 0 and variance 1 per channel of each signal";
  static constexpr const char* kCall = "x [B, C, L] -> y of the same shape";
  static constexpr const char* kPaper = "Ulyanov et al. 2016, arXiv 1607.08022";
  static Sample sample(const Options& o, const SampleSpec& s) {
    return detail::sample_channels(s, o.num_features);
  }
  explicit InstanceNorm1d(const InstanceNormOptions& o) : ChannelNorm(o) {}
  Tensor forward(const Tensor& x) override {
    check(x, {1}, ", L]");
    return by_sample(x);
  }
};

/// The same of pictures: x [B, C, H, W]. torch.nn.InstanceNorm2d.
class InstanceNorm2d : public detail::ChannelNorm<InstanceNorm2d, InstanceNormOptions> {
 public:
  static constexpr const char* kSummary = "mean 0 and variance 1 per channel of each picture";
  static constexpr const char* kPaper = "Ulyanov et al. 2016, arXiv 1607.08022";
  static std::vector<std::string> examples() {
    return {R"({"affine": true, "track_running_stats": true})"};
  }
  explicit InstanceNorm2d(const InstanceNormOptions& o) : ChannelNorm(o) {}
  Tensor forward(const Tensor& x) override {
    check(x, {2}, ", H, W]");
    return by_sample(x);
  }
};

}  // namespace dropin
