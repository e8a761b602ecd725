// lookhere_bias and LookHereAttention: directed fields of view instead of position embeddings.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct LookHereBiasOptions {
  std::vector<int64_t> grid = {};  ///< required
  int64_t num_heads = 0;           ///< required
  std::string head_directions = "halves";
  double slope = 1;
  std::string distance = "linear", fill_with = "inf";
  int64_t prefix_tokens = 1;
  bool round_bfloat16 = false;
  static void fields(auto&& f) { fields_of<LookHereBiasOptions>(f); }
  template <class O>
  static void fields_of(auto&& f) {
    f("grid", &O::grid, "[rows, columns] of patches; required");
    f("num_heads", &O::num_heads, "H; required");
    f("head_directions", &O::head_directions,
      "groups of heads joined by \"-\": none, halves, corners, triangles, diagonals, eighths1, "
      "eighths2, center, zero, none1zero3, none2zero2, none3zero1, zerohalves, zerocorners, "
      "zerotriangles; or LH-180, LH-90, LH-45");
    f("slope", &O::slope, "global slope times the layer's");
    f("distance", &O::distance, "cost of a distance: \"linear\", \"sqrt\" or \"square\"");
    f("fill_with", &O::fill_with,
      "blocked pairs: \"inf\" (-3.39e38), \"zero\", or \"max\" (the head's greatest cost)");
    f("prefix_tokens", &O::prefix_tokens, "class tokens before the patches; they see all");
    f("round_bfloat16", &O::round_bfloat16, "rounds entries to bfloat16, as the official table");
  }
};

/// The additive table [H, c + gh gw, c + gh gw] float32 (Fuller et al. 2024, section 3): patch (y,
/// x) is token c + y gw + x; each head sees one way and pays slope x distance. OptionError on an
/// unknown group, a number of heads that the groups do not divide, or an empty grid.
Tensor lookhere_bias(const LookHereBiasOptions& options);

namespace detail {
/// The table in a compact form: one cost per head and offset between patches.
class LookHereTable {
 public:
  LookHereTable() = default;
  LookHereTable(std::string_view who, const LookHereBiasOptions& o);
  int64_t tokens() const { return prefix_ + height_ * width_; }
  /// Rows [H, count, tokens()] float64 of the table, from token `first` on.
  Tensor rows(int64_t first, int64_t count) const;
  /// For attention() on tokens in another order, where neighbours of the grid are near each other:
  /// token `order`[t] comes as number t, and `back` undoes it.
  struct Ordered {
    Tensor order, back;   ///< [tokens()] int64
    Tensor bias, places;  ///< AttentionParams::grid_bias and grid_places
    Tensor keyed;         ///< [1, H, 1, tokens()], an attn_mask; undefined: no head of "center"
  };
  const Ordered& ordered() const { return ordered_; }

 private:
  void set_order();
  Ordered ordered_;
  int64_t height_ = 0, width_ = 0, prefix_ = 0;
  Tensor moved_;  ///< [H, 2 gh - 1, 2 gw - 1] float64: by key minus query
  Tensor keyed_;  ///< [H, gh, gw] float64: by the key alone, for heads of "center"
  std::vector<bool> by_key_;
};
}  // namespace detail

struct LookHereAttentionOptions : LookHereBiasOptions {
  int64_t embed_dim = 0;  ///< required
  bool bias = true;
  static void fields(auto&& f) {
    using O = LookHereAttentionOptions;
    f("embed_dim", &O::embed_dim, "D, divisible by num_heads; required");
    LookHereBiasOptions::fields_of<O>(f);
    f("bias", &O::bias, "biases of the four projections");
  }
};

/// Attention of a vision transformer without position embeddings: softmax(q k^T / sqrt(e) +
/// lookhere_bias) v. Replaces MultiheadAttention. x [B, c + gh gw, D] of the current grid only; no
/// masks. Blocked pairs have weight and gradient 0. Nothing of the table is learned or saved.
/// Parameters q_proj, k_proj, v_proj, out_proj (.weight, .bias), normal cut at two standard
/// deviations of 0.02; the official qkv and proj are accepted. In float32 on the CPU, patches come
/// in tiles of the grid, and tiles that a head does not see cost nothing.
class LookHereAttention
    : public Component<LookHereAttention, LookHereAttentionOptions, ProjectedMixer> {
 public:
  static constexpr const char* kSummary = "attention of patches with directed views of heads";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Fuller et al. 2024 (LookHere), arXiv 2405.13985";
  static constexpr const char* kSample = R"({"grid": [2, 4], "num_heads": 4})";
  static std::vector<std::string> examples();
  static Sample sample(const Options& o, const SampleSpec& s);
  static void traits(const Options&, Traits& t) { t.fixed_length = t.takes_no_mask = true; }
  static double core_flops(const Options& o, const Shape& x) {
    return 4 * static_cast<double>(x[0] * x[1] * x[1]) * static_cast<double>(o.embed_dim);
  }
  explicit LookHereAttention(const LookHereAttentionOptions& o);
  /// Another grid and slope; parameters stay. OptionError as the constructor's, nothing changed
  /// then.
  void set_grid(int64_t height, int64_t width, double slope);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  /// Contexts [B, H, L, e], a few rows of the table at a time.
  Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v) const;
  detail::LookHereTable table_;
};

}  // namespace dropin
