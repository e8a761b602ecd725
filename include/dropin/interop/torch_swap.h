// Torch's own layers as components, and swap() in torch models. Included by dropin/interop/torch.h.
#pragma once
#include "dropin/interop/torch_layer.h"

namespace dropin::interop {

/// A torch layer as the standard component of the same name, weights copied: Linear, Conv1d, Conv2d
/// (asked as "DepthwiseConv2d" where groups are channels), LayerNorm, Embedding, BatchNorm2d,
/// MultiheadAttention, LSTM, GRU, GELU (both forms), SiLU, ReLU, Sigmoid, Tanh. The component's own
/// sequences are [B, L, E]; from_layer() keeps torch's layout. An empty Box for any other layer, or
/// options that have no counterpart.
Box<Module> component_of(const torch::nn::Module& layer, std::string_view as = {});

/// What swap() did in a torch model.
struct TorchSwapReport {
  std::vector<std::string> replaced;  ///< paths of the layers that are `to` now
  std::vector<std::string>
      typed;  ///< paths of torch layers of the kind `from` that are typed members of their parent:
              ///< C++ fixes the call there at compile time
};

/// Replaces components `from` below `root` by `to`: inside every Layer, and torch's own layers of
/// that kind that stand in a torch::nn::Sequential (where calls are by name). Layers that are typed
/// members (torch::nn::Linear fc) cannot be replaced from outside; make them a Layer: `Layer
/// fc{from_layer(torch_fc)}`. OptionError when nothing could be replaced; it names the typed
/// members found. Optimizers made before hold the old parameters: make them after.
inline TorchSwapReport swap(torch::nn::Module& root, std::string_view from, std::string_view to,
                            const Json& options = Json::object()) {
  TorchSwapReport r;
  std::function<void(torch::nn::Module&, const std::string&)> walk = [&](torch::nn::Module& m,
                                                                         const std::string& path) {
    auto below = [&](const std::string& name) { return path.empty() ? name : path + "." + name; };
    if (auto* layer = dynamic_cast<LayerImpl*>(&m)) {
      if (layer->has(from))
        for (const auto& i : layer->swap_inside(from, to, options).instances) {
          const std::string inner = i.path.size() > 7 ? i.path.substr(7) : "";  // behind "module."
          r.replaced.push_back(inner.empty() ? path : below(inner));
        }
      return;
    }
    auto* sequence = dynamic_cast<torch::nn::SequentialImpl*>(&m);
    std::size_t k = 0;
    for (const auto& child : m.named_children()) {
      Box<Module> same = component_of(*child.value(), from);
      if (!same) {
        walk(*child.value(), below(child.key()));
      } else if (!sequence) {
        r.typed.push_back(below(child.key()));
      } else {
        auto layer = std::make_shared<LayerImpl>(std::move(same));
        layer->swap_inside(from, to, options);
        layer->train(child.value()->is_training());
        *(sequence->begin() + static_cast<std::ptrdiff_t>(k)) = torch::nn::AnyModule(layer);
        m.replace_module(child.key(), std::static_pointer_cast<torch::nn::Module>(layer));
        r.replaced.push_back(below(child.key()));
      }
      ++k;
    }
  };
  registry().find(from);
  registry().find(to);
  walk(root, "");
  if (r.replaced.empty()) {
    std::string words;
    for (const std::string& t : r.typed) words += (words.empty() ? "" : ", ") + t;
    fail<OptionError>(
        {"swap: there is no ", from, " that could be replaced",
         r.typed.empty()
             ? ""
             : "; these are typed members, whose class must be changed to dropin::interop::Layer: ",
         words});
  }
  return r;
}

namespace detail {

/// What a torch layer is here: the component's name (empty: it has no counterpart), its options,
/// and whether its sequences are [L, B, E].
struct Counterpart {
  std::string name;
  Json options = Json::object();
  bool sequence_first = false;
};

template <class Sizes>
Json json_sizes(const Sizes& e) {
  Json j = Json::array();
  for (std::size_t i = 0; i < e.size(); ++i) j.push_back(Json(static_cast<int64_t>((*e)[i])));
  return j;
}

/// Options that Conv1d and Conv2d share; false where torch pads with other than zeros.
template <int D, class O>
bool conv_options(const O& from, Json& o) {
  // unqualified: the variant is std's or, in old releases, c10's
  if (!holds_alternative<torch::enumtype::kZeros>(from.padding_mode())) return false;
  o.set("kernel_size", json_sizes(from.kernel_size()));
  o.set("stride", json_sizes(from.stride()));
  o.set("dilation", json_sizes(from.dilation()));
  if (holds_alternative<torch::enumtype::kSame>(from.padding()))
    o.set("padding", "same");
  else if (const auto* p = get_if<torch::ExpandingArray<D>>(&from.padding()))
    o.set("padding", json_sizes(*p));
  o.set("bias", from.bias());
  return true;
}

inline Counterpart counterpart(const torch::nn::Conv2dImpl& m, std::string_view as) {
  const auto& from = m.options;
  Counterpart c;
  if (!conv_options<2>(from, c.options)) return {};
  if (as == "DepthwiseConv2d") {
    if (from.groups() != from.in_channels() || from.out_channels() != from.in_channels()) return {};
    c.name = as;
    c.options.set("channels", from.in_channels());
    return c;
  }
  c.name = "Conv2d";
  c.options.set("in_channels", from.in_channels());
  c.options.set("out_channels", from.out_channels());
  c.options.set("groups", from.groups());
  return c;
}

inline Counterpart counterpart(const torch::nn::Conv1dImpl& m) {
  Counterpart c;
  if (!conv_options<1>(m.options, c.options)) return {};
  c.name = "Conv1d";
  c.options.set("in_channels", m.options.in_channels());
  c.options.set("out_channels", m.options.out_channels());
  c.options.set("groups", m.options.groups());
  return c;
}

inline Counterpart counterpart(const torch::nn::BatchNorm2dImpl& m) {
  Counterpart c{"BatchNorm2d"};
  c.options.set("num_features", m.options.num_features());
  c.options.set("eps", m.options.eps());
  c.options.set("momentum", m.options.momentum() ? Json(*m.options.momentum()) : Json());
  c.options.set("affine", m.options.affine());
  c.options.set("track_running_stats", m.options.track_running_stats());
  return c;
}

inline Counterpart counterpart(const torch::nn::MultiheadAttentionImpl& m) {
  const auto& from = m.options;
  if (from.add_bias_kv() || from.add_zero_attn() || from.kdim() != from.embed_dim() ||
      from.vdim() != from.embed_dim())
    return {};
  Counterpart c{"MultiheadAttention"};
  c.options.set("embed_dim", from.embed_dim());
  c.options.set("num_heads", from.num_heads());
  c.options.set("bias", from.bias());
  c.options.set("dropout", from.dropout());
  c.sequence_first = true;  // LibTorch has no batch_first here
  return c;
}

/// LSTM and GRU.
template <class Impl>
Counterpart recurrent_counterpart(const Impl& m, const char* name) {
  const auto& from = m.options;
  if (from.bidirectional() || from.dropout() > 0) return {};
  if constexpr (requires { from.proj_size(); })
    if (from.proj_size() > 0) return {};
  Counterpart c{name};
  c.options.set("input_size", from.input_size());
  c.options.set("hidden_size", from.hidden_size());
  c.options.set("num_layers", from.num_layers());
  c.options.set("bias", from.bias());
  c.sequence_first = !from.batch_first();
  return c;
}

inline Counterpart counterpart(const torch::nn::EmbeddingImpl& m) {
  if (m.options.max_norm() || m.options.scale_grad_by_freq() || m.options.sparse()) return {};
  Counterpart c{"Embedding"};
  c.options.set("num_embeddings", m.options.num_embeddings());
  c.options.set("embedding_dim", m.options.embedding_dim());
  if (m.options.padding_idx()) c.options.set("padding_idx", *m.options.padding_idx());
  return c;
}

inline Counterpart counterpart_of(const torch::nn::Module& layer, std::string_view as) {
  if (const auto* m = layer.as<torch::nn::LinearImpl>()) {
    Counterpart c{"Linear"};
    c.options.set("in_features", m->options.in_features());
    c.options.set("out_features", m->options.out_features());
    c.options.set("bias", m->options.bias());
    return c;
  }
  if (const auto* m = layer.as<torch::nn::LayerNormImpl>()) {
    Counterpart c{"LayerNorm"};
    Json sizes = Json::array();
    for (const int64_t n : m->options.normalized_shape()) sizes.push_back(Json(n));
    c.options.set("normalized_shape", sizes);
    c.options.set("elementwise_affine", m->options.elementwise_affine());
    c.options.set("eps", m->options.eps());
    return c;
  }
  if (const auto* m = layer.as<torch::nn::GELUImpl>()) {
    Counterpart c{"GELU"};
    c.options.set("approximate", m->options.approximate());
    return c;
  }
  if (const auto* m = layer.as<torch::nn::Conv2dImpl>()) return counterpart(*m, as);
  if (const auto* m = layer.as<torch::nn::Conv1dImpl>()) return counterpart(*m);
  if (const auto* m = layer.as<torch::nn::BatchNorm2dImpl>()) return counterpart(*m);
  if (const auto* m = layer.as<torch::nn::EmbeddingImpl>()) return counterpart(*m);
  if (const auto* m = layer.as<torch::nn::MultiheadAttentionImpl>()) return counterpart(*m);
  if (const auto* m = layer.as<torch::nn::LSTMImpl>()) return recurrent_counterpart(*m, "LSTM");
  if (const auto* m = layer.as<torch::nn::GRUImpl>()) return recurrent_counterpart(*m, "GRU");
  if (layer.as<torch::nn::SiLUImpl>()) return {"SiLU"};
  if (layer.as<torch::nn::ReLUImpl>()) return {"ReLU"};
  if (layer.as<torch::nn::SigmoidImpl>()) return {"Sigmoid"};
  if (layer.as<torch::nn::TanhImpl>()) return {"Tanh"};
  return {};
}

/// The component with the layer's values, mode, dtype and frozen parameters.
inline Box<Module> made_from(const torch::nn::Module& layer, const Counterpart& c) {
  Box<Module> r = make(c.name, c.options);
  StateDict state;
  bool frozen = true;
  for (const auto& p : layer.named_parameters()) {
    state.set(p.key(), from_torch(p.value()));
    frozen = frozen && !p.value().requires_grad();
  }
  if (state.size()) r->to(state.begin()->second.dtype());
  for (const auto& b : layer.named_buffers())
    if (b.value().defined()) state.set(b.key(), from_torch(b.value()));
  if (state.size()) r->load_state_dict(state);
  if (frozen) r->requires_grad_(false);
  r->train(layer.is_training());
  return r;
}

}  // namespace detail

inline Box<Module> component_of(const torch::nn::Module& layer, std::string_view as) {
  const detail::Counterpart c = detail::counterpart_of(layer, as);
  if (c.name.empty() || (!as.empty() && as != c.name)) return {};
  return detail::made_from(layer, c);
}

/// A torch layer as a Layer of the standard component (see component_of); OptionError where there
/// is none. Sequences keep the layout of the torch layer: [L, B, E] for MultiheadAttention, and for
/// LSTM and GRU unless batch_first.
inline Layer from_layer(const torch::nn::Module& layer) {
  const detail::Counterpart c = detail::counterpart_of(layer, {});
  if (c.name.empty())
    fail<OptionError>({"from_layer: ", layer.name(), " with these options has no counterpart"});
  return Layer(std::make_shared<LayerImpl>(detail::made_from(layer, c), c.sequence_first));
}

}  // namespace dropin::interop
