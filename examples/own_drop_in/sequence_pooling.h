// A family written outside the library, with its standard member and a drop-in: pooling of a
// sequence, x [B, L, D] -> y [B, D].
#pragma once
#include "dropin/dropin.h"

namespace outside {

/// The contract: its call, samples of its inputs by size, options that every member understands,
/// and what a member must refuse.
class SequencePooling : public dropin::Unary<SequencePooling> {
 public:
  static constexpr const char* kFamily = "SequencePooling";
  static dropin::FamilyInfo family() {
    dropin::FamilyInfo f;
    f.name = kFamily;
    f.call = "x [B, L, D] -> y [B, D]";
    f.options = [](int size) { return dropin::json_of({{"embed_dim", size ? 256 : 8}}); };
    f.inputs = [](const dropin::Json& o, const dropin::SampleSpec& s) -> dropin::Sample {
      static constexpr int64_t kLengths[] = {9, 16, 512, 16384};
      const int64_t length = s.length >= 0 ? s.length : s.of(kLengths);
      const int64_t batch = s.batch >= 0 ? s.batch : 2;
      return {{{"x", s.normal({batch, length, dropin::option_or(o, {"embed_dim"}, 8)})}}};
    };
    f.bad_inputs = dropin::bad_shape({2, 5});
    return f;
  }

 protected:
  /// ShapeError unless x is [B, L, width] with a token at least.
  void check(const dropin::Tensor& x, int64_t width) const {
    DROPIN_CHECK(x.dim() == 3 && x.size(1) > 0 && x.size(2) == width, ShapeError, type(), ": x is ",
                 x.sizes(), ", expected [B, L >= 1, ", width, "]");
    DROPIN_CHECK(dropin::is_floating(x.dtype()), DTypeError, type(), ": x is ", x.dtype(),
                 ", expected a floating-point tensor");
  }
};

struct MeanPoolingOptions {
  int64_t embed_dim = 0;  ///< required
  static void fields(auto&& f) {
    f("embed_dim", &MeanPoolingOptions::embed_dim, "width D of each token; required");
  }
};

/// y = mean over L of x. The standard member.
class MeanPooling : public dropin::Component<MeanPooling, MeanPoolingOptions, SequencePooling> {
 public:
  static constexpr const char* kSummary = "the mean of all tokens";
  explicit MeanPooling(const MeanPoolingOptions& o) : Component(o) {
    DROPIN_CHECK(o.embed_dim > 0, OptionError, who(), ": embed_dim is ", o.embed_dim,
                 ", expected a positive number");
  }
  dropin::Tensor forward(const dropin::Tensor& x) override {
    check(x, options_.embed_dim);
    return dropin::mean(x, {1});
  }
};

struct AttentivePoolingOptions {
  int64_t embed_dim = 0;  ///< required
  int64_t hidden = 16;
  static void fields(auto&& f) {
    using O = AttentivePoolingOptions;
    f("embed_dim", &O::embed_dim, "width D of each token; required");
    f("hidden", &O::hidden, "width of the scores' hidden layer");
  }
};

/// y = sum over L of softmax(w2 tanh(w1 x)) x (Lin et al. 2017, equations 5 and 6, one hop).
class AttentivePooling
    : public dropin::Component<AttentivePooling, AttentivePoolingOptions, SequencePooling> {
 public:
  static constexpr const char* kSummary = "a mean weighed by learned attention";
  static constexpr const char* kReplaces = "MeanPooling";
  static constexpr const char* kPaper = "Lin et al. 2017, arXiv 1703.03130";
  explicit AttentivePooling(const AttentivePoolingOptions& o) : Component(o) {
    DROPIN_CHECK(o.embed_dim > 0 && o.hidden > 0, OptionError, who(), ": embed_dim ", o.embed_dim,
                 " and hidden ", o.hidden, " must be positive");
    w1_ = child<dropin::Linear>(
        "w1", {.in_features = o.embed_dim, .out_features = o.hidden, .bias = false});
    w2_ = child<dropin::Linear>("w2", {.in_features = o.hidden, .out_features = 1, .bias = false});
  }
  dropin::Tensor forward(const dropin::Tensor& x) override {
    check(x, options_.embed_dim);
    const dropin::Tensor weights = dropin::softmax(w2_(dropin::tanh(w1_(x))), 1);  // [B, L, 1]
    return dropin::sum(weights * x, {1});
  }

 private:
  dropin::Child<dropin::Linear> w1_, w2_;
};

/// The room's list.
inline void register_pooling(dropin::Registry& r) {
  r.add<MeanPooling>();
  r.add<AttentivePooling>();
}

}  // namespace outside
