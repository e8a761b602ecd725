// Vision: depthwise and mixed convolution, suppression, deformable convolution, each beside the
// form it replaces, in one run. bench/peers/vision.py runs these rows in turn with torch's and
// torchvision's on the same inputs. FLOPs are of the convolution itself, bytes what must move at
// least.
#include <benchmark/benchmark.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/dump.h"
#include "dropin/convolution/deform_conv.h"
#include "dropin/convolution/mix_conv.h"
#include "dropin/core/parallel.h"
#include "dropin/data/tasks.h"
#include "dropin/detection/masks.h"
#include "dropin/detection/suppression.h"
#include "dropin/ops/ops.h"
#include "src/cpu/onednn.h"

namespace {

using namespace dropin;

void row(const std::string& name, double flops, double bytes, const std::function<void()>& f,
         const std::function<NamedTensors()>& results = {}) {
  benchmark::RegisterBenchmark(
      name.c_str(),
      [=](benchmark::State& state) {
        if (dump_file() && results) dump_and_exit(results());
        f();
        for (auto _ : state) f();
        const auto n = static_cast<double>(state.iterations());
        if (flops > 0)
          state.counters["GFLOPs"] =
              benchmark::Counter(n * flops / 1e9, benchmark::Counter::kIsRate);
        if (bytes > 0)
          state.counters["GB"] = benchmark::Counter(n * bytes / 1e9, benchmark::Counter::kIsRate);
      })
      ->UseRealTime()
      ->Unit(benchmark::kMicrosecond)
      ->MinTime(0.2);
}

Tensor channels_last(const Tensor& x) {
  return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
}

/// The leaves by their places: "0", "1", ...
NamedTensors numbered(const Tensors& leaves) {
  NamedTensors all;
  for (std::size_t i = 0; i < leaves.size(); ++i) all.set(std::to_string(i), leaves[i]);
  return all;
}

/// Forward alone, and with the gradients of everything that asks for one.
void both(const std::string& name, double flops, double bytes, const std::function<Tensor()>& f,
          const Tensors& leaves, const Tensor& g) {
  row(
      name + "/forward", flops, bytes,
      [f] {
        no_grad guard;
        benchmark::DoNotOptimize(f().data_ptr());
      },
      [=] { return with_gradients(numbered(leaves), f(), {}); });
  row(
      name + "/both", 3 * flops, 3 * bytes,
      [=] {
        f().backward(g);
        for (const Tensor& t : leaves) t.set_grad({});
      },
      [=] { return with_gradients(numbered(leaves), f(), g); });
}

/// The convolution as one oneDNN call per thread's images, weights reordered each time as
/// everywhere.
Tensor onednn_depthwise(const Tensor& x, const Tensor& w, int64_t pad) {
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3), k = w.size(2);
  cpu::onednn::Conv c;
  c.groups = c.in = c.out = C;
  for (int i = 0; i < 2; ++i)
    c.size[i] = x.size(i + 2), c.out_size[i] = c.size[i], c.kernel[i] = k,
    c.pad_begin[i] = c.pad_end[i] = pad;
  const std::unique_ptr<cpu::onednn::ConvWeights, cpu::onednn::DestroyWeights> ready(
      cpu::onednn::prepare_weights(cpu::onednn::ConvPass::Forward, c, w.data<float>()));
  Tensor y = empty({B, C, H, W});
  parallel_for(B, 1, [&](int64_t b, int64_t end) {
    for (; b < end; ++b)
      cpu::onednn::conv_forward(c, *ready, x.data<float>() + b * C * H * W, nullptr,
                                y.data<float>() + b * C * H * W);
  });
  return y;
}

/// Greedy suppression as everyone writes it first.
int64_t plain_nms(const BoxScene& s, double threshold) {
  const Tensor order = argsort(s.scores, 0, true);
  const float* b = s.boxes.data<float>();
  const int64_t* o = order.data<int64_t>();
  const int64_t n = order.numel();
  std::vector<std::uint8_t> gone(static_cast<std::size_t>(n));
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (gone[static_cast<std::size_t>(i)]) continue;
    ++kept;
    const float* p = b + 4 * o[i];
    const float area = (p[2] - p[0]) * (p[3] - p[1]);
    for (int64_t j = i + 1; j < n; ++j) {
      const float* q = b + 4 * o[j];
      const float w = std::max(0.f, std::min(p[2], q[2]) - std::max(p[0], q[0])),
                  h = std::max(0.f, std::min(p[3], q[3]) - std::max(p[1], q[1]));
      if (static_cast<double>(w * h / (area + (q[2] - q[0]) * (q[3] - q[1]) - w * h)) > threshold)
        gone[static_cast<std::size_t>(j)] = 1;
    }
  }
  return kept;
}

/// A batch of pictures in both layouts, and gradients of their size.
struct Frames {
  Tensor x, g, x_last, g_last;
};
constexpr int64_t B = 8, C = 96, H = 56, W = 56;
constexpr double kCells = static_cast<double>(B * C * H * W), kBytes = 8 * kCells;
Frames batch(Generator& random) {
  Frames b;
  b.x = randn({B, C, H, W}, {}, &random).requires_grad_();
  b.g = randn({B, C, H, W}, {}, &random);
  b.x_last = channels_last(b.x.detach()).requires_grad_();
  b.g_last = channels_last(b.g);
  return b;
}

void depthwise_rows(const Frames& pictures, Generator& random) {
  const Tensor x = pictures.x, g = pictures.g, x_last = pictures.x_last, g_last = pictures.g_last;
  for (const int64_t k : {3, 5, 7, 9, 11}) {
    const Tensor w = randn({C, 1, k, k}, {}, &random).requires_grad_();
    const ConvParams p{.pad_begin = {k / 2, k / 2}, .pad_end = {k / 2, k / 2}, .groups = C};
    const double flops = 2 * kCells * static_cast<double>(k * k);
    const std::string name = "depthwise/" + std::to_string(k);
    both(
        name, flops, kBytes, [=] { return conv2d(x, w, {}, p); }, {x, w}, g);
    both(
        name + "/channels_last", flops, kBytes, [=] { return conv2d(x_last, w, {}, p); },
        {x_last, w}, g_last);
    row(name + "/onednn/forward", flops, kBytes,
        [=] { benchmark::DoNotOptimize(onednn_depthwise(x, w, k / 2).data_ptr()); });
  }
  const Tensor w = randn({C, 1, 5, 5}, {}, &random).requires_grad_(),
               half = randn({B, C, H / 2, W / 2}, {}, &random);
  const ConvParams p{.stride = {2, 2}, .pad_begin = {2, 2}, .pad_end = {2, 2}, .groups = C};
  both(
      "depthwise/5s2", kCells / 2 * 25, 5 * kCells, [=] { return conv2d(x, w, {}, p); }, {x, w},
      half);
  const Tensor small = randn({B, 480, 14, 14}, {}, &random).requires_grad_(),
               gs = randn({B, 480, 14, 14}, {}, &random),
               ws = randn({480, 1, 5, 5}, {}, &random).requires_grad_();
  both(
      "depthwise/5at14", 2.0 * B * 480 * 196 * 25, 8.0 * B * 480 * 196,
      [=] {
        return conv2d(small, ws, {}, {.pad_begin = {2, 2}, .pad_end = {2, 2}, .groups = 480});
      },
      {small, ws}, gs);
}

void mixconv_rows(const Frames& pictures, Generator& random) {
  const Tensor x = pictures.x, g = pictures.g, x_last = pictures.x_last, g_last = pictures.g_last;
  std::vector<DepthwiseGroup> groups;
  Tensors leaves{x};
  for (const int64_t k : {3, 5, 7, 9}) {
    groups.push_back({randn({C / 4, 1, k, k}, {}, &random).requires_grad_(),
                      {},
                      {k / 2, k / 2},
                      {k / 2, k / 2}});
    leaves.push_back(groups.back().weight);
  }
  Tensors last = leaves;
  last[0] = x_last;
  const double flops = 2 * kCells * 41;
  both(
      "mixconv", flops, kBytes, [=] { return mixed_depthwise_conv2d(x, groups); }, leaves, g);
  both(
      "mixconv/channels_last", flops, kBytes,
      [=] { return mixed_depthwise_conv2d(x_last, groups); }, last, g_last);
  both(
      "mixconv/split_conv_concat", flops, kBytes,
      [=] {
        return plain::mixed_depthwise_conv2d(x, groups, {1, 1});
      },
      leaves, g);
}

void nms_rows() {
  for (const int64_t n : {1000, 5000})
    for (const int64_t objects : {0, 12}) {
      const BoxScene s = box_scene(n, objects);
      const std::string name = "nms/" + std::to_string(n) + (objects ? "/crowded" : "/spread");
      row(
          name, 0, 0,
          [s] {
            benchmark::DoNotOptimize(nms(s.boxes, s.scores, {.iou_threshold = 0.5}).data_ptr());
          },
          [s]() -> NamedTensors {
            return {{"boxes", s.boxes},
                    {"scores", s.scores},
                    {"y", nms(s.boxes, s.scores, {.iou_threshold = 0.5})}};
          });
      row(name + "/plain_loop", 0, 0, [s] { benchmark::DoNotOptimize(plain_nms(s, 0.5)); });
      const Tensor one = s.scores.unsqueeze(0);
      row(
          name + "/fast_nms", 0, 0,
          [s, one] {
            benchmark::DoNotOptimize(
                fast_nms(s.boxes, one, {.top_k = 0, .max_detections = 0}).indices.data_ptr());
          },
          [s, one]() -> NamedTensors {
            return {{"boxes", s.boxes},
                    {"scores", s.scores},
                    {"y", fast_nms(s.boxes, one, {.top_k = 0, .max_detections = 0}).indices}};
          });
    }
}

/// Fast NMS as the official code's tensor operations.
void matrix_form(const BoxScene& s) {
  no_grad guard;
  const ValuesIndices top = sort(s.scores, 1, true);
  const Tensor index = top.indices.narrow(1, 0, 200).contiguous(),
               b = index_select(s.boxes, 0, index.reshape({-1})).reshape({80, 200, 4});
  const Tensor low = maximum(b.unsqueeze(2).slice(3, 0, 2), b.unsqueeze(1).slice(3, 0, 2)),
               high = minimum(b.unsqueeze(2).slice(3, 2, 4), b.unsqueeze(1).slice(3, 2, 4));
  const Tensor wh = clamp(high - low, 0, 1e30), inter = wh.select(3, 0) * wh.select(3, 1);
  const Tensor area = (b.select(2, 2) - b.select(2, 0)) * (b.select(2, 3) - b.select(2, 1));
  const Tensor iou = triu(inter / (area.unsqueeze(2) + area.unsqueeze(1) - inter), 1);
  benchmark::DoNotOptimize((amax(iou, {1}) <= 0.5).data_ptr());
}

/// The reproduction: 80 classes, 1000 candidates, 200 of each class.
void suppression_rows() {
  const BoxScene s = box_scene(1000, 12, 80);
  row("suppression/80x1000/fast_nms", 0, 0, [s] {
    benchmark::DoNotOptimize(fast_nms(s.boxes, s.scores, {.top_k = 200}).indices.data_ptr());
  });
  row("suppression/80x1000/nms", 0, 0,
      [s] {  // every class as fast_nms would have it: its 200 best
        parallel_for(80, 1, [&](int64_t c, int64_t end) {
          for (; c < end; ++c) {
            const ValuesIndices best = topk(s.scores[c], 200);
            benchmark::DoNotOptimize(
                nms(index_select(s.boxes, 0, best.indices), best.values, {.iou_threshold = 0.5})
                    .data_ptr());
          }
        });
      });
  const Tensor boxes = s.boxes.unsqueeze(0).expand({80, 1000, 4}).contiguous().reshape({80000, 4}),
               scores = s.scores.reshape({80000});
  const Tensor idxs = repeat_interleave(arange(0, 80), 1000, 0);
  row("suppression/80x1000/batched_nms", 0, 0, [=] {
    benchmark::DoNotOptimize(batched_nms(boxes, scores, idxs, {.iou_threshold = 0.5}).data_ptr());
  });
  row("suppression/80x1000/matrix_form", 0, 0, [s] { matrix_form(s); });
}

void deform_rows(Generator& random) {
  const int64_t O = 64, N = 4;
  const Tensor z = randn({N, O, H, W}, {}, &random).requires_grad_(),
               offset = (randn({N, 18, H, W}, {}, &random) * 2.0).requires_grad_();
  const Tensor mask = rand({N, 9, H, W}, {}, &random).requires_grad_(),
               w = randn({O, O, 3, 3}, {}, &random).requires_grad_(),
               gz = randn({N, O, H, W}, {}, &random);
  const ConvParams p{.pad_begin = {1, 1}, .pad_end = {1, 1}};
  const double flops = 2.0 * N * H * W * O * O * 9;
  both(
      "deform", flops, 0, [=] { return deform_conv2d(z, offset, mask, w, {}, p); },
      {z, offset, mask, w}, gz);
  both(
      "deform/conv2d", flops, 0, [=] { return conv2d(z, w, {}, p); }, {z, w}, gz);
  both(
      "deform/plain", flops, 0, [=] { return plain::deform_conv2d(z, offset, mask, w, {}, p); },
      {z, offset, mask, w}, gz);
}

void mask_rows(Generator& random) {
  const Tensor prototypes = relu(randn({32, 138, 138}, {}, &random)),
               coefficients = tanh(randn({100, 32}, {}, &random)),
               corners = rand({100, 2}, {}, &random) * 0.7;
  const Tensor boxes = concat({corners, corners + rand({100, 2}, {}, &random) * 0.3}, 1);
  row("yolact_masks/100", 2.0 * 100 * 32 * 138 * 138, 4.0 * 138 * 138 * 132, [=] {
    no_grad guard;
    benchmark::DoNotOptimize(yolact_masks(prototypes, coefficients, boxes).data_ptr());
  });
  row("yolact_masks/100/composition", 2.0 * 100 * 32 * 138 * 138, 4.0 * 138 * 138 * 132, [=] {
    no_grad guard;
    const Tensor m =
        sigmoid(matmul(coefficients, prototypes.reshape({32, 138 * 138}))).reshape({100, 138, 138});
    benchmark::DoNotOptimize(where(crop_window(boxes, 138, 138), m, 0.0).data_ptr());
  });
}

}  // namespace

int main(int argc, char** argv) {
  Generator random(1);
  const Frames pictures = batch(random);
  depthwise_rows(pictures, random);
  mixconv_rows(pictures, random);
  nms_rows();
  suppression_rows();
  deform_rows(random);
  mask_rows(random);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
