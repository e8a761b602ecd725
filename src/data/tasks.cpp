#include "dropin/data/tasks.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "dropin/serialize/safetensors.h"

namespace dropin {

// --- text

TextDataset::TextDataset(const std::string& path)
    : TextDataset(from_string(read_file(path), path)) {}
TextDataset TextDataset::from_string(std::string text, std::string label) {
  if (text.size() < 16)
    fail<FileError>({label, ": ", text.size(), " bytes; a text to train on needs at least 16"});
  TextDataset d;
  d.text_ = std::move(text);
  d.label_ = std::move(label);
  return d;
}

Batch TextDataset::windows(const std::vector<int64_t>& starts, int64_t length) const {
  const auto b = static_cast<int64_t>(starts.size());
  Batch r{empty({b, length}, kInt64), empty({b, length}, kInt64)};
  for (int64_t i = 0; i < b; ++i)
    for (int64_t t = 0; t < length; ++t) {
      const auto at = static_cast<std::size_t>(starts[static_cast<std::size_t>(i)] + t);
      r.x.data<int64_t>()[i * length + t] = static_cast<unsigned char>(text_[at]);
      r.y.data<int64_t>()[i * length + t] = static_cast<unsigned char>(text_[at + 1]);
    }
  return r;
}

Batch TextDataset::sample(int64_t batch, int64_t length, Generator& g) const {
  const int64_t room = train_size() - length;
  if (batch <= 0 || length <= 0 || room <= 0)
    fail<OptionError>({label_, ": windows of ", length, " bytes do not fit into ", train_size(),
                       " bytes of training text"});
  const Tensor starts = randint(0, room, {batch}, kInt64, &g);
  return windows({starts.data<int64_t>(), starts.data<int64_t>() + batch}, length);
}

Batch TextDataset::validation(int64_t batch, int64_t length) const {
  const int64_t begin = train_size(), room = size() - begin - length;
  if (room <= 0)
    fail<OptionError>({label_, ": windows of ", length, " bytes do not fit into ", size() - begin,
                       " bytes of validation text"});
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < batch; ++i) starts.push_back(begin + i * room / batch);
  return windows(starts, length);
}

namespace {
// A draw from the generator's stream, one word at a time.
struct Dice {
  Generator& g;
  int64_t below(int64_t n) { return randint(0, n, {1}, kInt64, &g).data<int64_t>()[0]; }
  double real(double a, double b) { return a + (b - a) * rand({1}, kFloat64, &g).item(); }
};
}  // namespace

std::string grammar_text(int64_t bytes, std::uint64_t seed) {
  static const char* const nouns[] = {"cat",    "river",  "teacher", "stone", "garden", "sailor",
                                      "letter", "window", "forest",  "king",  "lamp",   "road"};
  static const char* const adjectives[] = {"old",    "quiet",   "bright", "small",
                                           "hungry", "distant", "golden", "broken"};
  static const char* const verbs[] = {"sees",  "follows", "remembers", "leaves",
                                      "finds", "watches", "forgets",   "carries"};
  static const char* const places[] = {"near the sea",   "in the morning",  "under the bridge",
                                       "without a word", "before the rain", "at the gate"};
  Generator g(seed);
  Dice dice{g};
  auto pick = [&](const auto& words) { return std::string(words[dice.below(std::size(words))]); };
  auto thing = [&] {
    return "the " + (dice.below(2) ? pick(adjectives) + " " : std::string()) + pick(nouns);
  };
  std::string s;
  while (static_cast<int64_t>(s.size()) < bytes) {
    std::string line = thing() + " " + pick(verbs) + " " + thing();
    if (dice.below(2)) line += " " + pick(places);
    if (dice.below(3) == 0) line += ", and " + thing() + " " + pick(verbs) + " " + thing();
    line[0] = static_cast<char>(line[0] - 32);
    s += line + ".\n";
  }
  s.resize(static_cast<std::size_t>(bytes));
  return s;
}

// --- generated tasks

Batch recall_batch(int64_t batch, int64_t length, int64_t vocab, Generator& g) {
  if (length < 3 || length % 2 == 0)
    fail<OptionError>({"recall: length is ", length,
                       ", expected an odd number of at least 3 (pairs, then one key)"});
  if (vocab < 4) fail<OptionError>({"recall: vocab is ", vocab, ", expected at least 4"});
  const int64_t keys = vocab / 2, values = vocab - keys, pairs = length / 2;
  Batch r{empty({batch, length}, kInt64), full({batch, length}, -100, kInt64)};
  // which value each key stands for in this sequence, the keys shown, and which of the shown keys
  // is asked
  const Tensor map = randint(0, values, {batch, keys}, kInt64, &g),
               shown = randint(0, keys, {batch, pairs}, kInt64, &g),
               asked = randint(0, pairs, {batch}, kInt64, &g);
  for (int64_t b = 0; b < batch; ++b) {
    int64_t* x = r.x.data<int64_t>() + b * length;
    const int64_t* m = map.data<int64_t>() + b * keys;
    const int64_t* s = shown.data<int64_t>() + b * pairs;
    for (int64_t p = 0; p < pairs; ++p) {
      x[2 * p] = s[p];
      x[2 * p + 1] = keys + m[s[p]];
    }
    const int64_t key = s[asked.data<int64_t>()[b]];
    x[length - 1] = key;
    r.y.data<int64_t>()[(b + 1) * length - 1] = keys + m[key];
  }
  return r;
}

Batch glyph_batch(int64_t batch, Generator& g) {
  constexpr int64_t n = 28;
  Batch r{empty({batch, 1, n, n}), randint(0, 10, {batch}, kInt64, &g)};
  const Tensor shape = rand({batch, 4}, kFloat32, &g), noise = randn({batch, n * n}, kFloat32, &g);
  for (int64_t b = 0; b < batch; ++b) {
    const float* u = shape.data<float>() + 4 * b;
    const float cx = 10 + 8 * u[0], cy = 10 + 8 * u[1], radius = 5 + 4 * u[2],
                pen = 1.0f + 0.7f * u[3];
    const int64_t kind = r.y.data<int64_t>()[b];
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const float x = static_cast<float>(j) - cx, y = static_cast<float>(i) - cy,
                    ax = std::abs(x), ay = std::abs(y), d = std::sqrt(x * x + y * y);
        const bool box = ax <= radius && ay <= radius;
        bool ink = false;
        switch (kind) {
          case 0:
            ink = std::abs(d - radius) < pen;
            break;  // ring
          case 1:
            ink = d < radius;
            break;  // disc
          case 2:
            ink = box && (ax > radius - 1.5f * pen || ay > radius - 1.5f * pen);
            break;  // frame
          case 3:
            ink = box;
            break;  // box
          case 4:
            ink = box && std::abs(ax - ay) < 1.4f * pen;
            break;  // cross
          case 5:
            ink = box && (ax < pen || ay < pen);
            break;  // plus
          case 6:
            ink = box && std::abs(x + y) < 1.4f * pen;
            break;  // slash
          case 7:
            ink = ay <= radius && ax < (y + radius) / 2;
            break;  // triangle
          case 8:
            ink = box && std::fmod(y + 100, 4.f) < 2;
            break;  // bars
          default:
            ink = box && std::abs(y - radius / 2 * std::sin(x)) < 1.3f * pen;  // waves
        }
        r.x.data<float>()[(b * n + i) * n + j] =
            (ink ? 1.f : 0.f) + 0.25f * noise.data<float>()[b * n * n + i * n + j] - 0.3f;
      }
  }
  return r;
}

// --- background loading

struct BackgroundLoader::State {
  std::function<Batch(int64_t)> make;
  int64_t next = 0, ahead = 2;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Batch> ready;
  std::exception_ptr error;
  bool stop = false;
  std::thread worker;

  void work() {
    for (;;) {
      int64_t i;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || static_cast<int64_t>(ready.size()) < ahead; });
        if (stop) return;
        i = next++;
      }
      try {
        Batch b = make(i);
        std::lock_guard lock(mutex);
        ready.push_back(std::move(b));
      } catch (...) {
        std::lock_guard lock(mutex);
        error = std::current_exception();
        stop = true;
      }
      changed.notify_all();
    }
  }
};

BackgroundLoader::BackgroundLoader(std::function<Batch(int64_t)> make, int64_t first, int64_t ahead)
    : state_(new State) {
  state_->make = std::move(make);
  state_->next = first;
  state_->ahead = std::max<int64_t>(1, ahead);
  state_->worker = std::thread([s = state_] { s->work(); });
}
BackgroundLoader::~BackgroundLoader() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  state_->worker.join();
  delete state_;
}
Batch BackgroundLoader::next() {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return !state_->ready.empty() || state_->error; });
  if (state_->ready.empty()) std::rethrow_exception(state_->error);
  Batch b = std::move(state_->ready.front());
  state_->ready.pop_front();
  lock.unlock();
  state_->changed.notify_all();
  return b;
}

BoxScene box_scene(int64_t n, int64_t objects, int64_t classes, std::uint64_t seed) {
  DROPIN_CHECK(n >= 0 && objects >= 0 && classes >= 0, OptionError, "box_scene: n ", n,
               ", objects ", objects, " and classes ", classes, ", expected none below 0");
  std::uint64_t s = seed;
  auto uniform = [&] {  // a generator that peers in other languages can repeat
    s = s * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(s >> 40) / 16777216.0;
  };
  std::vector<double> cx, cy, size;
  for (int64_t i = 0; i < objects; ++i)
    cx.push_back(60 + 430 * uniform()), cy.push_back(60 + 430 * uniform()),
        size.push_back(40 + 120 * uniform());
  BoxScene r{empty({n, 4}), classes ? empty({classes, n}) : empty({n})};
  float* b = r.boxes.data<float>();
  for (int64_t i = 0; i < n; ++i, b += 4) {
    double x, y, w, h;
    if (objects) {
      const auto k = static_cast<std::size_t>(i % objects);
      x = cx[k] + size[k] * 0.4 * (uniform() - 0.5), y = cy[k] + size[k] * 0.4 * (uniform() - 0.5);
      w = size[k] * (0.7 + 0.6 * uniform()), h = size[k] * (0.7 + 0.6 * uniform());
    } else {
      x = 550 * uniform(), y = 550 * uniform(), w = 10 + 60 * uniform(), h = 10 + 60 * uniform();
    }
    b[0] = static_cast<float>(x - w / 2), b[1] = static_cast<float>(y - h / 2),
    b[2] = static_cast<float>(x + w / 2), b[3] = static_cast<float>(y + h / 2);
  }
  float* p = r.scores.data<float>();
  for (int64_t i = 0; i < r.scores.numel(); ++i) p[i] = static_cast<float>(0.06 + 0.94 * uniform());
  return r;
}

}  // namespace dropin
