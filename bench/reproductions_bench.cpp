// Small reproductions of what the papers claim about quality, at sizes that train in minutes on a
// CPU. bench_reproductions NAME... [--text FILE] [--seeds N], names: mixconv, rescoring, bitlinear,
// optimizers. Each prints a line per variant and seed.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "dropin/autograd/autograd.h"
#include "dropin/convolution/conv.h"
#include "dropin/convolution/mix_conv.h"
#include "dropin/core/error.h"
#include "dropin/detection/masks.h"
#include "dropin/embedding/embedding.h"
#include "dropin/embedding/stable_embedding.h"
#include "dropin/model/mask_iou_net.h"
#include "dropin/module/init.h"
#include "dropin/norm/norm.h"
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"

namespace {

using namespace dropin;

/// Uniform and normal numbers, the same everywhere.
class Lcg {
 public:
  explicit Lcg(std::uint64_t seed) : s_(seed * 2862933555777941757u + 3037000493u) {}
  double uniform() {
    s_ = s_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(s_ >> 11) / 9007199254740992.0;
  }
  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform());
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(uniform() * static_cast<double>(n)); }

 private:
  std::uint64_t s_;
};

Tensor rows_of(const Tensor& x, const std::vector<int64_t>& rows) {
  return index_select(x, 0, tensor(std::vector<double>(rows.begin(), rows.end()), kInt64));
}
std::vector<int64_t> shuffled(int64_t n, Lcg& r) {
  std::vector<int64_t> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  for (int64_t i = n - 1; i > 0; --i)
    std::swap(v[static_cast<std::size_t>(i)], v[static_cast<std::size_t>(r.below(i + 1))]);
  return v;
}

// --- MixConv: fine and coarse cues at once (Tan & Le 2019, section 3)

struct Pictures {
  Tensor x, y;
};
Pictures cue_pictures(int64_t n, Lcg& r) {
  constexpr int64_t S = 24;
  Pictures p{empty({n, 1, S, S}), empty({n}, kInt64)};
  float* x = p.x.data<float>();
  for (int64_t i = 0; i < n; ++i, x += S * S) {
    const int64_t label = r.below(4), phase = r.below(8);
    p.y.data<int64_t>()[i] = label;
    for (int64_t h = 0; h < S; ++h)
      for (int64_t w = 0; w < S; ++w) {
        const int64_t fine = label & 1 ? h : w, coarse = (label & 2 ? h : w) + phase;
        x[h * S + w] = static_cast<float>(0.7 * r.normal() + 0.35 * (fine % 2 ? 1 : -1) +
                                          0.2 * (coarse % 8 < 4 ? 1 : -1));
      }
  }
  return p;
}
double mixconv_accuracy(const std::vector<int64_t>& kernels, std::uint64_t seed) {
  manual_seed(seed);
  Lcg r(seed + 100);
  const Pictures train = cue_pictures(3000, r), test = cue_pictures(1000, r);
  Conv2d expand({.in_channels = 1, .out_channels = 16, .kernel_size = 1}),
      mix({.in_channels = 16, .out_channels = 16, .kernel_size = 1});
  MixConv2d depthwise({.in_channels = 16, .kernel_size = kernels});
  {  // torch's initial values, as where the figures come from: MixNet's own are larger, and with a
     // norm behind them learn more slowly
    no_grad guard;
    for (Tensor& w : depthwise.parameters())
      w.copy_(init::default_uniform(w.sizes(), w.size(2) * w.size(3)));
  }
  BatchNorm2d norm({.num_features = 16});
  Linear head({.in_features = 16, .out_features = 4});
  Tensors parameters;
  for (Module* m : std::initializer_list<Module*>{&expand, &mix, &depthwise, &norm, &head})
    for (const Tensor& p : m->parameters()) parameters.push_back(p);
  Adam adam(parameters, {.lr = 3e-3});
  auto model = [&](const Tensor& x) {
    return head.forward(
        mean(relu(mix.forward(relu(norm.forward(depthwise.forward(expand.forward(x)))))), {2, 3}));
  };
  for (int epoch = 0; epoch < 6; ++epoch) {
    const std::vector<int64_t> order = shuffled(3000, r);
    for (int64_t i = 0; i < 3000; i += 50) {
      const std::vector<int64_t> rows(order.begin() + i, order.begin() + i + 50);
      adam.zero_grad();
      cross_entropy(model(rows_of(train.x, rows)), rows_of(train.y, rows)).backward();
      adam.step();
    }
  }
  norm.eval();
  no_grad guard;
  return mean((argmax(model(test.x), 1) == test.y).to(kFloat32)).item();
}
void mixconv(int seeds) {
  const std::vector<std::pair<const char*, std::vector<int64_t>>> variants{
      {"3x3", {3}}, {"5x5", {5}}, {"9x9", {9}}, {"MixConv 3,5,7,9", {3, 5, 7, 9}}};
  for (const auto& [name, kernels] : variants)
    for (int s = 0; s < seeds; ++s)
      std::printf("mixconv      %-18s seed %d  test accuracy %.3f\n", name, s,
                  mixconv_accuracy(kernels, static_cast<std::uint64_t>(s))),
          std::fflush(stdout);
}

// --- FastMaskIoUNet: does it rank masks by quality? (Bolya et al. 2022)

struct Masks {
  Tensor x, iou;
};
Masks ellipse_masks(int64_t n, Lcg& r) {
  constexpr int64_t S = 63;
  Masks m{empty({n, 1, S, S}), empty({n})};
  float* x = m.x.data<float>();
  for (int64_t i = 0; i < n; ++i, x += S * S) {
    const double cx = 20 + 23 * r.uniform(), cy = 20 + 23 * r.uniform(), a = 7 + 10 * r.uniform(),
                 b = 7 + 10 * r.uniform(), angle = 3.14159265 * r.uniform();
    const double shift = 10 * r.uniform(), direction = 6.2831853 * r.uniform(),
                 width = 0.5 + 0.5 * shift;  // the border's blur tells the shift
    auto inside = [&](double px,
                      double py) {  // about the distance to the border in pixels, positive inside
      const double u = std::cos(angle) * px + std::sin(angle) * py,
                   v = -std::sin(angle) * px + std::cos(angle) * py;
      return (1 - std::sqrt(u * u / (a * a) + v * v / (b * b))) * std::min(a, b);
    };
    double both = 0, either = 0;
    for (int64_t h = 0; h < S; ++h)
      for (int64_t w = 0; w < S; ++w) {
        const double px = static_cast<double>(w) - cx, py = static_cast<double>(h) - cy;
        const double z =
            inside(px - shift * std::cos(direction), py - shift * std::sin(direction)) / width;
        const bool truth = inside(px, py) > 0, predicted = z > 0;
        both += truth && predicted, either += truth || predicted;
        x[h * S + w] = static_cast<float>(1 / (1 + std::exp(-4 * z)));
      }
    m.iou.data<float>()[i] = static_cast<float>(both / std::max(either, 1.0));
  }
  return m;
}
double spearman(const std::vector<double>& a, const std::vector<double>& b) {
  auto ranks = [](const std::vector<double>& v) {
    std::vector<std::size_t> order(v.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t i, std::size_t j) { return v[i] < v[j]; });
    std::vector<double> r(v.size());
    for (std::size_t i = 0; i < v.size();) {  // equal values share their mean rank
      std::size_t j = i;
      while (j < v.size() && v[order[j]] == v[order[i]]) ++j;
      for (std::size_t k = i; k < j; ++k) r[order[k]] = static_cast<double>(i + j - 1) / 2;
      i = j;
    }
    return r;
  };
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double middle = static_cast<double>(x.size() - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    xy += (x[i] - middle) * (y[i] - middle), xx += (x[i] - middle) * (x[i] - middle),
        yy += (y[i] - middle) * (y[i] - middle);
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}
void rescoring(int seeds) {
  for (int s = 0; s < seeds; ++s) {
    manual_seed(static_cast<std::uint64_t>(s));
    Lcg r(static_cast<std::uint64_t>(s) + 200);
    const Masks train = ellipse_masks(2000, r), fresh = ellipse_masks(500, r);
    FastMaskIoUNet net({.num_classes = 1, .channels = {4, 8, 8, 16, 16}});
    Adam adam(net.parameters(), {.lr = 1e-3});
    double seconds = 0;
    for (int epoch = 0; epoch < 3; ++epoch) {
      const std::vector<int64_t> order = shuffled(2000, r);
      for (int64_t i = 0; i < 2000; i += 16) {
        const std::vector<int64_t> rows(order.begin() + i,
                                        order.begin() + std::min<int64_t>(2000, i + 16));
        const Tensor e = abs(net(rows_of(train.x, rows)).squeeze(1) - rows_of(train.iou, rows));
        adam.zero_grad();
        mean(where(e < 1.0, e * e * 0.5, e - 0.5)).backward();
        adam.step();
      }
    }
    no_grad guard;
    const auto start = std::chrono::steady_clock::now();
    const Tensor predicted = net(fresh.x).squeeze(1);
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::vector<double> class_score;
    for (int i = 0; i < 500; ++i) class_score.push_back(r.uniform());
    const std::vector<double> truth = fresh.iou.to_vector(), quality = predicted.to_vector(),
                              rescored = rescore_masks(tensor(class_score), predicted.unsqueeze(1),
                                                       zeros({500}, kInt64))
                                             .to_vector();
    std::printf(
        "rescoring    seed %d  Spearman with the true IoU: class score %.3f, predicted IoU %.3f, "
        "their product %.3f; %.2f ms per 100 masks\n",
        s, spearman(class_score, truth), spearman(quality, truth), spearman(rescored, truth),
        200 * seconds);
    std::fflush(stdout);
  }
}

// --- The character model (Ma et al. 2024)

struct Characters {
  std::vector<std::uint8_t> ids;
  int64_t vocabulary = 0;
};
Characters read_characters(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw FileError(path + ": cannot be read");
  std::stringstream all;
  all << in.rdbuf();
  const std::string text = all.str();
  bool seen[256] = {};
  for (const char c : text) seen[static_cast<std::uint8_t>(c)] = true;
  int id[256], n = 0;
  for (int i = 0; i < 256; ++i) id[i] = seen[i] ? n++ : -1;
  Characters c;
  c.vocabulary = n;
  for (const char ch : text)
    c.ids.push_back(static_cast<std::uint8_t>(id[static_cast<std::uint8_t>(ch)]));
  return c;
}
constexpr int64_t kContext = 16;
/// Contexts [N, 16] that end before each position, and the characters there.
Pictures contexts(const Characters& c, const std::vector<int64_t>& positions) {
  const auto n = static_cast<int64_t>(positions.size());
  Pictures p{empty({n, kContext}, kInt64), empty({n}, kInt64)};
  for (int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(positions[static_cast<std::size_t>(i)]);
    for (int64_t k = 0; k < kContext; ++k)
      p.x.data<int64_t>()[i * kContext + k] = c.ids[at - kContext + static_cast<std::size_t>(k)];
    p.y.data<int64_t>()[i] = c.ids[at];
  }
  return p;
}
/// Embedding, two layers of 256 (`variant`: "plain", "norm" with a LayerNorm before, "b1",
/// "b1.58"), and the head.
struct CharacterModel {
  Embedding table;
  Box<Module> layers[2];
  Linear head;
  std::string variant;
  CharacterModel(int64_t vocabulary, std::string v)
      : table({.num_embeddings = vocabulary, .embedding_dim = 16}),
        head({.in_features = 256, .out_features = vocabulary}),
        variant(std::move(v)) {
    for (auto& l : layers)
      if (variant[0] == 'b')
        l = Box<Module>(
            new BitLinear({.in_features = 256, .out_features = 256, .variant = variant}));
      else
        l = Box<Module>(new Linear({.in_features = 256, .out_features = 256}));
  }
  Tensors parameters() const {
    Tensors r = table.parameters();
    for (const auto& l : layers)
      for (const Tensor& p : l->parameters()) r.push_back(p);
    for (const Tensor& p : head.parameters()) r.push_back(p);
    return r;
  }
  Tensor forward(const Tensor& ids) {
    Tensor h = table.forward(ids).reshape({ids.size(0), kContext * 16});
    for (auto& l : layers) {
      if (variant == "norm") h = layer_norm(h, {256}, {}, {}, 1e-5);
      h = relu(l->call({{"x", h}}).get("y", "layer"));
    }
    return head.forward(h);
  }
  double validation(const Characters& c) {
    no_grad guard;
    double sum = 0;
    int64_t n = 0;
    std::vector<int64_t> positions;
    for (int64_t at =
             std::min<int64_t>(1'000'000, static_cast<int64_t>(c.ids.size()) * 9 / 10) + kContext;
         at < static_cast<int64_t>(c.ids.size()); at += 5)
      positions.push_back(at);
    for (std::size_t from = 0; from < positions.size(); from += 4096) {
      const Pictures p = contexts(
          c, std::vector<int64_t>(positions.begin() + static_cast<std::ptrdiff_t>(from),
                                  positions.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                          positions.size(), from + 4096))));
      sum += cross_entropy(forward(p.x), p.y, {}, "sum").item();
      n += p.y.numel();
    }
    return sum / static_cast<double>(n);
  }
  template <class Step>
  void train(const Characters& c, int steps, std::uint64_t seed, Step&& step) {
    Lcg r(seed + 300);
    const int64_t end = std::min<int64_t>(1'000'000, static_cast<int64_t>(c.ids.size()) * 9 / 10);
    for (int s = 0; s < steps; ++s) {
      std::vector<int64_t> positions;
      for (int i = 0; i < 128; ++i) positions.push_back(kContext + r.below(end - kContext));
      const Pictures p = contexts(c, positions);
      for (const Tensor& t : parameters()) t.set_grad({});
      cross_entropy(forward(p.x), p.y).backward();
      step();
    }
  }
};

void bitlinear(const Characters& c, int seeds) {
  for (int s = 0; s < seeds; ++s) {
    const auto seed = static_cast<std::uint64_t>(s);
    for (const char* variant : {"norm", "b1.58", "b1"}) {
      manual_seed(seed);
      CharacterModel m(c.vocabulary, variant);
      Adam adam(m.parameters(), {.lr = 1e-3});
      m.train(c, 1200, seed, [&] { adam.step(); });
      std::printf("bitlinear    %-24s seed %d  validation loss %.3f\n",
                  std::strcmp(variant, "norm") ? variant : "float32 with LayerNorm", s,
                  m.validation(c));
      std::fflush(stdout);
      if (std::strcmp(variant, "norm")) continue;
      for (const char* after : {"b1", "b1.58"}) {  // the same model, quantized when it is done
        CharacterModel q(c.vocabulary, after);
        no_grad guard;
        q.table.weight().copy_(m.table.weight());
        const Tensors from = m.parameters();
        Tensors to = q.parameters();
        for (std::size_t i = 0; i < from.size(); ++i) to[i].copy_(from[i]);
        std::printf("bitlinear    %-24s seed %d  validation loss %.3f\n",
                    after[2] ? "ternarized afterwards" : "binarized afterwards", s,
                    q.validation(c));
        std::fflush(stdout);
      }
    }
  }
}

/// Adam whose states are stored with equally spaced codes in blocks of 256: what the dynamic map is
/// compared with.
class EqualCodesAdam {
 public:
  EqualCodesAdam(Tensors p, int64_t block) : p_(std::move(p)), block_(block) {
    for (const Tensor& t : p_) m_.push_back(zeros({t.numel()})), v_.push_back(zeros({t.numel()}));
  }
  void step() {
    no_grad guard;
    ++t_;
    for (std::size_t i = 0; i < p_.size(); ++i) {
      const int64_t n = p_[i].numel();
      float *p = p_[i].data<float>(), *m = m_[i].data<float>(), *v = v_[i].data<float>();
      const float* g = p_[i].grad().data<float>();
      for (int64_t k = 0; k < n; ++k) {
        m[k] = 0.9f * m[k] + 0.1f * g[k], v[k] = 0.999f * v[k] + 0.001f * g[k] * g[k];
        p[k] -= static_cast<float>(
            1e-3 / (1 - std::pow(0.9, t_)) * static_cast<double>(m[k]) /
            (std::sqrt(static_cast<double>(v[k])) / std::sqrt(1 - std::pow(0.999, t_)) + 1e-8));
      }
      if (n < 4096) continue;
      const int64_t block = block_ ? block_ : n;
      for (int64_t from = 0; from < n; from += block) {
        const int64_t to = std::min(n, from + block);
        auto round = [&](float* s, float codes) {
          float top = 0;
          for (int64_t k = from; k < to; ++k) top = std::max(top, std::abs(s[k]));
          for (int64_t k = from; k < to && top > 0; ++k)
            s[k] = std::nearbyint(s[k] / top * codes) / codes * top;
        };
        round(m, 127), round(v, 255);
      }
      p_[i].bump_version();
    }
  }

 private:
  Tensors p_, m_, v_;
  int64_t block_, t_ = 0;
};

/// StableEmbedding or Embedding, with states of 8 bits for everything else or of 32.
void embeddings(const Characters& c, int s, bool stable, bool eight) {
  const auto seed = static_cast<std::uint64_t>(s);
  manual_seed(seed);
  CharacterModel m(c.vocabulary, "plain");
  LayerNorm norm({.normalized_shape = {16}});
  Tensors p = m.parameters();
  if (stable) {
    no_grad guard;
    StableEmbedding fresh({.num_embeddings = c.vocabulary, .embedding_dim = 16});
    m.table.weight().copy_(fresh.parameters()[0]);
    for (const Tensor& t : norm.parameters()) p.push_back(t);
  }
  Adam8bit optimizer(
      p, {.lr = 1e-3,
          .min_8bit_size =
              eight ? 16 : 1 << 30});  // so small a table would stay in 32 bits by its size
  if (stable) optimizer.override(m.table.weight(), 32);
  Lcg r(seed + 300);
  auto forward = [&](const Tensor& ids) {
    Tensor h = m.table.forward(ids);
    if (stable) h = norm.forward(h);
    h = h.reshape({ids.size(0), kContext * 16});
    for (auto& l : m.layers) h = relu(l->call({{"x", h}}).get("y", "layer"));
    return m.head.forward(h);
  };
  for (int step = 0; step < 600; ++step) {
    std::vector<int64_t> positions;
    for (int i = 0; i < 128; ++i) positions.push_back(kContext + r.below(1'000'000 - kContext));
    const Pictures batch = contexts(c, positions);
    for (const Tensor& t : p) t.set_grad({});
    cross_entropy(forward(batch.x), batch.y).backward();
    optimizer.step();
  }
  no_grad guard;
  std::vector<int64_t> positions;
  for (int64_t at = 1'000'000 + kContext; at < static_cast<int64_t>(c.ids.size()); at += 25)
    positions.push_back(at);
  const Pictures v = contexts(c, positions);
  std::printf("optimizers   %-36s seed %d  validation loss %.3f\n",
              !eight   ? "Adam, StableEmbedding"
              : stable ? "Adam8bit everywhere, StableEmbedding"
                       : "Adam8bit everywhere, Embedding",
              s, cross_entropy(forward(v.x), v.y).item());
  std::fflush(stdout);
}

void optimizers(const Characters& c, int seeds) {
  for (int s = 0; s < seeds; ++s) {
    const auto seed = static_cast<std::uint64_t>(s);
    auto row = [&](const char* name, auto make) {
      manual_seed(seed);
      CharacterModel m(c.vocabulary, "plain");
      auto optimizer = make(m.parameters());
      m.train(c, 600, seed, [&] { optimizer.step(); });
      std::printf("optimizers   %-36s seed %d  validation loss %.3f\n", name, s, m.validation(c));
      std::fflush(stdout);
    };
    row("Adam", [](const Tensors& p) { return Adam(p, {.lr = 1e-3}); });
    row("Adam8bit", [](const Tensors& p) { return Adam8bit(p, {.lr = 1e-3}); });
    row("equally spaced codes, blocks of 256",
        [](const Tensors& p) { return EqualCodesAdam(p, 256); });
    row("equally spaced codes, one block", [](const Tensors& p) { return EqualCodesAdam(p, 0); });
    // beside each other, and with 32 bits: the norm helps by itself
    for (auto [stable, eight] : {std::pair{false, true}, {true, true}, {true, false}})
      embeddings(c, s, stable, eight);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> names;
  std::string text;
  int seeds = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--text" && i + 1 < argc)
      text = argv[++i];
    else if (a == "--seeds" && i + 1 < argc)
      seeds = std::atoi(argv[++i]);
    else
      names.push_back(a);
  }
  if (names.empty())
    return std::puts(
               "bench_reproductions mixconv|rescoring|bitlinear|optimizers ... [--text FILE] "
               "[--seeds N]"),
           1;
  for (const std::string& n : names) {
    if (n == "mixconv")
      mixconv(seeds ? seeds : 3);
    else if (n == "rescoring")
      rescoring(seeds ? seeds : 2);
    else if (n == "bitlinear" && !text.empty())
      bitlinear(read_characters(text), seeds ? seeds : 2);
    else if (n == "optimizers" && !text.empty())
      optimizers(read_characters(text), seeds ? seeds : 2);
    else
      return std::fprintf(
                 stderr, "%s: not one of mixconv, rescoring, bitlinear, optimizers, or no --text\n",
                 n.c_str()),
             1;
  }
}
