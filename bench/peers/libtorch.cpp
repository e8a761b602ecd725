// LibTorch as a peer of dropin bench --peer: the standard components by the library's own
// functions. src/cli/peer.cpp says what is asked.
#include <torch/torch.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

namespace {

using nlohmann::json;
using torch::Tensor;
namespace F = torch::nn::functional;
using Named = std::map<std::string, Tensor>;

Named read_tensors(const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  std::uint64_t n = 0;
  f.read(reinterpret_cast<char*>(&n), 8);
  std::string header(n, ' ');
  f.read(header.data(), static_cast<std::streamsize>(n));
  Named r;
  const std::streamoff base = 8 + static_cast<std::streamoff>(n);
  const json entries = json::parse(header);
  for (const auto& [name, v] : entries.items()) {
    if (name == "__metadata__") continue;
    Tensor t = torch::empty(v["shape"].get<std::vector<int64_t>>(),
                            v["dtype"] == "I64" ? torch::kInt64 : torch::kFloat32);
    f.seekg(base + v["data_offsets"][0].get<std::streamoff>());
    f.read(static_cast<char*>(t.data_ptr()), static_cast<std::streamsize>(t.nbytes()));
    r[name] = t;
  }
  return r;
}
void write_tensors(const std::string& path, const Named& tensors) {
  json h = json::object();
  std::size_t at = 0;
  Named dense;
  for (const auto& [name, t] : tensors) {
    dense[name] = t.detach().contiguous();
    h[name] = {
        {"dtype", "F32"}, {"shape", t.sizes().vec()}, {"data_offsets", {at, at + t.nbytes()}}};
    at += t.nbytes();
  }
  std::string header = h.dump();
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t n = header.size();
  std::ofstream f(path, std::ios::binary);
  f.write(reinterpret_cast<const char*>(&n), 8);
  f << header;
  for (const auto& [name, t] : dense)
    f.write(static_cast<const char*>(t.data_ptr()), static_cast<std::streamsize>(t.nbytes()));
}

struct Layer {
  json options;
  Named p;  // parameters and buffers
  bool training = false;
  Tensor find(const std::string& name) const {
    const auto at = p.find(name);
    return at == p.end() ? Tensor() : at->second;
  }
  double real(const char* name) const { return options.at(name).get<double>(); }
  int64_t whole(const char* name) const { return options.at(name).get<int64_t>(); }
  std::vector<int64_t> pair(const char* name) const {
    const json& v = options.at(name);
    return v.is_array() ? v.get<std::vector<int64_t>>() : std::vector<int64_t>(2, v.get<int64_t>());
  }
};
using Function = std::function<Tensor(const Layer&, const Tensor&)>;

Tensor attention(const Layer& l, const Tensor& x) {
  const auto b = x.size(0), n = x.size(1), d = x.size(2), h = l.whole("num_heads");
  auto heads = [&](const char* name) {
    return F::linear(x, l.find(std::string(name) + ".weight"), l.find(std::string(name) + ".bias"))
        .view({b, n, h, d / h})
        .transpose(1, 2);
  };
  const Tensor o =
      at::scaled_dot_product_attention(heads("q_proj"), heads("k_proj"), heads("v_proj"), {}, 0.0,
                                       l.options.at("causal").get<bool>());
  return F::linear(o.transpose(1, 2).reshape({b, n, d}), l.find("out_proj.weight"),
                   l.find("out_proj.bias"));
}
std::vector<Tensor> recurrent_weights(const Layer& l) {
  return {l.find("weight_ih_l0"), l.find("weight_hh_l0"), l.find("bias_ih_l0"),
          l.find("bias_hh_l0")};
}

using Functions = std::map<std::string, Function>;
Functions layers() {
  return {
      {"MultiheadAttention", attention},
      {"LSTM",
       [](const Layer& l, const Tensor& x) {
         const Tensor s = torch::zeros({1, x.size(0), l.find("weight_hh_l0").size(1)});
         return std::get<0>(
             at::lstm(x, {s, s}, recurrent_weights(l), true, 1, 0.0, l.training, false, true));
       }},
      {"GRU",
       [](const Layer& l, const Tensor& x) {
         const Tensor s = torch::zeros({1, x.size(0), l.find("weight_hh_l0").size(1)});
         return std::get<0>(
             at::gru(x, s, recurrent_weights(l), true, 1, 0.0, l.training, false, true));
       }},
      {"Linear", [](const Layer& l,
                    const Tensor& x) { return F::linear(x, l.find("weight"), l.find("bias")); }},
      {"MLP",
       [](const Layer& l, const Tensor& x) {
         return F::linear(at::gelu(F::linear(x, l.find("fc1.weight"), l.find("fc1.bias"))),
                          l.find("fc2.weight"), l.find("fc2.bias"));
       }},
      {"Conv2d",
       [](const Layer& l, const Tensor& x) {
         return at::conv2d(x, l.find("weight"), l.find("bias"), l.pair("stride"), l.pair("padding"),
                           l.pair("dilation"), l.whole("groups"));
       }},
      {"DepthwiseConv2d",
       [](const Layer& l, const Tensor& x) {
         return at::conv2d(x, l.find("weight"), l.find("bias"), l.pair("stride"), l.pair("padding"),
                           l.pair("dilation"), x.size(1));
       }},
      {"MaxPool2d",
       [](const Layer& l, const Tensor& x) {
         return at::max_pool2d(
             x, l.pair("kernel_size"),
             l.options.at("stride").is_null() ? l.pair("kernel_size") : l.pair("stride"),
             l.pair("padding"));
       }},
      {"AvgPool2d",
       [](const Layer& l, const Tensor& x) {
         return at::avg_pool2d(
             x, l.pair("kernel_size"),
             l.options.at("stride").is_null() ? l.pair("kernel_size") : l.pair("stride"),
             l.pair("padding"));
       }},
      {"Embedding",
       [](const Layer& l, const Tensor& x) { return at::embedding(l.find("weight"), x); }}};
}
Functions norms() {
  return {{"LayerNorm",
           [](const Layer& l, const Tensor& x) {
             return at::layer_norm(x, l.find("weight").sizes(), l.find("weight"), l.find("bias"),
                                   l.real("eps"));
           }},
          {"RMSNorm",
           [](const Layer& l, const Tensor& x) {
             return at::rms_norm(x, l.find("weight").sizes(), l.find("weight"), l.real("eps"));
           }},
          {"GroupNorm",
           [](const Layer& l, const Tensor& x) {
             return at::group_norm(x, l.whole("num_groups"), l.find("weight"), l.find("bias"),
                                   l.real("eps"));
           }},
          {"BatchNorm2d", [](const Layer& l, const Tensor& x) {
             return at::batch_norm(x, l.find("weight"), l.find("bias"), l.find("running_mean"),
                                   l.find("running_var"), l.training, 0.1, l.real("eps"), false);
           }}};
}
Functions activations() {
  return {{"GELU", [](const Layer&, const Tensor& x) { return at::gelu(x); }},
          {"SiLU", [](const Layer&, const Tensor& x) { return at::silu(x); }},
          {"ReLU", [](const Layer&, const Tensor& x) { return at::relu(x); }},
          {"ReLU6", [](const Layer&, const Tensor& x) { return at::hardtanh(x, 0, 6); }},
          {"LeakyReLU", [](const Layer&, const Tensor& x) { return at::leaky_relu(x); }},
          {"ELU", [](const Layer&, const Tensor& x) { return at::elu(x); }},
          {"SELU", [](const Layer&, const Tensor& x) { return at::selu(x); }},
          {"Sigmoid", [](const Layer&, const Tensor& x) { return at::sigmoid(x); }},
          {"Tanh", [](const Layer&, const Tensor& x) { return at::tanh(x); }},
          {"Softplus", [](const Layer&, const Tensor& x) { return at::softplus(x); }},
          {"Softsign", [](const Layer&, const Tensor& x) { return x / (x.abs() + 1); }},
          {"Hardswish", [](const Layer&, const Tensor& x) { return at::hardswish(x); }}};
}
const Functions& functions() {
  static const Functions all = [] {
    Functions f = layers();
    f.merge(norms());
    f.merge(activations());
    return f;
  }();
  return all;
}

// The fused step over one tensor: p and its state stay.
std::function<void()> optimizer(const std::string& name, const json& o, const Tensor& p,
                                const Tensor& g) {
  auto real = [&](const char* key, double otherwise) {
    return o.contains(key) ? o[key].get<double>() : otherwise;
  };
  const Tensor m = torch::zeros_like(p), v = torch::zeros_like(p), step = torch::zeros({});
  const double lr = real("lr", 1e-3);
  if (name == "SGD") {
    const double momentum = real("momentum", 0);
    const auto first = std::make_shared<bool>(true);
    return [=] {
      at::_fused_sgd_({p}, {g}, {m}, 0.0, momentum, lr, 0.0, false, false, *first);
      *first = false;
    };
  }
  const bool decoupled = name == "AdamW";
  if (!decoupled && name != "Adam") return nullptr;
  const double decay = real("weight_decay", decoupled ? 1e-2 : 0);
  return [=] {
    step.add_(1);
    if (decoupled)
      at::_fused_adamw_({p}, {g}, {m}, {v}, {}, {step}, lr, 0.9, 0.999, decay, 1e-8, false, false);
    else
      at::_fused_adam_({p}, {g}, {m}, {v}, {}, {step}, lr, 0.9, 0.999, decay, 1e-8, false, false);
  };
}

std::function<void()> prepare(const std::string& folder) {
  const json c = json::parse(std::ifstream(folder + "/case.json"));
  const Named in = read_tensors(folder + "/in.safetensors");
  const std::string name = c["component"], mode = c["mode"];
  if (mode == "step") {
    const Tensor p = in.at("x").clone();
    auto f = optimizer(name, c["options"], p, in.at("gradient"));
    if (!f) return nullptr;
    f();
    write_tensors(folder + "/out.safetensors", {{"y", p.clone()}});
    return f;
  }
  const auto at = functions().find(name);
  if (at == functions().end()) return nullptr;
  const bool both = mode == "forward+backward";
  Layer l{c["options"], {}, both};
  Named grads;
  Tensor x = in.at("x");
  if (both && x.is_floating_point()) x.requires_grad_(), grads["g.x"] = x;
  for (const auto& [n, t] : in)
    if (n.rfind("p.", 0) == 0) {
      const std::string own = n.substr(2);
      l.p[own] = t;
      if (both && own.find("running") == std::string::npos)
        l.p[own].requires_grad_(), grads["g." + own] = l.p[own];
    }
  const Tensor g = in.at("gradient");
  auto forward = [l, x, f = at->second] {
    torch::NoGradGuard guard;
    return f(l, x);
  };
  auto backward = [l, x, g, grads, f = at->second] {
    for (const auto& [n, t] : grads) t.mutable_grad() = Tensor();
    const Tensor y = f(l, x);
    y.backward(g);
    return y;
  };
  Named out;
  if (both) {
    out["y"] = backward();
    for (const auto& [n, t] : grads)
      if (t.grad().defined()) out[n] = t.grad();
  } else {
    out["y"] = forward();
  }
  write_tensors(folder + "/out.safetensors", out);
  if (both) return [backward] { backward(); };
  return [forward] { forward(); };
}

}  // namespace

int main() {
  std::function<void()> call;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      if (line.rfind("threads ", 0) == 0) {
        at::set_num_threads(std::stoi(line.substr(8)));
        std::cout << "libtorch " << TORCH_VERSION << " with "
                  << (at::hasMKL()      ? "MKL"
                      : at::hasLAPACK() ? "another BLAS"
                                        : "no BLAS")
                  << (at::hasMKLDNN() ? ", oneDNN" : "") << ", " << at::get_num_threads()
                  << " threads" << std::endl;
      } else if (line.rfind("prepare ", 0) == 0) {
        call = prepare(line.substr(8));
        std::cout << (call ? "ready" : "unsupported: LibTorch has no such component here")
                  << std::endl;
      } else if (line.rfind("run ", 0) == 0 && call) {
        const int n = std::stoi(line.substr(4));
        const auto t = std::chrono::steady_clock::now();
        for (int i = 0; i < n; ++i) call();
        std::cout << std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count() / n
                  << std::endl;
      } else {
        std::cout << "unsupported: " << line << std::endl;
      }
    } catch (const std::exception& e) {
      std::string what = e.what();
      std::cout << "unsupported: " << what.substr(0, what.find('\n')) << std::endl;
    }
  }
}
