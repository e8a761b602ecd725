// A training step fed by a DataLoader beside the same step on batches that are in memory:
//   bench_loader [--workers 1] [--threads 1] [--rounds 7] [--batches 40] [--width 32]
// Pictures are decoded (JPEG, where the library has it) and transformed as for training. The two
// take turns; a round of the loader is a whole epoch, its start included. On two idle cores, one
// worker and a step of one thread, the ratio of the rates is to be at least 0.95, as long as a
// batch is made in less time than a step takes: the first line says so.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>

#include "dropin/core/parallel.h"
#include "dropin/data/data_loader.h"
#include "dropin/data/image.h"
#include "dropin/data/transforms.h"
#include "dropin/model/convnet.h"
#include "dropin/ops/ops.h"
#include "dropin/optimizer/optimizer.h"

namespace {

using namespace dropin;

constexpr int64_t kBatch = 32, kClasses = 10;

/// Pictures of 96 x 96 of slow waves, compressed where the library can; cropped to 32 x 32.
class Photos : public Dataset {
 public:
  explicit Photos(int64_t size) : size_(size) {
    const Tensor line = arange(0, 96, 1, kFloat32);
    for (int64_t k = 0; k < kClasses; ++k) {
      const Tensor wave = sin(line * (0.05 * static_cast<double>(k + 1)));
      const Tensor plane = (wave.reshape({96, 1}) * wave.reshape({1, 96}) + 1) * 127;
      plain_.push_back(stack({plane, plane.transpose(0, 1), 255 - plane}).to(kUInt8).contiguous());
      try {
        files_.push_back(encode_jpeg(plain_.back(), 90));
      } catch (const StateError&) {  // a build without libjpeg
      }
    }
  }
  int64_t size() const override { return size_; }
  Tensors get(int64_t i) const override {
    const auto k = static_cast<std::size_t>(i % kClasses);
    return {prepare_(files_.empty() ? plain_[k] : decode_image(files_[k])), scalar(i % kClasses)};
  }

 private:
  int64_t size_;
  Tensors plain_;
  std::vector<std::string> files_;
  transforms::Compose prepare_{{transforms::RandomResizedCrop({32}),
                                transforms::RandomHorizontalFlip(),
                                transforms::ToDtype(kFloat32, true),
                                transforms::Normalize({0.5, 0.5, 0.5}, {0.25, 0.25, 0.25})}};
};

struct Step {
  ConvNet model;
  AdamW optimizer;
  explicit Step(int64_t width)
      : model({.in_channels = 3, .num_classes = kClasses, .width = width}),
        optimizer(model.parameters(), {.lr = 1e-3}) {}
  void operator()(const Tensors& batch) {
    const Tensor loss = cross_entropy(model(batch[0]), batch[1].to(kInt64).reshape({-1}));
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  }
};

/// Seconds per batch.
template <class F>
double timed(int64_t batches, F f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
         static_cast<double>(batches);
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

int run(std::map<std::string, int64_t> o) {
  set_num_threads(static_cast<int>(o["--threads"]));
  manual_seed(1);
  const int64_t batches = o["--batches"];
  const Photos photos(batches * kBatch);
  DataLoader loader(photos, {.batch_size = kBatch, .shuffle = true, .num_workers = o["--workers"]});
  std::vector<Tensors> memory;
  const double making = timed(batches, [&] {
    for (const Tensors& batch : loader) memory.push_back(batch);
  });
  Step step(o["--width"]);
  auto from_memory = [&] {
    for (const Tensors& batch : memory) step(batch);
  };
  auto from_loader = [&] {
    for (const Tensors& batch : loader) step(batch);
  };
  from_memory();  // what is paid once
  std::vector<double> of_memory, of_loader, ratios;
  fmt::print("a batch is made in {:.2f} ms by {} workers, a step takes {:.2f} ms on {} threads\n",
             making * 1e3, o["--workers"], timed(batches, from_memory) * 1e3, o["--threads"]);
  for (int64_t i = 0; i < o["--rounds"]; ++i) {
    of_memory.push_back(timed(batches, from_memory));
    of_loader.push_back(timed(batches, from_loader));
    ratios.push_back(of_memory.back() / of_loader.back());
    fmt::print("round {}: in memory {:.2f} steps/s, by the loader {:.2f} steps/s, ratio {:.3f}\n",
               i + 1, 1 / of_memory.back(), 1 / of_loader.back(), ratios.back());
  }
  fmt::print("median: in memory {:.2f} steps/s, by the loader {:.2f} steps/s, ratio {:.3f}\n",
             1 / median(of_memory), 1 / median(of_loader), median(ratios));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, int64_t> options = {
      {"--workers", 1}, {"--threads", 1}, {"--rounds", 7}, {"--batches", 40}, {"--width", 32}};
  for (int i = 1; i < argc; i += 2) {
    const bool known = options.count(argv[i]) && i + 1 < argc;
    const int64_t value = known ? std::atoll(argv[i + 1]) : 0;
    if (!known || value < (std::string(argv[i]) == "--workers" ? 0 : 1)) {
      std::fprintf(stderr,
                   "bench_loader: %s, expected --workers, --threads, --rounds, --batches "
                   "or --width, and a number\n",
                   argv[i]);
      return 2;
    }
    options[argv[i]] = value;
  }
  try {
    return run(options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_loader: %s\n", e.what());
    return 2;
  }
}
