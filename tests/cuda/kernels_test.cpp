// What the kernels of general operations compute, on the CPU and on CUDA, over shapes around their
// tiles.
#include <sys/wait.h>
#include <unistd.h>
#include <functional>

#include "cuda/both_devices.h"
#include "dropin/detection/suppression.h"
#include "dropin/dispatch/devices.h"
#include "dropin/ops/ops.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;

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
