#include "dropin/feed_forward/feed_forward.h"

#include "dropin/activation/activation.h"

namespace dropin::detail {

Box<Module> make_activation(const std::string& name, std::string_view who) {
  if (name == "gelu") return Box<Module>(new GELU());
  if (name == "gelu_tanh") return Box<Module>(new GELU({.approximate = "tanh"}));
  if (name == "relu") return Box<Module>(new ReLU());
  if (name == "silu") return Box<Module>(new SiLU());
  if (name == "sigmoid") return Box<Module>(new Sigmoid());
  if (name == "tanh") return Box<Module>(new Tanh());
  fail<OptionError>({who, ": activation is \"", name,
                     "\", expected gelu, gelu_tanh, relu, silu, sigmoid or tanh"});
}

void check_mlp(std::string_view who, const MLPOptions& o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.hidden_dim >= 0, OptionError, who, ": embed_dim ", o.embed_dim,
               " must be positive and hidden_dim ", o.hidden_dim, " not negative");
  DROPIN_CHECK(o.dropout >= 0 && o.dropout < 1, OptionError, who, ": dropout is ", o.dropout,
               ", expected 0 <= dropout < 1");
}

}  // namespace dropin::detail
