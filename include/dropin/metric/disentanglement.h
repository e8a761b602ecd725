// Whether each attribute of the data sits in one latent dimension: gaps of mutual information.
#pragma once
#include "dropin/core/options.h"
#include "dropin/module/named_tensors.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct DisentanglementOptions {
  std::vector<int64_t> reg_dim = {};
  bool fill_reg_dim = false;
  Json discrete = Json(false);
  std::string estimator = "knn";
  int64_t bins = 20, n_neighbors = 3;
  double noise = 1e-10;
  int64_t seed = 0;
  bool exact_labels = false;
  double thresh = 1e-12, l2_reg = 1;
  std::string degenerate = "error";
  static void fields(auto&& f) {
    using O = DisentanglementOptions;
    f("reg_dim", &O::reg_dim,
      "latent meant for each attribute; empty: the first ones, or the best");
    f("fill_reg_dim", &O::fill_reg_dim, "mig and sap: an empty reg_dim means the first ones");
    f("discrete", &O::discrete, "whether attributes are labels: a bool, or one for each");
    f("estimator", &O::estimator, "\"knn\" (nearest neighbours) or \"histogram\"");
    f("bins", &O::bins, "of histograms");
    f("n_neighbors", &O::n_neighbors, "of knn");
    f("noise", &O::noise, "of knn, which parts equal values");
    f("seed", &O::seed, "of the noise");
    f("exact_labels", &O::exact_labels, "counts the information between label attributes");
    f("thresh", &O::thresh, "information and variance up to this are none");
    f("l2_reg", &O::l2_reg, "of sap's classifiers");
    f("degenerate", &O::degenerate, "a normalizer of 0 is an \"error\" or gives \"nan\"");
  }
};

struct DisentanglementScores {
  Tensor y;           ///< [A]; of modularity [D]
  Tensor mi;          ///< [D, A] information between latents and attributes; of sap its score
  Tensor subtrahend;  ///< int64 [A], what the gap is to; not of modularity
  Tensor normalizer;  ///< [A]; not of modularity and sap
};

// Scores of latents z [N, D] for attributes a [N, A] (or [N]), natural logarithms, float64 inside.
// Piecewise constant: a gradient is asked of sap with continuous attributes only (AutogradError).
/// Mutual information gap: the best latent's lead, over the entropy (Chen et al. 2018).
DisentanglementScores mig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o = {});
/// The lead over what can at most remain when attributes depend on each other (Watcharasupat, Lerch
/// 2021).
DisentanglementScores dmig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o = {});
/// The lead over latents that are meant for no attribute.
DisentanglementScores xmig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o = {});
/// The lead of the attribute a latent is meant for over the other attributes.
DisentanglementScores dlig(const Tensor& z, const Tensor& a, const DisentanglementOptions& o = {});
/// Whether each latent informs of one attribute only (Ridgeway, Mozer 2018).
DisentanglementScores modularity(const Tensor& z, const Tensor& a,
                                 const DisentanglementOptions& o = {});
/// The lead in squared correlation, or in the accuracy of a linear classifier (Kumar et al. 2018).
DisentanglementScores sap(const Tensor& z, const Tensor& a, const DisentanglementOptions& o = {});

struct DependencyAwareBundle {
  Tensor mig, dmig, xmig, dlig;  ///< [A]
  Tensor mi, attribute_mi;       ///< [D, A], [A, A]
};
DependencyAwareBundle dependency_aware_bundle(const Tensor& z, const Tensor& a,
                                              const DisentanglementOptions& o = {});

/// One of the above over batches, by its name. reset() empties it.
class DisentanglementAccumulator {
 public:
  DisentanglementAccumulator(std::string name, const DisentanglementOptions& o = {});
  void update(const Tensor& z, const Tensor& a);
  /// The results by their names. StateError before an update.
  NamedTensors compute() const;
  void reset() { z_ = a_ = {}; }

 private:
  std::string name_;
  DisentanglementOptions options_;
  Tensors z_, a_;
};

namespace detail {
/// The results of the score of that name, by theirs; OptionError when there is none.
NamedTensors disentanglement(const std::string& name, const Tensor& z, const Tensor& a,
                             const DisentanglementOptions& o);
}  // namespace detail

}  // namespace dropin
