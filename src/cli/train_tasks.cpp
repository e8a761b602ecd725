#include "cli/train_tasks.h"

#include <unistd.h>

#include <fmt/format.h>

#include <filesystem>
#include <numbers>

#include "cli/text_file.h"
#include "dropin/data/fashion_mnist.h"
#include "dropin/model/convnet.h"
#include "dropin/model/transformer.h"

namespace dropin::cli {

// Every batch draws from its own stretch of the stream, far from all others.
Generator batch_generator(int64_t seed, int64_t i, bool evaluation) {
  Generator g(static_cast<std::uint64_t>(seed) * 2 + 1);
  g.set_offset((static_cast<std::uint64_t>(i) + (evaluation ? std::uint64_t{1} << 30 : 0)) << 32);
  return g;
}

std::string defaults_text(int64_t TaskDefaults::*field) {
  std::string text;
  for (const TaskDefaults& d : kTaskDefaults)
    if (d.*field) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", d.task, d.*field);
  return text;
}

namespace {

Tensor call(Module& m, const Tensor& x) { return m.call({{"x", x}}).get("y", m.type()); }
double accuracy(const Tensor& logits, const Tensor& target) {
  return mean(eq(argmax(logits, -1), target).to(kFloat32)).item();
}

class TextTask : public Task {
 public:
  explicit TextTask(const TaskSettings& s)
      : s_(s),
        text_(s.data.empty() ? TextDataset::from_string(grammar_text(200'000))
                             : TextDataset::from_string(read_text_file(s.data), s.data)),
        batch_(s.batch),
        length_(s.length) {
    batch(0);
    text_.validation(1, length_);
  }
  Box<Module> make_model() const override {
    return Box<Module>(new Transformer(
        {.vocab_size = 256, .embed_dim = s_.width, .num_layers = s_.layers, .max_len = length_}));
  }
  Batch batch(int64_t i) const override {
    Generator g = batch_generator(s_.seed, i);
    return text_.sample(batch_, length_, g);
  }
  Tensor loss(Module& m, const Batch& b) const override {
    return cross_entropy(call(m, b.x).reshape({-1, 256}), b.y.reshape({-1}));
  }
  const char* metric_name() const override { return "bits/byte"; }
  Score evaluate(Module& m, const Device& d) const override {
    no_grad guard;
    const Batch b = text_.validation(batch_, length_);
    const double l = loss(m, {b.x.to(d), b.y.to(d)}).item();
    return {l, l / std::numbers::ln2};
  }

 private:
  TaskSettings s_;
  TextDataset text_;
  int64_t batch_, length_;
};

class RecallTask : public Task {
 public:
  explicit RecallTask(const TaskSettings& s)
      : s_(s), batch_(s.batch), length_(s.length), vocab_(s.vocab) {
    if (!s.data.empty())
      fail<OptionError>({"train: the recall task is generated; it takes no --data"});
    batch(0);
  }
  Box<Module> make_model() const override {
    return Box<Module>(new Transformer({.vocab_size = vocab_,
                                        .embed_dim = s_.width,
                                        .num_layers = s_.layers,
                                        .max_len = length_,
                                        .tie_weights = false}));
  }
  Batch batch(int64_t i) const override {
    Generator g = batch_generator(s_.seed, i);
    return recall_batch(batch_, length_, vocab_, g);
  }
  Tensor loss(Module& m, const Batch& b) const override {
    return cross_entropy(call(m, b.x).reshape({-1, vocab_}), b.y.reshape({-1}));
  }
  const char* metric_name() const override { return "accuracy"; }
  Score evaluate(Module& m, const Device& d) const override {
    no_grad guard;
    Generator g = batch_generator(s_.seed, 0, true);
    const Batch b = recall_batch(256, length_, vocab_, g);
    const Tensor logits = call(m, b.x.to(d)).to(kCPU);
    return {cross_entropy(logits.reshape({-1, vocab_}), b.y.reshape({-1})).item(),
            accuracy(logits.select(1, -1), b.y.select(1, -1))};
  }

 private:
  TaskSettings s_;
  int64_t batch_, length_, vocab_;
};

class ImageTask : public Task {
 public:
  explicit ImageTask(const TaskSettings& s) : s_(s), batch_(s.batch) {
    if (s.data.empty()) {
      Generator g = batch_generator(s.seed, 0, true);
      test_ = glyph_batch(300, g);
      return;
    }
    namespace fs = std::filesystem;
    auto there = [&](const char* name) {
      return fs::exists(s.data + "/" + name + ".gz") || fs::exists(s.data + "/" + name);
    };
    // what is missing is named by the files that everyone has
    if (there("train-images-idx3-ubyte") || !there("sprite900-images-idx3-ubyte")) {
      const FashionMNIST train({.root = s.data, .split = "train"}),
          test({.root = s.data, .split = "t10k"});
      train_ = {train.images(), train.labels()};
      test_ = {test.images(), test.labels()};
    } else {  // the 900 real pictures: every third one is for testing
      const FashionMNIST all({.root = s.data, .split = "sprite900"});
      const Tensor index = arange(all.size());
      const Tensor held = eq(remainder(index, full_like(index, 3)), zeros_like(index));
      const Tensor a = masked_select(index, !held), b = masked_select(index, held);
      train_ = {index_select(all.images(), 0, a), index_select(all.labels(), 0, a)};
      test_ = {index_select(all.images(), 0, b), index_select(all.labels(), 0, b)};
    }
  }
  Box<Module> make_model() const override {
    return Box<Module>(new ConvNet({.width = s_.width, .num_blocks = s_.layers}));
  }
  Batch batch(int64_t i) const override {
    if (!train_.x.defined()) {
      Generator g = batch_generator(s_.seed, i);
      return glyph_batch(batch_, g);
    }
    // epochs shuffled by the generator; the last, partial batch of an epoch is left out
    const int64_t n = train_.x.size(0), per_epoch = std::max<int64_t>(1, n / batch_),
                  epoch = i / per_epoch, at = i % per_epoch * batch_;
    Generator g = batch_generator(s_.seed, epoch);
    const Tensor order = randperm(n, &g).narrow(0, at, std::min(batch_, n - at));
    return {index_select(train_.x, 0, order), index_select(train_.y, 0, order)};
  }
  Tensor loss(Module& m, const Batch& b) const override { return cross_entropy(call(m, b.x), b.y); }
  const char* metric_name() const override { return "accuracy"; }
  Score evaluate(Module& m, const Device& d) const override {
    no_grad guard;
    double total = 0, right = 0;
    const int64_t n = test_.x.size(0);
    for (int64_t at = 0; at < n; at += 100) {
      const int64_t k = std::min<int64_t>(100, n - at);
      const Tensor logits = call(m, test_.x.narrow(0, at, k).to(d)).to(kCPU),
                   y = test_.y.narrow(0, at, k);
      total += cross_entropy(logits, y, {}, "sum").item();
      right += accuracy(logits, y) * static_cast<double>(k);
    }
    return {total / static_cast<double>(n), right / static_cast<double>(n)};
  }

 private:
  static Tensor full_like(const Tensor& x, double v) { return full(x.sizes(), v, x.options()); }
  TaskSettings s_;
  int64_t batch_;
  Batch train_, test_;
};

}  // namespace

namespace {
// OptionError for a model whose blocks alone, with gradients and two moments, would not fit into
// this machine.
void check_memory(const TaskSettings& s) {
  const double width = static_cast<double>(s.width),
               parameters = 8 * width * width * static_cast<double>(s.layers),
               bytes = 16 * parameters,
               memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                        static_cast<double>(sysconf(_SC_PAGESIZE));
  if (memory > 0 && bytes > memory)
    fail<OptionError>({"train: --layers ", s.layers, " of --width ", s.width, " need ",
                       static_cast<int64_t>(bytes * 1e-9), " GB at least, this machine has ",
                       static_cast<int64_t>(memory * 1e-9)});
}

// `given` with the task's own sizes where it has zeros; OptionError on a negative one.
TaskSettings with_defaults(TaskSettings given, const TaskDefaults& d) {
  auto fill = [](const char* name, int64_t& value, int64_t otherwise) {
    if (value < 0)
      fail<OptionError>({"train: --", name, " is ", value, ", expected a positive number"});
    if (value == 0) value = otherwise;
  };
  fill("batch", given.batch, d.batch);
  fill("length", given.length, d.length);
  fill("width", given.width, d.width);
  fill("layers", given.layers, d.layers);
  fill("vocab", given.vocab, d.vocab);
  check_memory(given);
  return given;
}
}  // namespace

Box<Task> make_task(const TaskSettings& given) {
  std::string names;
  for (const TaskDefaults& d : kTaskDefaults) {
    names += (names.empty() ? "" : ", ") + std::string(d.task);
    if (given.task != d.task) continue;
    const TaskSettings s = with_defaults(given, d);
    if (s.task == "text") return Box<Task>(new TextTask(s));
    if (s.task == "recall") return Box<Task>(new RecallTask(s));
    if (s.task == "images") return Box<Task>(new ImageTask(s));
    return make_segment_task(s);
  }
  fail<OptionError>({"train: no task \"", given.task, "\"; tasks: ", names});
}

}  // namespace dropin::cli
