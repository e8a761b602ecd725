// SparseIFTLinear: a larger sparse layer at the work of the dense one.
#pragma once
#include <functional>

#include "dropin/module/parameters.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/linear.h"

namespace dropin {

namespace detail {
/// What the sparse layers of Sparse-IFT share.
struct SparseIFTOptions {
  std::string transform = "wide";
  double sparsity = 0.5;
  std::string norm = "none", activation = "relu";
  bool sparse_u_only = false, widen_in = true, widen_out = true, bias = true;
  std::optional<double> density = std::nullopt;
  std::string mask_init = "exact";
  bool rescale_init = false;
  template <class O>
  static void fields_of(auto&& f) {
    f("transform", &O::transform,
      "wide, parallel (branches), factorized (V act(norm(U x))) or doped (sparse plus low rank)");
    f("sparsity", &O::sparsity, "s, share of zeros, between 0 and 1");
    f("norm", &O::norm, "of branches or of the factorized hidden layer: none or batchnorm");
    f("activation", &O::activation, "of the factorized hidden layer: relu or none");
    f("sparse_u_only", &O::sparse_u_only, "V of factorized is dense");
    f("widen_in", &O::widen_in, "wide: the input is widened too; false for a first layer");
    f("widen_out", &O::widen_out, "wide: the output is widened; false for a last layer");
    f("bias", &O::bias, "on the output");
    f("density", &O::density, "share of active entries; null: 1 - sparsity");
    f("mask_init", &O::mask_init,
      "exact (so many random entries), random (each by chance), topk (largest weights) or dense");
    f("rescale_init", &O::rescale_init, "initial weights over sqrt(1 - sparsity)");
  }
};

/// The tensors of a layer in one of the four forms, and its forward.
class SparseIFT {
 public:
  /// Where parameters, buffers and bundles of them are created.
  struct Host {
    std::function<Tensor&(const std::string&, const Tensor&)> parameter, buffer;
    std::function<Parameters&(const std::string&)> bundle;
    std::function<Child<BatchNorm2d>(const std::string&, int64_t)> norm;
  };
  /// A layer of `in` and `out` features and kernels of these sizes (empty: a matrix). OptionError
  /// naming `who` when the options do not fit.
  void create(std::string_view who, const SparseIFTOptions& o, int64_t in, int64_t out,
              const Shape& kernel, const Host& host);
  /// apply(x, weight, first): the map by a weight; not `first`: by a pointwise one.
  using Apply = std::function<Tensor(const Tensor& x, const Tensor& weight, bool first)>;
  Tensor forward(const Tensor& x, const Apply& apply) const;
  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  Tensor bias() const { return bias_ ? *bias_ : Tensor(); }
  /// Gradients of sparse weights come unmasked, for an update of the masks.
  void want_dense_grad(bool on) { dense_grad_ = on; }
  /// Weights become 0 where their mask is.
  void fold();
  /// |V U|^2 of factorized and doped; OptionError otherwise.
  Tensor folded_weight_norm() const;
  struct Weight {
    Tensor* weight = nullptr;
    Tensor* mask = nullptr;  ///< null: dense
  };
  /// Sparse weights with their masks.
  std::vector<Weight> sparse_weights() const;

 private:
  Tensor masked(const Weight& w) const;
  struct Builder;
  std::string who_, transform_, activation_;
  int64_t in_ = 0, out_ = 0;
  bool dense_grad_ = false;
  std::vector<Weight> first_;  ///< of x: wide's, the branches', U, the sparse one
  Weight u_, v_;
  std::vector<Child<BatchNorm2d>> norms_;  ///< of the branches, or of the hidden layer
  Tensor* bias_ = nullptr;
};

/// A layer whose tensors are a SparseIFT's, created as the layer's own.
template <class Self, class O, class Family>
class SparseIFTLayer : public Component<Self, O, Family> {
 public:
  static void traits(const O& o, Traits& t) { t.mixes_batch = o.norm == "batchnorm"; }
  SparseIFT& core() { return core_; }

 protected:
  explicit SparseIFTLayer(const O& o) : Component<Self, O, Family>(o) {}
  /// SparseIFT::create of this layer's options.
  void create(int64_t in, int64_t out, const Shape& kernel) {
    SparseIFT::Host host;
    host.parameter = [this](const std::string& n, const Tensor& t) -> Tensor& {
      return this->parameter(n, t);
    };
    host.buffer = [this](const std::string& n, const Tensor& t) -> Tensor& {
      return Module::buffer(n, t);
    };
    host.bundle = [this](const std::string& n) -> Parameters& {
      return *this->template child<Parameters>(n).as();
    };
    host.norm = [this](const std::string& n, int64_t width) {
      return this->template child<BatchNorm2d>(n, {.num_features = width});
    };
    core_.create(this->who(), this->options_, in, out, kernel, host);
  }
  SparseIFT core_;
};
}  // namespace detail

struct SparseIFTLinearOptions : detail::SparseIFTOptions {
  int64_t in_features = 0, out_features = 0;  ///< required
  static void fields(auto&& f) {
    using O = SparseIFTLinearOptions;
    f("in_features", &O::in_features, "of the dense layer replaced; required");
    f("out_features", &O::out_features, "of the dense layer replaced; required");
    SparseIFTOptions::fields_of<O>(f);
  }
};

/// A larger sparse Linear at the work of a dense one (Thangarasa et al. 2024): wider, several
/// branches, factorized, or sparse plus low rank. Replaces Linear; with "wide" its sizes grow by
/// sqrt(1 / (1 - s)). x [*, in] -> [*, out]. Parameters and bool masks: weight, weight_mask (wide);
/// branches.<j>.weight, .weight_mask, .norm (parallel); U, norm, V (factorized); sparse, U.weight,
/// V.weight (doped); bias.
class SparseIFTLinear
    : public detail::SparseIFTLayer<SparseIFTLinear, SparseIFTLinearOptions, Projection> {
 public:
  static constexpr const char* kSummary = "a larger sparse Linear at the work of a dense one";
  static constexpr const char* kReplaces = "Linear";
  static constexpr const char* kPaper = "Thangarasa et al. 2024 (Sparse-IFT), arXiv 2303.11525";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  explicit SparseIFTLinear(const SparseIFTLinearOptions& o);
  Tensor forward(const Tensor& x) override;
};

}  // namespace dropin
