// The most likely class, and the Frechet mean over a metric of the labels (Loki).
#pragma once
#include <mutex>

#include "dropin/retrieval/contract.h"
#include "dropin/retrieval/label_metric.h"

namespace dropin {

/// prediction = argmax of each row, the first one on ties, -1 for a row with NaN; scores are the
/// probabilities.
class ArgmaxPredictor : public Component<ArgmaxPredictor, NoOptions, DecisionRule> {
 public:
  static constexpr const char* kSummary = "the most likely class";
  explicit ArgmaxPredictor(const NoOptions& o = {}) : Component(o) {}
  Decision forward(const Tensor& probs) override;
};

struct LokiPredictorOptions {
  bool normalize = false;
  std::string gradient = "scores";
  int64_t num_classes = 0;
  bool check_metric = false;
  static void fields(auto&& f) {
    using O = LokiPredictorOptions;
    f("normalize", &O::normalize, "divide rows by their sums");
    f("gradient", &O::gradient,
      "\"scores\": only they carry gradient; \"straight_through\": so does an output onehot");
    f("num_classes", &O::num_classes,
      "classes of the 0/1 metric to start with, all observed; 0: none until a metric is loaded");
    f("check_metric", &O::check_metric, "refuse a metric against the triangle inequality");
  }
};

/// Loki (Roberts et al. 2023, arXiv 2307.12226): predicts the class of least expected squared
/// distance, score[b, v] = sum_i P[b, i] d(v, observed_i)^2, the lowest index on ties. It can name
/// classes that were never observed. probs [B, K] -> prediction int64 [B], scores [B, N]. Buffers
/// dist [N, N] (distances), observed int64 [K], of the sizes that the file has. A class at infinite
/// distance counts where the probability is positive; where all are infinite the first observed
/// class is predicted; a row with NaN gives -1. Error for a metric that is not one.
class LokiPredictor : public Component<LokiPredictor, LokiPredictorOptions, DecisionRule> {
 public:
  static constexpr const char* kSummary = "the class nearest to all likely ones";
  static constexpr const char* kReplaces = "ArgmaxPredictor";
  static constexpr const char* kPaper = "Roberts et al. 2023, arXiv 2307.12226";
  static std::vector<std::string> examples();
  explicit LokiPredictor(const LokiPredictorOptions& o);
  /// Another metric; observed: all classes when undefined.
  void set_metric(const Tensor& dist, const Tensor& observed = {});
  static LokiPredictor from_tree(const std::vector<int64_t>& parents, const Tensor& observed = {},
                                 const LokiPredictorOptions& o = {});
  static LokiPredictor from_graph(int64_t nodes, const std::vector<GraphEdge>& edges,
                                  const Tensor& observed = {}, const LokiPredictorOptions& o = {});
  static LokiPredictor from_embeddings(const Tensor& embeddings, const std::string& metric = "l2",
                                       const Tensor& observed = {},
                                       const LokiPredictorOptions& o = {});
  Decision forward(const Tensor& probs) override;
  /// softmax(-scores / tau): a loss that is fine-tuned through the rule takes it.
  Tensor soft(const Tensor& probs, double tau = 1);

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  LabelDistances prepared();
  Tensor *dist_, *observed_;
  /// The checked metric, kept until it changes.
  struct Cache {
    std::mutex mutex;
    Tensor dist, observed;  ///< keep the storages that the versions count
    std::uint32_t dist_version = 0, observed_version = 0;
    LabelDistances prepared;
  };
  Box<Cache> cache_;
};

/// LokiPredictor's prediction alone, as a function. probs [B, K], dist [N, N], observed int64 [K]
/// -> int64 [B].
Tensor frechet_mean_predict(const Tensor& probs, const Tensor& dist, const Tensor& observed);

/// mean of dist[prediction, target]^2, float64 []. Both int64 [B]; IndexError outside [0, N).
Tensor mean_squared_distance(const Tensor& prediction, const Tensor& target, const Tensor& dist);

}  // namespace dropin
