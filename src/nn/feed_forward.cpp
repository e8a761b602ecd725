#include "dropin/nn/feed_forward.h"

namespace dropin::detail {

Tensor activate(const Tensor& x, const std::string& name, std::string_view who) {
  if (name == "gelu") return gelu(x);
  if (name == "gelu_tanh") return gelu(x, "tanh");
  if (name == "relu") return relu(x);
  if (name == "silu") return silu(x);
  if (name == "sigmoid") return sigmoid(x);
  if (name == "tanh") return tanh(x);
  fail<OptionError>({who, ": activation is \"", name, "\", expected gelu, gelu_tanh, relu, silu, sigmoid or tanh"});
}

void check_mlp(std::string_view who, const MLPOptions& o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.hidden_dim >= 0, OptionError, who, ": embed_dim ", o.embed_dim, " must be positive and hidden_dim ", o.hidden_dim, " not negative");
  DROPIN_CHECK(o.dropout >= 0 && o.dropout < 1, OptionError, who, ": dropout is ", o.dropout, ", expected 0 <= dropout < 1");
  activate(zeros({0}), o.activation, who);
}

}  // namespace dropin::detail
