// MLP and GatedMLP: the standard FeedForwards.
#pragma once
#include "dropin/activation/contract.h"
#include "dropin/feed_forward/contract.h"
#include "dropin/projection/linear.h"

namespace dropin {

struct MLPOptions {
  int64_t embed_dim = 0;   ///< required
  int64_t hidden_dim = 0;  ///< 0: 4 embed_dim
  std::string activation = "gelu";
  bool bias = true;
  double dropout = 0;
  static void fields(auto&& f) {
    using O = MLPOptions;
    f("embed_dim", &O::embed_dim, "D; required");
    f("hidden_dim", &O::hidden_dim, "width between; 0: 4 embed_dim");
    f("activation", &O::activation, "gelu, gelu_tanh, relu, silu, sigmoid or tanh");
    f("bias", &O::bias, "biases of the projections");
    f("dropout", &O::dropout, "on the hidden layer, when training");
  }
};

namespace detail {
/// The activation of that name, a child to be; OptionError naming `who` and the choices otherwise.
Box<Module> make_activation(const std::string& name, std::string_view who);
void check_mlp(std::string_view who, const MLPOptions& o);
}  // namespace detail

/// y = fc2(act(fc1(x))), [*, D] -> [*, D]. The activation is a child, so that swap() finds it.
class MLP : public Component<MLP, MLPOptions, FeedForward> {
 public:
  static constexpr const char* kSummary = "two linear layers with an activation between";
  explicit MLP(const MLPOptions& o) : Component(o) {
    detail::check_mlp(who(), o);
    const int64_t h = o.hidden_dim ? o.hidden_dim : 4 * o.embed_dim;
    fc1_ = child<Linear>("fc1", {.in_features = o.embed_dim, .out_features = h, .bias = o.bias});
    act_ = Child<Activation>(add_child("act", detail::make_activation(o.activation, who())));
    fc2_ = child<Linear>("fc2", {.in_features = h, .out_features = o.embed_dim, .bias = o.bias});
  }
  Tensor forward(const Tensor& x) override {
    return fc2_(dropout(act_(fc1_(x)), options_.dropout, is_training()));
  }

 private:
  Child<Linear> fc1_, fc2_;
  Child<Activation> act_;
};

/// y = down(act(gate(x)) * up(x)) (Shazeer 2020), [*, D] -> [*, D].
class GatedMLP : public Component<GatedMLP, MLPOptions, FeedForward> {
 public:
  static constexpr const char* kSummary = "a gated hidden layer (SwiGLU with activation silu)";
  static constexpr const char* kReplaces = "MLP";
  static constexpr const char* kPaper = "Shazeer 2020, arXiv 2002.05202";
  explicit GatedMLP(const MLPOptions& o) : Component(o) {
    detail::check_mlp(who(), o);
    const int64_t h = o.hidden_dim ? o.hidden_dim : 4 * o.embed_dim;
    gate_ = child<Linear>("gate", {.in_features = o.embed_dim, .out_features = h, .bias = o.bias});
    act_ = Child<Activation>(add_child("act", detail::make_activation(o.activation, who())));
    up_ = child<Linear>("up", {.in_features = o.embed_dim, .out_features = h, .bias = o.bias});
    down_ = child<Linear>("down", {.in_features = h, .out_features = o.embed_dim, .bias = o.bias});
  }
  Tensor forward(const Tensor& x) override {
    return down_(dropout(act_(gate_(x)) * up_(x), options_.dropout, is_training()));
  }

 private:
  Child<Linear> gate_, up_, down_;
  Child<Activation> act_;
};

}  // namespace dropin
