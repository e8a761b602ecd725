// The same operation on the CPU and on CUDA: values and gradients of what the kernels compute, over
// shapes around their tiles. Runs on a GPU where there is one, and on the host executor
// (DROPIN_CUDA_PLUGIN names its plugin), which checks arithmetic and indexing, not races or speed.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "dropin/detection/suppression.h"
#include "dropin/dispatch/devices.h"
#include "dropin/ops/ops.h"
#include "dropin/optimizer/blockwise.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_report().count == 0) GTEST_SKIP() << "no CUDA device: " << cuda_report().why;
  }
};

Tensor noise(const Shape& s, DType t = kFloat32, std::uint64_t seed = 1) {
  Generator g(seed);
  return randn(s, t, &g);
}

using Op = std::function<Tensor(const Tensors&)>;
/// f on both devices from the same inputs, and the gradients of sum(f * w): differences relative to
/// the largest value (of 0.01 at least: some gradients are 0), at most `tolerance`.
void agrees(const char* what, const Tensors& inputs, const Op& f, double tolerance = 2e-5) {
  SCOPED_TRACE(what);
  std::vector<Tensors> all(2);
  for (int i = 0; i < 2; ++i) {
    const Device d = i ? kCUDA : kCPU;
    Tensors x;
    for (const Tensor& t : inputs) {
      x.push_back(t.defined() ? t.to(d).clone() : t);
      if (t.defined() && is_floating(t.dtype())) x.back().requires_grad_();
    }
    const Tensor y = f(x);
    ASSERT_EQ(y.device().is_cuda(), i == 1);
    all[i].push_back(y.detach().to(kFloat64).to(kCPU));
    if (y.requires_grad()) {
      sum(y * noise(y.sizes(), kFloat32, 99).to(y.dtype()).to(d)).backward();
      for (const Tensor& t : x)
        if (t.defined() && t.grad().defined()) all[i].push_back(t.grad().to(kFloat64).to(kCPU));
    }
  }
  ASSERT_EQ(all[0].size(), all[1].size());
  for (std::size_t k = 0; k < all[0].size(); ++k) {
    double top = 1e-2;
    for (double v : all[0][k].to_vector())
      top = std::isfinite(v) ? std::max(top, std::abs(v)) : top;
    EXPECT_LE(max_difference(all[0][k], all[1][k]) / top, tolerance)
        << (k ? "gradient " : "value ") << k << " of shape " << all[0][k].sizes().str();
  }
}

TEST_F(Cuda, ElementwiseOfEveryType) {
  for (const DType t : {kFloat32, kFloat64, kBFloat16, kFloat16}) {
    const double tol = t == kFloat64 ? 1e-12 : t == kFloat32 ? 2e-6 : 2e-2;
    const Tensor a = noise({7, 301}, kFloat32, 1).to(t), b = noise({7, 301}, kFloat32, 2).to(t);
    agrees(
        "add", {a, b}, [](const Tensors& x) { return x[0] + x[1]; }, tol);
    agrees(
        "div", {a, b}, [](const Tensors& x) { return x[0] / (abs(x[1]) + 1.0); }, tol);
    agrees(
        "broadcast", {a, b.narrow(0, 0, 1)}, [](const Tensors& x) { return x[0] * x[1]; }, tol);
    agrees(
        "transposed", {a, b}, [](const Tensors& x) { return (x[0].mT() * x[1].mT()).contiguous(); },
        tol);
    for (const auto& f : std::vector<std::function<Tensor(const Tensor&)>>{
             [](const Tensor& x) { return gelu(x); }, [](const Tensor& x) { return silu(x); },
             [](const Tensor& x) { return tanh(x); }, [](const Tensor& x) { return exp(x); },
             [](const Tensor& x) { return softplus(x); },
             [](const Tensor& x) { return sqrt(abs(x)); },
             [](const Tensor& x) { return gelu(x, "tanh"); },
             [](const Tensor& x) { return sin(x); }, [](const Tensor& x) { return erf(x); }})
      agrees(
          "unary", {a}, [&](const Tensors& x) { return f(x[0]); }, tol);
  }
}

TEST_F(Cuda, ConversionsBetweenAllTypes) {
  for (const DType from :
       {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8, kUInt8, kInt32, kInt64, kBool})
    for (const DType to :
         {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8, kUInt8, kInt32, kInt64, kBool}) {
      const Tensor x =
          tensor({0, 1, -1.5, 2.5, 200, -300, 70000, 0.25, 100}, {3, 3}).to(kFloat64).to(from);
      EXPECT_EQ(max_difference(x.to(kCUDA).to(to).to(kCPU), x.to(to)), 0)
          << name(from) << " to " << name(to);
      EXPECT_EQ(max_difference(x.to(kCUDA).mT().to(to).to(kCPU), x.mT().to(to)), 0)
          << name(from) << " to " << name(to) << ", transposed";
    }
}

TEST_F(Cuda, RandomNumbersAreTheCpusToTheLastBit) {
  for (const DType t : {kFloat32, kFloat64, kBFloat16, kFloat16}) {
    Generator a(5), b(5);
    EXPECT_EQ(max_difference(randn({1027}, t, &a), randn({1027}, {t, kCUDA}, &b).to(kCPU)), 0)
        << "normal " << name(t);
    EXPECT_EQ(max_difference(rand({1027}, t, &a), rand({1027}, {t, kCUDA}, &b).to(kCPU)), 0)
        << "uniform " << name(t);
  }
  Generator a(6), b(6);
  EXPECT_EQ(max_difference(randint(-5, 1000, {333}, kInt64, &a),
                           randint(-5, 1000, {333}, {kInt64, kCUDA}, &b).to(kCPU)),
            0);
  const Tensor x = noise({999});
  EXPECT_EQ(max_difference(dropout(x, 0.3, true, &a), dropout(x.to(kCUDA), 0.3, true, &b).to(kCPU)),
            0);
}

TEST_F(Cuda, Products) {
  for (const auto& [m, k, n] :
       {std::tuple{1, 1, 1}, {3, 5, 7}, {65, 33, 70}, {130, 200, 129}, {5, 300, 4}}) {
    agrees("matmul", {noise({m, k}), noise({k, n}, kFloat32, 2)},
           [](const Tensors& x) { return matmul(x[0], x[1]); });
    agrees("batched", {noise({3, m, k}), noise({3, n, k}, kFloat32, 2)},
           [](const Tensors& x) { return matmul(x[0], x[1].mT()); });
    agrees("linear", {noise({m, k}), noise({n, k}, kFloat32, 2), noise({n}, kFloat32, 3)},
           [](const Tensors& x) { return linear(x[0], x[1], x[2]); });
    agrees(
        "bfloat16", {noise({m, k}).to(kBFloat16), noise({k, n}, kFloat32, 2).to(kBFloat16)},
        [](const Tensors& x) { return matmul(x[0], x[1]); }, 2e-2);
  }
}

TEST_F(Cuda, ReductionsAndScans) {
  for (const Shape& s : {Shape{1, 1, 1}, Shape{3, 70, 5}, Shape{2, 33, 300}, Shape{40, 2, 64}}) {
    const Tensor x = noise(s);
    for (const Shape& dims : {Shape{0}, Shape{1}, Shape{2}, Shape{0, 2}, Shape{}}) {
      agrees("sum", {x}, [&](const Tensors& v) { return sum(v[0], dims); });
      agrees("amax", {x}, [&](const Tensors& v) { return amax(v[0], dims); });
      agrees("logsumexp", {x}, [&](const Tensors& v) { return logsumexp(v[0], dims); });
      agrees("var", {x}, [&](const Tensors& v) { return var(v[0], dims, 0); });
    }
    for (const int64_t d : {0, 1, 2}) {
      agrees("softmax", {x}, [&](const Tensors& v) { return softmax(v[0], d); });
      agrees(
          "cumsum", {x}, [&](const Tensors& v) { return cumsum(v[0], d); }, 1e-4);
      agrees(
          "logcumsumexp", {x}, [&](const Tensors& v) { return logcumsumexp(v[0], d); }, 1e-4);
      EXPECT_EQ(max_difference(argmax(x, d, false), argmax(x.to(kCUDA), d, false).to(kCPU)), 0);
      EXPECT_EQ(max_difference(argsort(x, d, true), argsort(x.to(kCUDA), d, true).to(kCPU)), 0);
    }
  }
}

TEST_F(Cuda, IndexingIsCheckedAndInOrder) {
  const Tensor x = noise({50, 6}), index = tensor({3, 0, 49, 3, 3, 7, 3}, {7}, kInt64);
  agrees("index_select", {x},
         [&](const Tensors& v) { return index_select(v[0], 0, index.to(v[0].device())); });
  agrees("gather", {x}, [&](const Tensors& v) {
    return gather(v[0], 0, index.to(v[0].device()).unsqueeze(1).expand({7, 6}));
  });
  Generator g(1);
  const Tensor many = randint(0, 50, {400}, kInt64, &g), src = noise({400, 6}, kFloat32, 4);
  EXPECT_EQ(max_difference(index_add(x, 0, many, src),
                           index_add(x.to(kCUDA), 0, many.to(kCUDA), src.to(kCUDA)).to(kCPU)),
            0)
      << "sums in index order are the same to the last bit";
  EXPECT_ERROR(index_select(x.to(kCUDA), 0, tensor({50}, {1}, kInt64).to(kCUDA)), IndexError,
               "index out of range");
  EXPECT_EQ(max_difference(nonzero(x > 0.3), nonzero(x.to(kCUDA) > 0.3).to(kCPU)), 0);
}

TEST_F(Cuda, NormsAndLosses) {
  for (const int64_t n : {1, 31, 257, 1500}) {
    const Tensor x = noise({9, n}), w = noise({n}, kFloat32, 2), b = noise({n}, kFloat32, 3);
    agrees(
        "layer_norm", {x, w, b},
        [&](const Tensors& v) { return layer_norm(v[0], {n}, v[1], v[2]); }, 5e-5);
    agrees(
        "rms_norm", {x, w}, [&](const Tensors& v) { return rms_norm(v[0], v[1]); }, 5e-5);
    Generator g(1);
    const Tensor t = randint(0, n, {9}, kInt64, &g);
    agrees("cross_entropy", {x}, [&](const Tensors& v) {
      return cross_entropy(v[0], t.to(v[0].device()), {}, "mean", -100, 0.1);
    });
  }
  agrees(
      "batch_norm", {noise({4, 5, 6, 7}), noise({5}), noise({5}, kFloat32, 2)},
      [](const Tensors& v) { return batch_norm(v[0], {}, {}, v[1], v[2], true, 0.1, 1e-5); }, 5e-5);
}

TEST_F(Cuda, ConvolutionsAndPools) {
  agrees("dense",
         {noise({2, 8, 13, 11}), noise({16, 8, 3, 3}, kFloat32, 2), noise({16}, kFloat32, 3)},
         [](const Tensors& v) {
           return conv2d(v[0], v[1], v[2], {.pad_begin = {1, 1}, .pad_end = {1, 1}});
         });
  agrees("grouped, strided, dilated", {noise({2, 6, 12, 9}), noise({4, 3, 3, 2}, kFloat32, 2)},
         [](const Tensors& v) {
           return conv2d(v[0], v[1], {},
                         {.stride = {2, 1},
                          .pad_begin = {2, 0},
                          .pad_end = {1, 1},
                          .dilation = {1, 2},
                          .groups = 2});
         });
  agrees("depthwise", {noise({2, 6, 12, 9}), noise({6, 1, 5, 5}, kFloat32, 2), noise({6})},
         [](const Tensors& v) {
           return conv2d(v[0], v[1], v[2], {.pad_begin = {2, 2}, .pad_end = {2, 2}, .groups = 6});
         });
  agrees("max_pool", {noise({2, 3, 9, 8})}, [](const Tensors& v) {
    return max_pool2d(v[0], {.kernel = {3, 2}, .stride = {2, 2}, .padding = {1, 0}});
  });
  agrees("avg_pool", {noise({2, 3, 9, 8})}, [](const Tensors& v) {
    return avg_pool2d(v[0], {.kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 1}});
  });
  agrees("adaptive", {noise({2, 3, 9, 8})}, [](const Tensors& v) {
    return adaptive_avg_pool2d(v[0], {4, 3});
  });
  agrees(
      "deformable",
      {noise({2, 4, 8, 7}), noise({2, 36, 8, 7}, kFloat32, 2), noise({2, 18, 8, 7}, kFloat32, 3),
       noise({6, 4, 3, 3}, kFloat32, 4), noise({6}, kFloat32, 5)},
      [](const Tensors& v) {
        return deform_conv2d(v[0], v[1], v[2], v[3], v[4],
                             {.pad_begin = {1, 1}, .pad_end = {1, 1}});
      },
      1e-4);
}

TEST_F(Cuda, AttentionOfEveryPattern) {
  const int64_t L = 150;
  for (const int64_t D : {8, 64, 72, 128, 160}) {  // beyond 128 without the tiled kernel
    const Tensors qkv{noise({2, 2, L, D}), noise({2, 2, L, D}, kFloat32, 2),
                      noise({2, 2, L, D}, kFloat32, 3)};
    auto run = [&](const char* what, const std::function<AttentionParams(const Device&)>& make,
                   const Tensors& in, double tolerance) {
      agrees(
          what, in,
          [&](const Tensors& v) { return attention(v[0], v[1], v[2], make(v[0].device())); },
          tolerance);
    };
    auto fixed = [](AttentionParams p) { return [p](const Device&) { return p; }; };
    run("dense", fixed({}), qkv, 5e-5);
    if (D == 72 || D >= 128) continue;
    AttentionParams causal, window, alibi, sigmoid, strands;
    causal.causal = true;
    window.window_left = 20, window.window_right = 5;
    alibi.alibi = true, alibi.causal = true;
    sigmoid.sigmoid_bias = -5.0;
    strands.step = {3, 1}, strands.first = {1, 0}, strands.segment = 64;
    run("causal", fixed(causal), qkv, 5e-5);
    run("window", fixed(window), qkv, 5e-5);
    run("alibi", fixed(alibi), qkv, 5e-5);
    run("sigmoid", fixed(sigmoid), qkv, 5e-5);
    run("strands", fixed(strands), qkv, 5e-5);
    run(
        "padding",
        [&](const Device& d) {
          AttentionParams p;
          Tensor pad = zeros({2, L}, {kBool, d});
          pad[0].narrow(0, 100, 50).fill_(1);
          p.key_padding_mask = pad;
          return p;
        },
        qkv, 5e-5);
    run(
        "added and forbidden",
        [&](const Device& d) {
          AttentionParams p;
          p.attn_mask = masked_fill(noise({2, L, L}, kFloat32, 8),
                                    noise({2, L, L}, kFloat32, 9) > 1.5, -INFINITY)
                            .to(d);
          return p;
        },
        qkv, 5e-5);
    run("shared keys, another length", fixed({}),
        {noise({2, 4, 33, D}), noise({2, 2, 70, D}, kFloat32, 2),
         noise({2, 2, 70, D}, kFloat32, 3)},
        5e-5);
    for (const DType t : {kBFloat16, kFloat16})
      run("16 bits", fixed(causal), {qkv[0].to(t), qkv[1].to(t), qkv[2].to(t)}, 3e-2);
  }
}

TEST_F(Cuda, WhatIsNotSeenDoesNotLeak) {
  Tensor v = noise({1, 1, 70, 16}, kFloat32, 3);
  v.select(2, 40).fill_(NAN);
  v.select(2, 60).fill_(INFINITY);
  AttentionParams p;
  p.causal = true;
  const Tensor q = noise({1, 1, 70, 16}), k = noise({1, 1, 70, 16}, kFloat32, 2);
  EXPECT_LT(max_difference(attention(q, k, v, p),
                           attention(q.to(kCUDA), k.to(kCUDA), v.to(kCUDA), p).to(kCPU)),
            1e-5);
}

TEST_F(Cuda, LearnedDistancesAndGridsAreComposed) {
  const Tensor q = noise({1, 2, 12, 8}, kFloat32, 1), k = noise({1, 2, 12, 8}, kFloat32, 2),
               v = noise({1, 2, 12, 8}, kFloat32, 3);
  for (const bool grid : {false, true}) {
    AttentionParams p;
    if (grid) {
      p.grid_bias = noise({2, 5, 7}, kFloat32, 4);
      p.grid_bias.narrow(1, 0, 2).fill_(-INFINITY);
      p.grid_places = stack({arange(4) * 0, arange(4)}, 1);
    } else {
      p.relative = noise({5, 8}, kFloat32, 4);
      p.relative_values = noise({5, 8}, kFloat32, 5);
      p.relative_middle = 2;
      p.relative_of_keys = true;
    }
    AttentionParams there = p;
    for (Tensor* t : {&there.relative, &there.relative_values, &there.grid_bias})
      if (t->defined()) *t = t->to(kCUDA);
    EXPECT_FALSE(attention_is_tiled(q.to(kCUDA), k.to(kCUDA), v.to(kCUDA), there));
    EXPECT_LT(max_difference(attention(q, k, v, p),
                             attention(q.to(kCUDA), k.to(kCUDA), v.to(kCUDA), there).to(kCPU)),
              1e-5);
  }
}

TEST_F(Cuda, LatentAndLongConvolutions) {
  for (const bool causal : {true, false})
    for (const int64_t t : {1, 64, 150})
      for (const int64_t n : {5, 80})  // beyond 64 latents without the kernel
        agrees(
            "latent",
            {softmax(noise({2, 2, t, n}), -1), noise({2, 2, t, n}, kFloat32, 2),
             noise({2, 2, t, 24}, kFloat32, 3)},
            [&](const Tensors& v) { return latent_attention(v[0], v[1], v[2], causal); }, 1e-4);
  for (const int64_t l : {1, 2, 31, 64, 100, 300}) {
    agrees(
        "fft_conv",
        {noise({2, 3, l}), noise({3, l}, kFloat32, 2), noise({3}, kFloat32, 3),
         noise({3, l}, kFloat32, 4), noise({2, 3, l}, kFloat32, 5), noise({2, 3, l}, kFloat32, 6)},
        [](const Tensors& v) {
          return fft_conv(v[0], v[1], v[2], {.k_rev = v[3], .pre_gate = v[4], .post_gate = v[5]});
        },
        1e-4);
    agrees("short", {noise({2, l, 5}), noise({5, 1, 3}, kFloat32, 2), noise({5}, kFloat32, 3)},
           [](const Tensors& v) { return causal_depthwise_conv(v[0], v[1], v[2]); });
  }
  for (const int64_t n : {1, 2, 12, 64, 100})
    agrees(
        "fft", {noise({3, n, 4})}, [](const Tensors& v) { return rfft(v[0], 0, 1); }, 1e-5);
}

TEST_F(Cuda, MxOfEveryMagnitudeRoundingAndAxis) {
  // every exponent that float32 has, zeros, NaN and Inf
  std::vector<double> values;
  for (int e = -149; e < 128; ++e)
    for (double m : {1.0, 1.25, 1.46875, 1.53125, 1.75, 1.96875})
      values.push_back((values.size() % 3 ? 1 : -1) * std::ldexp(m, e));
  while (values.size() % 96) values.push_back(0);
  const auto rows = static_cast<int64_t>(values.size() / 96);
  Tensor x = tensor(values, {rows, 96});
  x.select(0, 3).narrow(0, 5, 1).fill_(NAN);
  x.select(0, 5).narrow(0, 70, 1).fill_(-INFINITY);
  for (const char* f :
       {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"})
    for (const char* r : {"even", "away", "zero"})
      for (const char* mode : {"floor", "ceil"})
        for (const int64_t axis : {-1, 0})
          for (const int64_t block : {32, 16}) {
            const MXParams p{
                .format = f, .axis = axis, .block_size = block, .rounding = r, .scale_mode = mode};
            const MXTensor a = quantize_mx(x, p), b = quantize_mx(x.to(kCUDA), p);
            EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0)
                << f << " " << r << " " << mode << " axis " << axis << " block " << block;
            EXPECT_EQ(max_difference(a.scales, b.scales.to(kCPU)), 0) << f << " " << mode;
            EXPECT_EQ(
                max_difference(fake_quantize_mx(x, p), fake_quantize_mx(x.to(kCUDA), p).to(kCPU)),
                0)
                << f << " " << r << " axis " << axis << " block " << block;
            EXPECT_EQ(max_difference(dequantize_mx(a.codes, a.scales, p),
                                     dequantize_mx(b.codes, b.scales, p).to(kCPU)),
                      0)
                << f;
          }
}

TEST_F(Cuda, AfterAForkTheChildIsToldSo) {
  const Tensor c = noise({4}).to(kCUDA);
  const pid_t child = fork();
  if (child == 0) {
    int code = 1;
    try {
      c + c;
    } catch (const DeviceError& e) {
      code = std::string(e.what()).find("fork") != std::string::npos ? 0 : 2;
    } catch (...) {
      code = 3;
    }
    _exit(code);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(max_difference((c + c).to(kCPU), noise({4}) * 2.0), 0) << "the parent goes on";
}

TEST_F(Cuda, LowBitFormats) {
  const Tensor x = noise({33, 130}) * 3.0, c = x.to(kCUDA);
  for (const int64_t width : {130, 160})  // a last block that is short; rows of whole blocks
    for (const char* f :
         {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2", "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"})
      for (const bool packed : {false, true}) {
        const Tensor here = noise({33, width}) * 3.0, there = here.to(kCUDA);
        const MXTensor a = quantize_mx(here, {.format = f}, packed),
                       b = quantize_mx(there, {.format = f}, packed);
        EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0) << f << " of " << width;
        EXPECT_EQ(max_difference(a.scales, b.scales.to(kCPU)), 0) << f << " of " << width;
        EXPECT_EQ(
            max_difference(dequantize_mx(a.codes, a.scales, {.format = f}, packed, width),
                           dequantize_mx(b.codes, b.scales, {.format = f}, packed, width).to(kCPU)),
            0)
            << f << " of " << width;
      }
  const Blockwise a = quantize_blockwise(x, true, 64), b = quantize_blockwise(c, true, 64);
  EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0);
  EXPECT_EQ(max_difference(dequantize_blockwise(a.codes, a.absmax, true, 64),
                           dequantize_blockwise(b.codes, b.absmax, true, 64).to(kCPU)),
            0);
  for (const bool ternary : {true, false})
    for (const int64_t k : {7, 64, 96, 130}) {
      BitLinearParams p;
      p.ternary = ternary;
      agrees("bit_linear", {noise({5, k}), noise({12, k}, kFloat32, 2), noise({12}, kFloat32, 3)},
             [&](const Tensors& v) { return bit_linear(v[0], v[1], v[2], p); });
    }
}

TEST_F(Cuda, SuppressionKeepsTheSameBoxes) {
  Generator g(4);
  const Tensor corner = rand({300, 2}, kFloat32, &g), size = rand({300, 2}, kFloat32, &g) * 0.3,
               boxes = concat({corner, corner + size}, 1), scores = rand({300}, kFloat32, &g);
  const Tensor classes = randint(0, 4, {300}, kInt64, &g), per_class = rand({5, 300}, kFloat32, &g);
  EXPECT_EQ(
      max_difference(nms(boxes, scores, {}), nms(boxes.to(kCUDA), scores.to(kCUDA), {}).to(kCPU)),
      0);
  EXPECT_EQ(max_difference(
                batched_nms(boxes, scores, classes, {}),
                batched_nms(boxes.to(kCUDA), scores.to(kCUDA), classes.to(kCUDA), {}).to(kCPU)),
            0);
  for (const bool cross : {false, true}) {
    FastNmsOptions o;
    o.cross_class = cross, o.top_k = 50, o.max_detections = 40;
    const Detections a = fast_nms(boxes, per_class, o),
                     b = fast_nms(boxes.to(kCUDA), per_class.to(kCUDA), o);
    EXPECT_EQ(max_difference(a.indices, b.indices.to(kCPU)), 0);
    EXPECT_EQ(max_difference(a.classes, b.classes.to(kCPU)), 0);
    EXPECT_EQ(max_difference(a.scores, b.scores.to(kCPU)), 0);
  }
}

TEST_F(Cuda, EightBitCodesAreTheCpusAtEveryMidpoint) {
  for (const bool is_signed : {true, false}) {
    const Tensor map = create_dynamic_map(is_signed);
    std::vector<float> v;
    for (int c = 0; c < 255; ++c) {
      const float mid =
          static_cast<float>((map.data<float>()[c] + map.data<float>()[c + 1]) * 0.5f);
      for (const float x :
           {mid, std::nextafter(mid, 2.0f), std::nextafter(mid, -2.0f), map.data<float>()[c]})
        v.push_back(x);
    }
    for (int k = 0; k < 3000; ++k)
      v.push_back((is_signed && k % 2 ? -1.0f : 1.0f) *
                  std::pow(10.0f, -static_cast<float>(k) / 400));
    for (const int64_t block : {16, 256, 1000}) {
      std::vector<float> all;  // every block's largest is 1: codes of the values themselves
      for (std::size_t k = 0; k < v.size(); ++k) {
        if (all.size() % static_cast<std::size_t>(block) == 0) all.push_back(1);
        all.push_back(v[k]);
      }
      const Tensor x = tensor(std::vector<double>(all.begin(), all.end()));
      const Blockwise a = quantize_blockwise(x, is_signed, block),
                      b = quantize_blockwise(x.to(kCUDA), is_signed, block);
      EXPECT_EQ(max_difference(a.codes, b.codes.to(kCPU)), 0)
          << "signed " << is_signed << " block " << block;
      EXPECT_EQ(max_difference(a.absmax, b.absmax.to(kCPU)), 0);
      EXPECT_EQ(max_difference(dequantize_blockwise(a.codes, a.absmax, is_signed, block),
                               dequantize_blockwise(b.codes, b.absmax, is_signed, block).to(kCPU)),
                0);
    }
  }
}

TEST_F(Cuda, EightBitStatesKeepTheirSigns) {
  std::vector<Tensor> codes;
  for (const Device& d : {kCPU, kCUDA}) {
    Tensor p = zeros({256}).to(d).clone().requires_grad_(), g = full({256}, -1e-9);
    g.data<float>()[0] = 1;
    Box<Optimizer> opt = make_optimizer("Adam8bit", {p}, Json::parse(R"({"min_8bit_size": 0})"));
    p.set_grad(g.to(d));
    opt->step();
    codes.push_back(opt->state_dict().find("state.0.state1").to(kCPU));
    EXPECT_EQ(codes.back().data<std::uint8_t>()[0], 255);
    EXPECT_EQ(codes.back().data<std::uint8_t>()[1], 126)
        << "negative, and smaller than every code but 0";
  }
  EXPECT_EQ(max_difference(codes[0], codes[1]), 0);
}

TEST_F(Cuda, MixedDevicesAndMissingDevicesAreRefusedInWords) {
  const Tensor x = noise({2, 3}), c = x.to(kCUDA);
  EXPECT_ERROR(x + c, DeviceError, "move one with to()");
  EXPECT_ERROR(layer_norm(c, {3}, noise({3}), {}), DeviceError,
               "layer_norm_forward: tensors on cuda:0 and cpu");
  EXPECT_ERROR(zeros({2}, Device("cuda:9")), DeviceError, "cuda:9: there");
  EXPECT_ERROR(empty({int64_t{1} << 45}, {kFloat32, kCUDA}), OutOfMemoryError, "out of memory");
  EXPECT_EQ(max_difference((c + 1.0).to(kCPU), x + 1.0), 0) << "and work goes on";
}

TEST_F(Cuda, OptimizersTakeTheSameSteps) {
  for (const char* name : {"SGD", "Adam", "AdamW", "AdamW8bit", "Adam8bit", "SGD8bit"}) {
    Tensors end;
    for (const Device& d : {kCPU, kCUDA}) {
      Tensor p = noise({300, 20}).to(d).clone().requires_grad_();
      Json o = Json::parse(std::string(name).find("SGD") != std::string::npos
                               ? R"({"lr": 0.01, "momentum": 0.9})"
                               : R"({"lr": 0.01})");
      if (std::string(name).find("8bit") != std::string::npos) o.set("min_8bit_size", 0);
      Box<Optimizer> opt = make_optimizer(name, {p}, o);
      for (int s = 0; s < 3; ++s) {
        p.set_grad(noise({300, 20}, kFloat32, 10 + static_cast<std::uint64_t>(s)).to(d));
        opt->step();
      }
      end.push_back(p.detach().to(kCPU));
    }
    EXPECT_LT(max_difference(end[0], end[1]),
              std::string(name).find("8bit") != std::string::npos ? 2e-3 : 1e-6)
        << name;
  }
}

}  // namespace
}  // namespace dropin
