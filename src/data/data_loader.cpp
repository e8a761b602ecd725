#include "dropin/data/data_loader.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "kernels/hd.h"

namespace dropin {

namespace {

// The default generator of this thread while a batch is made; then as it was.
class GeneratorScope {
 public:
  explicit GeneratorScope(const Generator& g) : before_(default_generator()) {
    default_generator() = g;
  }
  ~GeneratorScope() { default_generator() = before_; }
  GeneratorScope(const GeneratorScope&) = delete;
  GeneratorScope& operator=(const GeneratorScope&) = delete;

 private:
  Generator before_;
};

}  // namespace

// One epoch. Batches have numbers; workers take the next number, and the caller takes them in
// order.
struct DataLoader::Epoch {
  /// A batch, or why there is none; neither behind the last one.
  struct Made {
    std::optional<Tensors> batch;
    std::exception_ptr error = nullptr;
  };
  const Dataset* dataset;
  IterableDataset* stream;
  const DataLoaderOptions& options;
  Generator noise;             // of batch 0; every batch has a stretch of its own
  std::vector<int64_t> order;  // of a map-style data set
  int64_t batches = -1;        // in all; -1: not known

  std::mutex mutex, reading;
  std::condition_variable changed;
  int64_t next_made = 0, next_given = 0;
  std::map<int64_t, Made> ready;
  bool stop = false, ended = false;  // ended: of the stream, under `reading`
  std::vector<std::thread> workers;

  Epoch(const Dataset* d, IterableDataset* s, const DataLoaderOptions& o)
      : dataset(d), stream(s), options(o) {}
  ~Epoch() {
    {
      std::lock_guard lock(mutex);
      stop = true;
    }
    changed.notify_all();
    for (std::thread& w : workers) w.join();
  }

  void start_workers() {
    for (int64_t i = 0; i < options.num_workers; ++i) workers.emplace_back([this] { work(); });
  }

  Tensors collate(const std::vector<Tensors>& examples) const {
    return options.collate_fn ? options.collate_fn(examples) : default_collate(examples);
  }

  Made make_indexed(int64_t number) {
    if (number >= batches) return {};
    const auto n = static_cast<int64_t>(order.size()), from = number * options.batch_size,
               end = std::min(n, from + options.batch_size);
    const std::vector<int64_t> indices(order.begin() + from, order.begin() + end);
    if (!options.collate_fn)
      if (std::optional<Tensors> whole = dataset->get_batch(indices)) return {std::move(whole)};
    std::vector<Tensors> examples;
    for (const int64_t i : indices) examples.push_back(dataset->get(i));
    return {collate(examples)};
  }

  // The next examples of the stream, which only one thread reads at a time.
  std::vector<Tensors> read() {
    std::vector<Tensors> examples;
    while (!ended && static_cast<int64_t>(examples.size()) < options.batch_size) {
      ended = true;  // unless an example comes, and no error
      std::optional<Tensors> e = stream->next();
      if (!e) break;
      ended = false;
      examples.push_back(std::move(*e));
    }
    if (options.drop_last && static_cast<int64_t>(examples.size()) < options.batch_size)
      examples.clear();
    return examples;
  }

  // Takes a number with take(), makes the batch.
  template <class Take>
  std::pair<int64_t, Made> make(Take&& take) {
    std::unique_lock read_lock(reading, std::defer_lock);
    if (stream) read_lock.lock();
    const int64_t number = take();
    if (number < 0) return {number, {}};
    Generator g = noise;
    g.set_offset(noise.offset() + (static_cast<std::uint64_t>(number) << 32));
    const GeneratorScope scope(g);
    try {
      if (!stream) return {number, make_indexed(number)};
      const std::vector<Tensors> examples = read();
      read_lock.unlock();
      return {number, examples.empty() ? Made() : Made{collate(examples)}};
    } catch (...) {
      return {number, {std::nullopt, std::current_exception()}};
    }
  }

  void work() {
    const int64_t ahead = options.num_workers * options.prefetch_factor;
    for (;;) {
      auto [number, made] = make([&]() -> int64_t {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stop || next_made - next_given < ahead; });
        return stop ? -1 : next_made++;
      });
      if (number < 0) return;
      const bool last = !made.batch;
      {
        std::lock_guard lock(mutex);
        stop = stop || last;
        ready.emplace(number, std::move(made));
      }
      changed.notify_all();
    }
  }

  Made next() {
    if (workers.empty()) return make([&] { return next_made++; }).second;
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return ready.count(next_given) > 0; });
    auto found = ready.find(next_given);
    Made made = std::move(found->second);
    ready.erase(found);
    ++next_given;
    lock.unlock();
    changed.notify_all();
    return made;
  }
};

namespace {

Generator seeded(const DataLoaderOptions& o) {
  if (o.generator) return *o.generator;
  Generator& g = default_generator();  // torch draws a base seed in the same way
  const std::uint64_t drawn = g.advance(1);
  return Generator(g.seed() * 0x9E3779B97F4A7C15u + drawn + 1);
}

void check_loader_options(const DataLoaderOptions& o) {
  DROPIN_CHECK(o.batch_size >= 1, OptionError, "DataLoader: batch_size is ", o.batch_size,
               ", expected at least 1");
  DROPIN_CHECK(o.num_workers >= 0 && o.num_workers <= 1024, OptionError,
               "DataLoader: num_workers is ", o.num_workers, ", expected 0 to 1024");
  DROPIN_CHECK(o.prefetch_factor >= 1 && o.prefetch_factor <= 1 << 20, OptionError,
               "DataLoader: prefetch_factor is ", o.prefetch_factor, ", expected 1 to ", 1 << 20);
}

}  // namespace

DataLoader::DataLoader(const Dataset& dataset, const DataLoaderOptions& o)
    : dataset_(&dataset), options_(o) {
  check_loader_options(o);
  generator_ = seeded(o);
}

DataLoader::DataLoader(IterableDataset& dataset, const DataLoaderOptions& o)
    : stream_(&dataset), options_(o) {
  check_loader_options(o);
  DROPIN_CHECK(!o.shuffle, OptionError,
               "DataLoader: shuffle is true with an IterableDataset, expected false: its examples "
               "come in its own order");
  generator_ = seeded(o);
}

DataLoader::~DataLoader() { delete running_; }

int64_t DataLoader::size() const {
  DROPIN_CHECK(dataset_, StateError,
               "DataLoader: size() of an IterableDataset, expected a Dataset, which knows its own");
  const int64_t n = dataset_->size();
  return options_.drop_last ? n / options_.batch_size : ceil_div(n, options_.batch_size);
}

// Everything of epoch e follows from the generator and e: another stretch of the stream.
void DataLoader::start_epoch() {
  delete std::exchange(running_, nullptr);
  auto fresh = Box<Epoch>(new Epoch(dataset_, stream_, options_));
  Generator g(generator_.seed() + 0x9E3779B97F4A7C15u * static_cast<std::uint64_t>(epoch_));
  g.set_offset(generator_.offset());
  if (dataset_) {
    const int64_t n = dataset_->size();
    fresh->batches = size();
    Generator shuffling = g;
    fresh->order = (options_.shuffle ? randperm(n, &shuffling) : arange(n)).to_vector<int64_t>();
    fresh->next_made = fresh->next_given = given_;
  } else {
    stream_->start(epoch_);
    for (int64_t i = 0; i < given_; ++i) fresh->make([&] { return fresh->next_made++; });
    fresh->next_given = given_;
  }
  constexpr std::uint64_t kFarAway = std::uint64_t{1} << 62;
  fresh->noise = g;
  fresh->noise.set_offset(g.offset() + kFarAway);
  fresh->start_workers();
  running_ = fresh.release();
}

DataLoader::Iterator DataLoader::begin() {
  if (running_) {  // left before its end
    ++epoch_;
    given_ = 0;
  }
  start_epoch();
  return Iterator(this);
}

bool DataLoader::next(Tensors& batch) {
  DROPIN_CHECK(running_, StateError,
               "DataLoader: the epoch is over, expected an iterator of the one that runs");
  Epoch::Made made = running_->next();
  if (made.batch) {
    batch = std::move(*made.batch);
    ++given_;
    return true;
  }
  delete std::exchange(running_, nullptr);
  ++epoch_;
  given_ = 0;
  if (made.error) std::rethrow_exception(made.error);
  return false;
}

DataLoader::Iterator& DataLoader::Iterator::operator++() {
  if (!loader_->next(batch_)) loader_ = nullptr;
  return *this;
}

Json DataLoader::state_dict() const {
  Json j = Json::object();
  j.set("epoch", epoch_);
  j.set("batch", given_);
  j.set("seed", std::to_string(generator_.seed()));  // 64 bits do not fit JSON's numbers
  j.set("offset", std::to_string(generator_.offset()));
  return j;
}

void DataLoader::load_state_dict(const Json& state) {
  int64_t epoch = 0, batch = 0;
  Generator g;
  try {
    auto field = [&](const char* key) -> const Json& {
      const Json* v = state.find(key);
      if (!v) fail<OptionError>({"no \"", key, "\""});
      return *v;
    };
    epoch = field("epoch").as_int();
    batch = field("batch").as_int();
    g.manual_seed(std::stoull(field("seed").as_string()));
    g.set_offset(std::stoull(field("offset").as_string()));
    if (epoch < 0 || batch < 0) fail<OptionError>({"a number below 0"});
  } catch (const std::exception& e) {
    fail<OptionError>(
        {"DataLoader: load_state_dict(): ", e.what(), ", expected what state_dict() gave"});
  }
  delete std::exchange(running_, nullptr);
  epoch_ = epoch;
  given_ = batch;
  generator_ = g;
}

}  // namespace dropin
