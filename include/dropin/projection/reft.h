// LoReFT and DiReFT: hidden states edited within a low-rank subspace.
#pragma once
#include "dropin/projection/adapter.h"

namespace dropin {

struct ReFTOptions {
  int64_t embed_dim = 0, low_rank_dimension = 0;  ///< required
  std::string act_fn = "linear";
  double dropout = 0;
  std::string parametrization = "householder", variant = "";
  bool add_bias = false, identity_init = false;
  static void fields(auto&& f) {
    using O = ReFTOptions;
    f("embed_dim", &O::embed_dim, "d; required");
    f("low_rank_dimension", &O::low_rank_dimension, "r; required");
    f("act_fn", &O::act_fn, "of the learned source: linear, relu, gelu, silu or tanh");
    f("dropout", &O::dropout, "on edited rows as a whole, when training");
    f("parametrization", &O::parametrization,
      "\"householder\" keeps R orthonormal (r < d), \"none\" uses it as stored");
    f("variant", &O::variant,
      "\"\", \"noreft\" (an unconstrained map for R), \"consreft\" (a constant source) or "
      "\"lobireft\" (a constant added)");
    f("add_bias", &O::add_bias, "bias of noreft's map");
    f("identity_init", &O::identity_init, "LoReFT: starts as the identity");
  }
};

/// What LoReFT and DiReFT share: the source W h + b, and R^T with orthonormal columns. Parameters
/// learned_source.weight [r, d], learned_source.bias [r], rotate_layer.original [d, r] and buffer
/// rotate_layer.base [d, d] (householder, as torch's orthogonal parametrization) or
/// rotate_layer.weight [d, r] (none); proj.weight [r, d] for noreft. pyreft's own file names are
/// accepted.
class LowRankEdit : public HiddenEdit {
 public:
  /// R^T [d, r] as it stands.
  Tensor rotation() const;
  /// "none": makes the columns of R^T orthonormal again (QR with a positive diagonal). OptionError
  /// otherwise.
  void retract();

 protected:
  void create(std::string_view who, const ReFTOptions& o, bool directed);
  int64_t width() const override { return width_; }
  Tensor edit(const Tensor& rows) override;
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  int64_t width_ = 0, rank_ = 0;
  ReFTOptions shared_;
  bool subtracts_ = false;  // LoReFT takes R h away
  Tensor *weight_ = nullptr, *bias_ = nullptr, *rotate_ = nullptr, *base_ = nullptr;
  Child<Linear> proj_;
};

/// y = h + R^T (act(W h + b) - R h): the coordinates in a subspace are replaced (Wu et al. 2024,
/// section 3.2).
class LoReFT : public Component<LoReFT, ReFTOptions, LowRankEdit> {
 public:
  static constexpr const char* kSummary = "coordinates in a learned subspace, replaced";
  static constexpr const char* kReplaces = "Adapter";
  static constexpr const char* kPaper = "Wu et al. 2024 (ReFT), arXiv 2404.03592";
  static std::vector<std::string> examples();
  explicit LoReFT(const ReFTOptions& o) : Component(o) { create(who(), o, true); }
};

/// y = h + R^T act(W h + b): the direct form.
class DiReFT : public Component<DiReFT, ReFTOptions, LowRankEdit> {
 public:
  static constexpr const char* kSummary = "a learned vector of a subspace, added";
  static constexpr const char* kReplaces = "Adapter";
  static constexpr const char* kPaper = LoReFT::kPaper;
  static std::vector<std::string> examples();
  explicit DiReFT(const ReFTOptions& o) : Component(o) { create(who(), o, false); }
};

/// "f3+l4": of lengths [B] int64 the first 3 and the last 4 places, at most half of them each; then
/// -1. [B, 7] int64. OptionError on another form, IndexError on a negative length.
Tensor reft_positions(const Tensor& lengths, const std::string& positions);

}  // namespace dropin
