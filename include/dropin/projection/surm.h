// SURMLinear and SURMAdapter: structured matrices of full rank for fine-tuning.
#pragma once
#include "dropin/norm/norm.h"
#include "dropin/projection/lora.h"

namespace dropin {

namespace detail {
/// What a structured matrix M is made by.
struct StructureOptions {
  std::string structure = "circulant";
  bool use_prod = true;
  std::string toeplitz_product = "matrix";
  std::vector<int64_t> kron_shape = {};
  int64_t num_terms = 1;
  double init_std = 0.02;
  template <class O>
  static void fields_of(auto&& f) {
    f("structure", &O::structure, "circulant, toeplitz (symmetric), kronecker or ldr");
    f("use_prod", &O::use_prod, "two factors A, B (circulant, toeplitz)");
    f("toeplitz_product", &O::toeplitz_product,
      "of two factors: \"matrix\", S(B) S(A), or \"vector\", S(A * B)");
    f("kron_shape", &O::kron_shape,
      "shape of kronecker's A; empty: divisors of [out, in] nearest to the square roots");
    f("num_terms", &O::num_terms, "terms of ldr");
    f("init_std", &O::init_std, "of A (H of ldr); B (G) starts at 0");
  }
};

/// M [out, in] by the few numbers of its structure, which are parameters of `into`: A and B, or G
/// and H. OptionError naming `who` when they do not fit.
class StructuredMatrix {
 public:
  StructuredMatrix() = default;
  StructuredMatrix(std::string_view who, const StructureOptions& o, int64_t in, int64_t out,
                   Parameters& into);
  /// M x of each row of x [*, in]: [*, out].
  Tensor apply(const Tensor& x) const;
  /// M [out, in].
  Tensor dense() const;

 private:
  enum class Kind { Circulant, Toeplitz, Kronecker, Ldr } kind_ = Kind::Circulant;
  bool two_ = false;  // toeplitz as a product of matrices
  int64_t in_ = 0, out_ = 0;
  Tensor *a_ = nullptr, *b_ = nullptr;
};
}  // namespace detail

struct SURMLinearOptions : detail::StructureOptions {
  int64_t in_features = 0, out_features = 0;  ///< required
  double alpha = 1;
  bool trainable_alpha = false, bias = true;
  double dropout = 0;
  static void fields(auto&& f) {
    using O = SURMLinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    StructureOptions::fields_of<O>(f);
    f("alpha", &O::alpha, "factor of the update");
    f("trainable_alpha", &O::trainable_alpha, "the factor is learned, from 0 on");
    f("bias", &O::bias, "a frozen bias");
    f("dropout", &O::dropout, "on the input of the update, when training");
  }
};

/// y = x W^T + b + s M x with W and b frozen and M a structured matrix (Sehanobish et al. 2024,
/// sections 3 and 5). Replaces LoRALinear. x [*, in] -> [*, out]. Parameters weight, bias (frozen),
/// surm.A, surm.B ([n], or kronecker's factors) or surm.G, surm.H [num_terms, n], and scale [1]
/// with trainable_alpha. M is 0 at the start.
class SURMLinear : public Component<SURMLinear, SURMLinearOptions, detail::FrozenProjection> {
 public:
  static constexpr const char* kSummary = "a frozen Linear with a structured update of full rank";
  static constexpr const char* kReplaces = "LoRALinear";
  static constexpr const char* kPaper = "Sehanobish et al. 2024 (SURM), arXiv 2406.17740";
  static constexpr const char* kSample = R"({"in_features": 8, "out_features": 8})";
  static std::vector<std::string> examples();
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit SURMLinear(const SURMLinearOptions& o);
  /// The layer's weight and bias, frozen, under an update; sizes come from the layer.
  static Box<SURMLinear> from_linear(const Linear& layer, SURMLinearOptions o);
  Box<Module> make_like() const override {
    return alike(Box<SURMLinear>(new SURMLinear(options_)));
  }
  /// M [out, in].
  Tensor dense() const { return matrix_.dense(); }

 protected:
  Tensor update() const override { return scaled(matrix_.dense()); }
  Tensor updated(const Tensor& x) const override { return scaled(matrix_.apply(x)); }

 private:
  Tensor scaled(const Tensor& y) const { return scale_ ? y * *scale_ : y * options_.alpha; }
  detail::StructuredMatrix matrix_;
  Tensor* scale_ = nullptr;
};

struct SURMAdapterOptions : detail::StructureOptions {
  int64_t features = 0;  ///< required
  std::string activation = "gelu";
  bool ln_before = false, ln_after = false;
  double dropout = 0;
  static void fields(auto&& f) {
    using O = SURMAdapterOptions;
    f("features", &O::features, "n; required");
    StructureOptions::fields_of<O>(f);
    f("activation", &O::activation, "linear, relu, gelu, tanh or silu");
    f("ln_before", &O::ln_before, "LayerNorm on the branch");
    f("ln_after", &O::ln_after, "LayerNorm on the sum");
    f("dropout", &O::dropout, "on the input of M, when training");
  }
};

/// y = x + act(M x) + surm.bias, the bias after the activation as in the paper's code. Replaces
/// Adapter. x [*, n]. Parameters surm.* as SURMLinear's, surm.bias [n], norm_before, norm_after
/// (.weight, .bias).
class SURMAdapter : public Component<SURMAdapter, SURMAdapterOptions, HiddenEdit> {
 public:
  static constexpr const char* kSummary = "a structured matrix of full rank as an adapter";
  static constexpr const char* kReplaces = "Adapter";
  static constexpr const char* kPaper = SURMLinear::kPaper;
  static std::vector<std::string> examples();
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit SURMAdapter(const SURMAdapterOptions& o);
  /// M [n, n].
  Tensor dense() const { return matrix_.dense(); }

 protected:
  int64_t width() const override { return options_.features; }
  Tensor edit(const Tensor& rows) override;

 private:
  detail::StructuredMatrix matrix_;
  Tensor* bias_;
  Child<LayerNorm> norm_before_, norm_after_;
};

}  // namespace dropin
