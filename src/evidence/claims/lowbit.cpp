#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "dropin/activation/fewbit.h"
#include "dropin/convolution/mx_conv.h"
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"
#include "dropin/projection/mx_linear.h"
#include "dropin/registry/registry.h"
#include "evidence/claims.h"
#include "evidence/claims/character_model.h"

namespace dropin::evidence {
namespace {

// BitLinear

Box<Module> bit_layer(const char* variant) {
  return Box<Module>(new BitLinear(
      {.in_features = 256, .out_features = 256, .variant = variant, .norm = "layer"}));
}

void bits_train(Findings& f, const ClaimData& d) {
  const CharacterData data(d);
  f.report("characters of " + data.name() + ", 1200 steps, validation loss in nats");
  auto trained = [&](const char* variant) {
    CharacterModelOptions o{.steps = 1200};
    if (variant) o.hidden = [=] { return bit_layer(variant); };
    return CharacterModel(data, o).train();
  };
  CharacterModel floats(data, {.normalize = true, .steps = 1200});
  const double whole = floats.train(), three = trained("b1.58"), one = trained("b1");
  floats.replace_hidden([] { return bit_layer("b1"); },
                        false);  // the layers' own norms take the model's place
  const double after_one = floats.validation_loss();
  CharacterModel again(data, {.normalize = true, .steps = 1200});
  again.train();
  again.replace_hidden([] { return bit_layer("b1.58"); }, false);
  const double after_three = again.validation_loss();
  f.report(
      fmt::format("float32 {:.3f}, three values {:.3f}, one bit {:.3f}; float32 rounded "
                  "afterwards: three values {:.3f}, one bit {:.3f}",
                  whole, three, one, after_three, after_one));
  f.holds("float32 < three values < one bit < both rounded afterwards",
          whole < three && three < one && one < after_one && one < after_three);
  f.below("one bit above float32 by", one - whole, 0.35);
  f.above("rounding to one bit afterwards costs", after_one - whole, 0.6);
}

void bits_speed(Findings& f, const ClaimData&) {
  const Threads single(1);
  const int64_t n = 4096;
  auto linear =
      std::make_shared<Linear>(LinearOptions{.in_features = n, .out_features = n, .bias = false});
  Generator g(1);
  const Tensor x = randn({1, n}, kFloat32, &g);
  auto call = [x](auto m) -> Call {
    return [m, x] {
      no_grad guard;
      (*m)(x);
    };
  };
  for (const auto& [variant, mib] : {std::pair{"b1.58", 4.0}, {"b1", 2.0}}) {
    const int64_t before = memory_stats().allocated;
    auto m = std::make_shared<BitLinear>(
        BitLinearOptions{.in_features = n, .out_features = n, .bias = false, .variant = variant});
    m->eval();
    m->pack(true);
    f.below(fmt::format("{}: MiB of packed weights, 4096 x 4096 (float32: 64)", variant),
            static_cast<double>(memory_stats().allocated - before) / (1 << 20), mib * 1.02);
    f.above("  one token, one thread: time of Linear over ours",
            contest(call(m), call(linear), {.rounds = 7, .min_time = 0.02}), 2.0);
  }
}

// MX

double decibels(const Tensor& x, const Tensor& y, double below = INFINITY) {
  double signal = 0, noise = 0;
  const auto a = x.to_vector(), b = y.to_vector();
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::abs(a[i]) < below) signal += a[i] * a[i], noise += (a[i] - b[i]) * (a[i] - b[i]);
  return 10 * std::log10(signal / noise);
}
Tensor by_name(const char* format, const Tensor& x) {
  return registry().find(format).call(Json::object(), {{"x", x}}).get("y", format);
}

void mx_noise(Findings& f, const ClaimData&) {
  Generator g(11), u(5);
  const Tensor x = randn({4096, 128}, kFloat32, &g);
  for (const auto& [format, want] : {std::pair{"MXINT8", 41.7},
                                     {"MXFP6_E2M3", 31.0},
                                     {"MXFP8_E4M3", 30.6},
                                     {"MXFP8_E5M2", 25.4},
                                     {"MXFP6_E3M2", 25.4},
                                     {"NVFP4", 20.4},
                                     {"MXFP4_E2M1", 18.8},
                                     {"int8", 39.4}})
    f.near(fmt::format("signal over noise of normal values, dB: {}", format),
           decibels(x, by_name(format, x)), want, 0.3);
  Tensor wild = x.clone();
  const Tensor coin = rand({wild.numel()}, kFloat32, &u);
  for (int64_t i = 0; i < wild.numel(); ++i)
    if (coin.data<float>()[i] < 0.001f) wild.data<float>()[i] *= 100;
  // which values are struck, and how far they reach, is this draw's: 1 dB
  for (const auto& [format, want] : {std::pair{"int8", 3.3},
                                     {"MXFP4_E2M1", 14.5},
                                     {"MXFP6_E2M3", 20.2},
                                     {"MXINT8", 25.2},
                                     {"MXFP8_E4M3", 30.7}})
    f.near(fmt::format("with 0.1 % of the values times 100, noise of the others, dB: {}", format),
           decibels(wild, by_name(format, wild), 5), want, 1.0);
}

void mx_train(Findings& f, const ClaimData& d) {
  const CharacterData data(d);
  f.report("characters of " + data.name() + ", 600 steps, validation loss in nats");
  auto trained = [&](const char* weight, const char* act, const char* grad) {
    CharacterModelOptions o;
    if (weight)
      o.hidden = [=] {
        return Box<Module>(new MXLinear({.in_features = 256,
                                         .out_features = 256,
                                         .weight_format = weight,
                                         .act_format = act,
                                         .grad_format = grad}));
      };
    return CharacterModel(data, o).train();
  };
  const double whole = trained(nullptr, nullptr, nullptr),
               eight = trained("MXFP8_E4M3", "MXFP8_E4M3", "MXFP8_E5M2"),
               six = trained("MXFP6_E3M2", "MXFP6_E3M2", "MXFP6_E3M2"),
               mixed = trained("MXFP4_E2M1", "MXFP6_E3M2", "MXFP6_E3M2"),
               four = trained("MXFP4_E2M1", "MXFP4_E2M1", "MXFP4_E2M1");
  f.report(fmt::format(
      "float32 {:.3f}, MXFP8 {:.3f}, MXFP6 {:.3f}, MXFP4 weights with MXFP6 {:.3f}, MXFP4 {:.3f}",
      whole, eight, six, mixed, four));
  const auto [low, high] = std::minmax({whole, eight, six, mixed});
  f.below("the first four lie within", high - low, 0.015);
  f.above("MXFP4 everywhere above MXFP6 everywhere by", four - six, 0);
  f.below("MXFP4 everywhere above float32 by", four - whole, 0.06);
}

// 8-bit optimizers

void bytes_of_state(Findings& f, const ClaimData&) {
  const int64_t n = 10'000'000;
  Tensor p = zeros({n}).requires_grad_();
  p.set_grad(ones({n}));
  const int64_t before = memory_stats().allocated;
  AdamW8bit o({p});
  o.step();
  f.near("bytes of state for 10M parameters, but for the step count (float32: 80000000)",
         static_cast<double>(o.state_bytes()), 2.0 * n + 8.0 * std::ceil(n / 256.0), 64);
  f.below("  by the allocator, MB", static_cast<double>(memory_stats().allocated - before) / 1e6,
          20.4);
}

// Adam whose moments are kept as bytes of equal steps between block maxima: what the dynamic map is
// for.
class EqualSteps {
 public:
  explicit EqualSteps(const Tensors& parameters) : adam_(parameters, {.lr = 1e-3}) {}
  void step() {
    adam_.step();
    StateDict state = adam_.state_dict();
    no_grad guard;
    for (auto& [name, t] : state) {
      const bool first = name.size() > 8 && name.rfind(".exp_avg") == name.size() - 8,
                 second = name.rfind(".exp_avg_sq") != std::string::npos;
      if ((!first && !second) || t.numel() < 4096) continue;
      Tensor flat = pad(t.reshape({-1}), {0, (256 - t.numel() % 256) % 256}).reshape({-1, 256});
      const Tensor top = amax(abs(flat), {1}, true), unit = top / (first ? 127.0 : 255.0);
      const Tensor codes = where(top == 0.0, zeros_like(flat), round(flat / unit));
      Tensor(t).copy_((codes * unit).reshape({-1}).narrow(0, 0, t.numel()).reshape(t.sizes()));
    }
    adam_.load_state_dict(state);
  }
  void zero_grad() { adam_.zero_grad(); }

 private:
  Adam adam_;
};

void eight_train(Findings& f, const ClaimData& d) {
  const CharacterData data(d);
  f.report("characters of " + data.name() + ", 600 steps of Adam, validation loss in nats");
  for (const std::uint64_t seed : {0u, 1u}) {
    const double whole = CharacterModel(data, {.seed = seed}).train();
    const double eight =
        CharacterModel(data, {.optimizer =
                                  [](const Tensors& p) {
                                    return Box<Optimizer>(new Adam8bit(p, {.lr = 1e-3}));
                                  },
                              .seed = seed})
            .train();
    f.below(
        fmt::format("seed {}: 32 bits {:.3f}, dynamic map {:.3f}: difference", seed, whole, eight),
        std::abs(eight - whole), 0.03);
  }
  // equally spaced codes: small second moments become 0, and the division explodes
  CharacterModel model(data, {});
  EqualSteps o(model.parameters());
  double loss = 0;
  try {
    model.train_with([&] { o.zero_grad(); }, [&] { o.step(); });
    loss = model.validation_loss();
  } catch (const Error&) {
    loss = NAN;
  }
  const double whole = CharacterModel(data, {}).train();
  f.holds(fmt::format("equally spaced codes end at {}: not finite, or more than 1 worse",
                      std::isfinite(loss) ? fmt::format("{:.3f}", loss) : "no number"),
          !std::isfinite(loss) || loss > whole + 1);
}

// few bits

int64_t kept_by(const std::function<Tensor()>& f) {
  const int64_t before = memory_stats().allocated;
  const Tensor y = f();
  return memory_stats().allocated - before - y.numel() * 4;
}

void few_bytes(Findings& f, const ClaimData&) {
  const Shape s{8, 512,
                3072};  // a quarter of the specification's batch; bytes are counted in proportion
  Tensor x = zeros(s).requires_grad_();
  const double n = static_cast<double>(x.numel());
  f.near("bytes kept per element: GELU",
         static_cast<double>(kept_by([&] { return gelu(x * 1.0); })) / n, 4, 0.01);
  for (const auto& [bits, error] :
       {std::pair<int64_t, double>{4, 3.16e-3}, {3, 1.20e-2}, {2, 4.48e-2}, {1, 1.41e-1}}) {
    FewBitGELU few({.bits = bits});
    f.near(fmt::format("  {} bits", bits),
           static_cast<double>(kept_by([&] { return few(x * 1.0); })) / n,
           static_cast<double>(bits) / 8, 0.001);
    f.near("  squared error of the table", fewbit_error("gelu", fewbit_table("gelu", bits)), error,
           0.01 * error);
  }
}

void few_train(Findings& f, const ClaimData& d) {
  const CharacterData data(d);
  f.report("characters of " + data.name() + ", 600 steps, validation loss in nats");
  for (const std::uint64_t seed : {0u, 1u}) {
    auto trained = [&](int64_t bits) {
      CharacterModelOptions o{.activation = [](const Tensor& x) { return gelu(x); }, .seed = seed};
      const auto few = bits ? std::make_shared<FewBitGELU>(FewBitOptions{.bits = bits}) : nullptr;
      if (few) o.activation = [few](const Tensor& x) { return (*few)(x); };
      return CharacterModel(data, o).train();
    };
    const double exact = trained(0), three = trained(3), two = trained(2), one = trained(1);
    f.report(fmt::format("seed {}: exact {:.4f}, 3 bits {:.4f}, 2 bits {:.4f}, 1 bit {:.4f}", seed,
                         exact, three, two, one));
    f.below("  3 bits from exact by", std::abs(three - exact), 0.01);
    f.holds("  1 bit is worst", one > two && one > three && one > exact);
    f.below("  1 bit above exact by", one - exact, 0.05);
  }
}

}  // namespace

void lowbit_claims(Claims& all) {
  all.push_back(
      {{"BitLinear", "bitlinear_pack_weight", "bitlinear_unpack_weight"},
       "",
       "networks trained with weights of one bit or three values come close to float32, where "
       "rounding a trained one fails",
       "perplexity 17.07 against 15.19 at 6.7B (one bit), 9.91 against 10.04 at 3B (three values)",
       bits_train,
       ""});
  all.push_back({{"BitLinear"},
                 "",
                 "packed weights are small and fast",
                 "2.4 to 6.2x on x86 against float models (bitnet.cpp)",
                 bits_speed,
                 ""});
  all.push_back(
      {{"quantize_mx", "dequantize_mx", "MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3",
        "MXFP4_E2M1", "MXINT8", "NVFP4", "quantize_nvfp4", "dequantize_nvfp4"},
       "",
       "a scale per block of 32 lets few bits stand for float32, outliers included",
       "signal over noise, table of the specification",
       mx_noise,
       ""});
  all.push_back(
      {{"MXLinear", "MXConv2d", "MXMatmul"},
       "",
       "training with weights, activations and gradients below 8 bits, without a change of recipe",
       "GPT of 1.5B: loss 2.74 in float32, 2.75 in MXFP6",
       mx_train,
       ""});
  all.push_back({{"AdamW8bit", "Adam8bit", "SGD8bit", "Lion8bit", "RMSprop8bit", "Adagrad8bit",
                  "quantize_blockwise", "dequantize_blockwise", "create_dynamic_map"},
                 "",
                 "a byte per value of state instead of four",
                 "8.5 GB saved for a model of 1.5B",
                 bytes_of_state,
                 ""});
  all.push_back(
      {{"Adam8bit", "AdamW8bit", "StableEmbedding"},
       "",
       "trains as 32-bit states do, with the same hyperparameters; equally spaced codes do not",
       "GLUE 88.7 against 88.9",
       eight_train,
       ""});
  std::vector<std::string> few;
  for (const ComponentInfo& c : registry().all())
    if (c.name.rfind("FewBit", 0) == 0 || c.name.rfind("fewbit_", 0) == 0) few.push_back(c.name);
  std::stable_partition(few.begin(), few.end(),
                        [](const std::string& n) { return n == "FewBitGELU"; });
  all.push_back({few, "", "1 to 4 bits per element are enough for backward",
                 "RoBERTa, batch 128: 13.8 % less peak memory with 3-bit GELU", few_bytes, ""});
  all.push_back({few, "", "training is not hurt", "negligible loss of quality", few_train, ""});
}

}  // namespace dropin::evidence
