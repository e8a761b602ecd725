// Kernels on a CUDA device, timed by its events: bench_cuda [--tiny] [--filter TEXT] [--json FILE].
// Rows of one group take turns; the median of the rounds is given with the least and the greatest.
// Beside each: what it moved or computed per second, and the share of what this machine's copy or
// bf16 product reached in the same run. On the host executor of the tests all times are 0; --tiny
// then says that the rows run.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dropin/core/json.h"
#include "dropin/detection/suppression.h"
#include "dropin/dispatch/devices.h"
#include "dropin/ops/ops.h"
#include "dropin/registry/registry.h"

namespace dropin {
namespace {

struct Row {
  std::string name;
  double bytes = 0, flops = 0;  ///< of one run, as the definition needs them
  std::function<void()> run;
  std::vector<double> ms = {};
};

struct Bench {
  bool tiny = false;
  std::string filter;
  Json rows = Json::array();
  double copy = 0, product = 0;                                  ///< bytes/s, FLOP/s measured first
  int64_t elements() const { return tiny ? 1 << 12 : 1 << 26; }  ///< of a large array

  /// The rows in turn: once to warm up, then rounds of as many runs as make a few milliseconds.
  void group(std::vector<Row> all) {
    std::vector<Row> chosen;
    for (Row& r : all)
      if (filter.empty() || r.name.find(filter) != std::string::npos)
        chosen.push_back(std::move(r));
    if (chosen.empty()) return;
    auto time = [](const Row& r, int n) {
      DeviceEvent begin(kCUDA), end(kCUDA);
      begin.record();
      for (int i = 0; i < n; ++i) r.run();
      end.record();
      return end.milliseconds_since(begin) / n;
    };
    std::vector<int> repeats;
    for (Row& r : chosen) {
      try {
        time(r, 1);
        repeats.push_back(
            tiny ? 1 : std::clamp(static_cast<int>(5 / std::max(time(r, 2), 1e-3)), 1, 200));
      } catch (const Error& e) {
        fmt::print("{:<52} {}\n", r.name, e.what());
        repeats.push_back(0);
      }
    }
    for (int round = 0; round < (tiny ? 1 : 7); ++round)
      for (std::size_t i = 0; i < chosen.size(); ++i)
        if (repeats[i]) chosen[i].ms.push_back(time(chosen[i], repeats[i]));
    for (Row& r : chosen) {
      if (r.ms.empty()) continue;
      std::sort(r.ms.begin(), r.ms.end());
      const double ms = r.ms[r.ms.size() / 2], gbs = ms > 0 ? r.bytes / ms / 1e6 : 0,
                   tflops = ms > 0 ? r.flops / ms / 1e9 : 0;
      if (r.name == "copy" && ms > 0) copy = r.bytes / ms * 1e3;
      if (r.name == "matmul bf16" && ms > 0) product = r.flops / ms * 1e3;
      Json j = Json::object();
      j.set("name", r.name);
      j.set("ms", ms);
      j.set("least_ms", r.ms.front());
      j.set("greatest_ms", r.ms.back());
      std::string beside;
      if (r.bytes > 0 && ms > 0) {
        j.set("gb_per_s", gbs);
        beside += fmt::format("  {:8.1f} GB/s", gbs);
        if (copy > 0)
          j.set("of_copy", gbs * 1e9 / copy),
              beside += fmt::format(" = {:.2f} of copy", gbs * 1e9 / copy);
      }
      if (r.flops > 0 && ms > 0) {
        j.set("tflop_per_s", tflops);
        beside += fmt::format("  {:8.2f} TFLOP/s", tflops);
        if (product > 0)
          j.set("of_product", tflops * 1e12 / product),
              beside += fmt::format(" = {:.2f} of bf16 product", tflops * 1e12 / product);
      }
      rows.push_back(j);
      fmt::print("{:<52} {:9.4f} ms ({:.4f} to {:.4f}){}\n", r.name, ms, r.ms.front(), r.ms.back(),
                 beside);
    }
  }
};

Tensor noise(const Shape& s, DType t = kFloat32) { return randn(s, {kFloat32, kCUDA}).to(t); }

void copy_row(Bench& b) {
  const int64_t mega = b.elements();
  const auto n = static_cast<double>(b.elements());
  const Tensor x = noise({mega}), y = empty_like(x);
  b.group({{"copy", 8 * n, 0, [=] { Tensor(y).copy_(x); }}});
}

void product_rows(Bench& b) {
  const bool tiny = b.tiny;
  const int64_t s = tiny ? 64 : 8192;
  const double f = 2.0 * static_cast<double>(s) * static_cast<double>(s) * static_cast<double>(s);
  const Tensor a = noise({s, s}, kBFloat16), c = noise({s, s}, kBFloat16),
               d = noise({s / 2, s / 2}), e = noise({s / 2, s / 2});
  b.group({{"matmul bf16", 0, f, [=] { matmul(a, c); }},
           {"matmul f32", 0, f / 8, [=] { matmul(d, e); }}});
}

void elementwise_rows(Bench& b) {
  const bool tiny = b.tiny;
  const int64_t mega = b.elements();
  const auto n = static_cast<double>(b.elements());
  const Tensor x = noise({mega}), y = noise({mega}), h = x.to(kBFloat16),
               t = noise({tiny ? 64 : 8192, tiny ? 64 : 8192});
  const double m = static_cast<double>(t.numel());
  b.group({{"add f32", 12 * n, 0, [=] { x + y; }},
           {"gelu f32", 8 * n, 0, [=] { gelu(x); }},
           {"gelu bf16", 4 * n, 0, [=] { gelu(h); }},
           {"sum f32", 4 * n, 0, [=] { sum(x); }},
           {"column sums f32", 4 * m, 0, [=] { sum(t, {0}); }},
           {"row sums f32", 4 * m, 0, [=] { sum(t, {1}); }},
           {"transposed copy f32", 8 * m, 0, [=] { t.mT().clone(); }},
           {"random normal f32", 4 * n, 0, [=] { randn({mega}, kCUDA); }}});
  const Tensor w = noise({t.size(1)}), bias = noise({t.size(1)});
  b.group({{"softmax f32", 8 * m, 0, [=] { softmax(t, -1); }},
           {"layer_norm f32", 8 * m, 0, [=] { layer_norm(t, {t.size(1)}, w, bias); }},
           {"rms_norm f32", 8 * m, 0, [=] { rms_norm(t, w); }}});
}

void attention_rows(Bench& b) {
  const bool tiny = b.tiny;
  for (const int64_t D : {64, 128}) {
    const int64_t B = tiny ? 1 : 4, H = tiny ? 1 : 16, L = tiny ? 128 : 4096;
    const double dense = 4.0 * static_cast<double>(B * H * L * L * D);
    const Tensor q = noise({B, H, L, D}, kBFloat16), k = noise({B, H, L, D}, kBFloat16),
                 v = noise({B, H, L, D}, kBFloat16), g = noise({B, H, L, D}, kBFloat16);
    const Tensor qf = q.to(kFloat32), kf = k.to(kFloat32), vf = v.to(kFloat32);
    auto with = [](std::function<void(AttentionParams&)> set) {
      AttentionParams p;
      set(p);
      return p;
    };
    const AttentionParams none,
        causal = with([](auto&p) { p.causal = true; }),
        sigmoid = with([=](auto&p) { p.sigmoid_bias = -std::log(static_cast<double>(L)); });
    auto forward = [=](const AttentionParams& p) { return [=] { attention(q, k, v, p); }; };
    auto backward = [=](const AttentionParams& p) {
      return [=] {
        enable_grad on;
        Tensor a = q.detach(), c = k.detach(), d = v.detach();
        for (Tensor* t : {&a, &c, &d}) t->requires_grad_();
        attention(a, c, d, p).backward(g);
      };
    };
    std::vector<Row> rows{
        {fmt::format("attention bf16 D={}", D), 0, dense, forward(none)},
        {fmt::format("attention bf16 D={} causal", D), 0, dense / 2, forward(causal)},
        {fmt::format("attention bf16 D={} sigmoid", D), 0, dense, forward(sigmoid)},
        {fmt::format("attention bf16 D={} with backward", D), 0, 3.5 * dense, backward(none)},
        {fmt::format("attention bf16 D={} causal with backward", D), 0, 1.75 * dense,
         backward(causal)},
        {fmt::format("attention f32 D={}", D), 0, dense, [=] { attention(qf, kf, vf, {}); }}};
    for (const int64_t w : {1024, 256, 64}) {
      const AttentionParams window = with([=](auto& p) { p.window_left = w, p.window_right = w; });
      rows.push_back(
          {fmt::format("attention bf16 D={} window {}", D, w), 0,
           dense * std::min(1.0, (2.0 * static_cast<double>(w) + 1) / static_cast<double>(L)),
           forward(window)});
    }
    b.group(rows);
  }
}

void step_rows(Bench& b) {
  const auto n = static_cast<double>(b.elements());
  const int64_t mega = b.elements();
  std::vector<Row> rows;
  for (const char* name : {"AdamW", "AdamW8bit", "SGD"}) {
    const Tensor p = noise({mega}).detach().requires_grad_();
    p.set_grad(noise({mega}));
    auto optimizer = std::make_shared<Box<Optimizer>>(
        make_optimizer(name, {p}, Json::parse(R"({"lr": 0.001})")));
    rows.push_back({fmt::format("step {}", name),
                    n * (std::string(name) == "AdamW" ? 28
                         : std::string(name) == "SGD" ? 12
                                                      : 16),
                    0, [=] { (*optimizer)->step(); }});
  }
  b.group(rows);
}

void mx_rows(Bench& b) {
  const int64_t mega = b.elements();
  const auto n = static_cast<double>(b.elements());
  const Tensor x = noise({mega / 128, 128});
  const MXTensor q = quantize_mx(x, {.format = "MXFP8_E4M3"});
  b.group({{"MX quantize E4M3", 5.03 * n, 0, [=] { quantize_mx(x, {.format = "MXFP8_E4M3"}); }},
           {"MX quantize E2M1 packed", 4.53 * n, 0,
            [=] { quantize_mx(x, {.format = "MXFP4_E2M1"}, true); }},
           {"MX dequantize E4M3", 5.03 * n, 0,
            [=] { dequantize_mx(q.codes, q.scales, {.format = "MXFP8_E4M3"}); }}});
}

void suppression_rows(Bench& b) {
  const bool tiny = b.tiny;
  const int64_t boxes = tiny ? 100 : 30000;
  const Tensor corner = rand({boxes, 2}, kCUDA),
               box = concat({corner, corner + rand({boxes, 2}, kCUDA) * 0.05}, 1),
               scores = rand({boxes}, kCUDA), classes = rand({80, boxes / 10}, kCUDA);
  const Tensor few = box.narrow(0, 0, boxes / 10).contiguous();
  b.group(
      {{fmt::format("nms {}", boxes), 0, 0, [=] { nms(box, scores, {}); }},
       {fmt::format("fast_nms 80 x {}", boxes / 10), 0, 0, [=] { fast_nms(few, classes, {}); }}});
}

void fft_conv_rows(Bench& b) {
  const bool tiny = b.tiny;
  for (const int64_t L : {1024, 8192, 16384}) {
    const int64_t length = tiny ? L / 64 : L, B = tiny ? 1 : 8, C = tiny ? 2 : 768;
    const Tensor u = noise({B, C, length}), k = noise({C, length}), D = noise({C});
    const double m = static_cast<double>(u.numel());
    b.group({{fmt::format("fft_conv L={}", L), 8 * m, 0, [=] { fft_conv(u, k, D, {}); }},
             {fmt::format("fft_conv by transforms L={}", L), 8 * m, 0, [=] {
                const Tensor f = rfft(u, 2 * length), h = rfft(k, 2 * length);
                irfft(stack({f.select(-1, 0) * h.select(-1, 0) - f.select(-1, 1) * h.select(-1, 1),
                             f.select(-1, 0) * h.select(-1, 1) + f.select(-1, 1) * h.select(-1, 0)},
                            -1),
                      2 * length);
              }}});
  }
}

void bitlinear_rows(Bench& b) {
  const bool tiny = b.tiny;
  const int64_t K = tiny ? 64 : 4096;
  const Tensor h = noise({1, K}), w = noise({K, K}), hb = h.to(kBFloat16), wb = w.to(kBFloat16);
  BitLinearParams p;
  p.ternary = true;
  const BitPackedWeight packed = bitlinear_pack_weight(w, "b1.58", 1);
  const double kk = static_cast<double>(K * K);
  b.group({{"BitLinear packed M=1", kk / 4, 0, [=] { bit_linear(h, {}, {}, p, packed); }},
           {"bf16 linear M=1", 2 * kk, 0, [=] { linear(hb, wb); }}});
}

void depthwise_rows(Bench& b) {
  const bool tiny = b.tiny;
  for (const int64_t s : {3, 5, 7, 9}) {
    const int64_t B = tiny ? 1 : 32, C = tiny ? 4 : 192, H = tiny ? 8 : 56;
    const Tensor x = noise({B, C, H, H}), w = noise({C, 1, s, s});
    b.group(
        {{fmt::format("depthwise {}", s), 8 * static_cast<double>(x.numel()),
          2 * static_cast<double>(x.numel() * s * s), [=] {
            conv2d(x, w, {}, {.pad_begin = {s / 2, s / 2}, .pad_end = {s / 2, s / 2}, .groups = C});
          }}});
  }
}

void latent_rows(Bench& b) {
  const bool tiny = b.tiny;
  const int64_t B = tiny ? 1 : 4, H = tiny ? 1 : 8, T = tiny ? 100 : 8192, N = 32, D = 64;
  const Tensor p = softmax(noise({B, H, T, N}), -1), k = noise({B, H, T, N}),
               v = noise({B, H, T, D});
  b.group({{"latent causal", 0, 4.0 * static_cast<double>(B * H * T * N * D),
            [=] { latent_attention(p, k, v, true); }},
           {"latent", 0, 4.0 * static_cast<double>(B * H * T * N * D),
            [=] { latent_attention(p, k, v, false); }}});
}

void run_all(Bench& b) {
  no_grad guard;
  for (auto rows :
       {&copy_row, &product_rows, &elementwise_rows, &attention_rows, &step_rows, &mx_rows,
        &suppression_rows, &fft_conv_rows, &bitlinear_rows, &depthwise_rows, &latent_rows})
    rows(b);
}

int main_of(int argc, char** argv) {
  Bench b;
  std::string file;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--tiny")
      b.tiny = true;
    else if (a == "--filter" && i + 1 < argc)
      b.filter = argv[++i];
    else if (a == "--json" && i + 1 < argc)
      file = argv[++i];
    else
      return fmt::print(stderr, "bench_cuda: \"{}\"; expected --tiny, --filter TEXT, --json FILE\n",
                        a),
             2;
  }
  const CudaReport& r = cuda_report();
  if (r.count == 0) return fmt::print("no CUDA device: {}\n", r.why), 0;
  fmt::print("{}\n", r.devices[0]);
  run_all(b);
  if (file.empty()) return 0;
  Json all = Json::object();
  all.set("device", r.devices[0]);
  all.set("plugin", r.plugin);
  all.set("rows", b.rows);
  std::ofstream(file) << all.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace dropin

int main(int argc, char** argv) {
  try {
    return dropin::main_of(argc, argv);
  } catch (const dropin::Error& e) {
    fmt::print(stderr, "bench_cuda: {}\n", e.what());
    return 1;
  }
}
