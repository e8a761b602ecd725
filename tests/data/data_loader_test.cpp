// DataLoader: order, collation, workers, errors, state.
#include "dropin/data/data_loader.h"

#include <atomic>
#include <thread>

#include "dropin/ops/ops.h"
#include "kernels/hd.h"
#include "support.h"

namespace dropin::testing {
namespace {

// i, and a random number.
struct Noisy : Dataset {
  explicit Noisy(int64_t n) : n(n) {}
  int64_t size() const override { return n; }
  Tensors get(int64_t i) const override {
    if (i == bad) fail<FileError>({"example ", i, " is torn"});
    if (i % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    return {scalar(i), rand({2})};
  }
  int64_t n, bad = -1;
};

// Counts to n.
struct Counter : IterableDataset {
  explicit Counter(int64_t n) : n(n) {}
  void start(int64_t epoch) override {
    at = 100 * epoch;
    end = at + n;
  }
  std::optional<Tensors> next() override {
    EXPECT_FALSE(over) << "asked again behind the end";
    if (at == end) {
      over = once;
      return std::nullopt;
    }
    if (at == bad) fail<FileError>({"line ", at, " is torn"});
    return Tensors{scalar(at++)};
  }
  int64_t n, at = 0, end = 0, bad = -1;
  bool over = false, once = false;
};

std::vector<double> numbers(const std::vector<Tensors>& batches, std::size_t which = 0) {
  std::vector<double> r;
  for (const Tensors& b : batches)
    for (const double v : b[which].to_vector()) r.push_back(v);
  return r;
}
std::vector<Tensors> all_of(DataLoader& loader) {
  std::vector<Tensors> r;
  for (const Tensors& b : loader) r.push_back(b);
  return r;
}

TEST(DataLoader, StacksExamplesInOrder) {
  const Noisy data(7);
  DataLoader loader(data, {.batch_size = 3});
  EXPECT_EQ(loader.size(), 3);
  const std::vector<Tensors> b = all_of(loader);
  ASSERT_EQ(b.size(), 3u);
  EXPECT_EQ(b[0][0].sizes(), Shape({3}));
  EXPECT_EQ(b[2][1].sizes(), Shape({1, 2}));
  EXPECT_EQ(numbers(b), (std::vector<double>{0, 1, 2, 3, 4, 5, 6}));
  DataLoader whole(data, {.batch_size = 3, .drop_last = true, .num_workers = 2});
  EXPECT_EQ(whole.size(), 2);
  EXPECT_EQ(numbers(all_of(whole)), (std::vector<double>{0, 1, 2, 3, 4, 5}));
  const Noisy none(0);
  DataLoader empty(none, {.num_workers = 2});
  EXPECT_TRUE(all_of(empty).empty());
}

TEST(DataLoader, IsTheSameWhateverTheWorkers) {
  const Noisy data(23);
  std::vector<double> order, noise, second;
  for (const int64_t workers : {0, 1, 2, 5})
    for (const int64_t prefetch : {1, 3}) {
      DataLoader loader(data, {.batch_size = 4,
                               .shuffle = true,
                               .num_workers = workers,
                               .prefetch_factor = prefetch,
                               .generator = Generator(11)});
      const Generator before = default_generator();
      const std::vector<Tensors> one = all_of(loader), two = all_of(loader);
      EXPECT_EQ(default_generator().offset(), before.offset());
      if (order.empty()) {
        order = numbers(one);
        noise = numbers(one, 1);
        second = numbers(two);
      }
      EXPECT_EQ(numbers(one), order);
      EXPECT_EQ(numbers(one, 1), noise);
      EXPECT_EQ(numbers(two), second);
    }
  EXPECT_NE(order, second);
  std::sort(order.begin(), order.end());
  for (std::size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], static_cast<double>(i));
  std::sort(noise.begin(), noise.end());  // no two draws are alike
  EXPECT_EQ(std::unique(noise.begin(), noise.end()), noise.end());
}

TEST(DataLoader, IsSeededByTheDefaultGenerator) {
  const Noisy data(20);
  auto order = [&](std::uint64_t seed) {
    manual_seed(seed);
    DataLoader a(data, {.shuffle = true}), b(data, {.shuffle = true});
    return std::pair(numbers(all_of(a)), numbers(all_of(b)));
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1).first, order(2).first);
  EXPECT_NE(order(1).first, order(1).second);
}

TEST(DataLoader, ErrorsComeWhereTheirBatchWould) {
  Noisy data(20);
  data.bad = 13;
  for (const int64_t workers : {0, 1, 3}) {
    DataLoader loader(data, {.batch_size = 4, .num_workers = workers});
    for (int round = 0; round < 2; ++round) {
      int64_t seen = 0;
      EXPECT_ERROR(for (const Tensors& b
                        : loader) seen += b[0].numel(),
                   FileError, "example 13 is torn");
      EXPECT_EQ(seen, 12);
    }
  }
  const Noisy good(4);
  DataLoader odd(good, {.num_workers = 2, .collate_fn = [](const auto&) -> Tensors {
                          fail<ShapeError>({"no shape fits"});
                        }});
  EXPECT_ERROR(all_of(odd), ShapeError, "no shape fits");
}

TEST(DataLoader, MayBeLeftEarlyAndBegunAnew) {
  const Noisy data(40);
  for (const int64_t workers : {0, 2}) {
    DataLoader loader(data, {.batch_size = 2, .num_workers = workers});
    for (int round = 0; round < 3; ++round) {
      int64_t count = 0;
      for (const Tensors& b : loader) {
        EXPECT_EQ(b[0][0].item(), static_cast<double>(2 * count));
        if (++count == 5) break;
      }
    }
    EXPECT_EQ(all_of(loader).size(), 20u);
  }
}

TEST(DataLoader, GoesOnFromItsState) {
  const Noisy data(30);
  const DataLoaderOptions o{.batch_size = 4, .shuffle = true, .generator = Generator(5)};
  DataLoader whole(data, o);
  all_of(whole);
  const std::vector<Tensors> want = all_of(whole), third = all_of(whole);
  for (const int64_t workers : {0, 2}) {
    DataLoader first(data, o);
    all_of(first);
    Json state;
    int count = 0;
    for (const Tensors& b : first) {
      EXPECT_EQ(max_difference(b[0], want[static_cast<std::size_t>(count)][0]), 0);
      if (++count == 3) {
        state = Json::parse(first.state_dict().dump());
        break;
      }
    }
    DataLoaderOptions other = o;
    other.num_workers = workers;
    other.generator = Generator(99);
    DataLoader next(data, other);
    next.load_state_dict(state);
    const std::vector<Tensors> rest = all_of(next);
    EXPECT_EQ(numbers(rest), numbers({want.begin() + 3, want.end()}));
    EXPECT_EQ(numbers(rest, 1), numbers({want.begin() + 3, want.end()}, 1));
    EXPECT_EQ(numbers(all_of(next)), numbers(third));
  }
  DataLoader loader(data, o);
  EXPECT_ERROR(loader.load_state_dict(Json::parse(R"({"epoch": 1})")), OptionError, "batch");
}

TEST(DataLoader, ReadsStreamsInOrder) {
  for (const int64_t workers : {0, 1, 3}) {
    Counter data(10);
    data.once = true;
    DataLoader loader(data, {.batch_size = 4, .num_workers = workers});
    EXPECT_EQ(numbers(all_of(loader)), (std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
    Counter again(9);
    DataLoader some(again, {.batch_size = 4, .drop_last = true, .num_workers = workers});
    EXPECT_EQ(all_of(some).size(), 2u);
    EXPECT_EQ(all_of(some)[0][0][0].item(), 100);
    EXPECT_ERROR(some.size(), StateError, "IterableDataset");
    again.bad = 205;
    EXPECT_ERROR(all_of(some), FileError, "line 205");
    const Json state = Json::parse(R"({"epoch": 4, "batch": 1, "seed": "1", "offset": "0"})");
    some.load_state_dict(state);
    EXPECT_EQ(numbers(all_of(some)), (std::vector<double>{404, 405, 406, 407}));
  }
}

TEST(DataLoader, CollatesAsItIsTold) {
  const Noisy data(5);
  DataLoader loader(data, {.batch_size = 5, .collate_fn = [](const std::vector<Tensors>& all) {
                             return Tensors{scalar(static_cast<int64_t>(all.size()))};
                           }});
  EXPECT_EQ(all_of(loader)[0][0].item(), 5);
  EXPECT_ERROR(default_collate({{zeros({2})}, {zeros({3})}}), ShapeError, "example 1");
  EXPECT_ERROR(default_collate({{zeros({2})}, {}}), ShapeError, "has 0 tensors");
}

TEST(DataLoader, RefusesInWords) {
  const Noisy data(3);
  Counter stream(3);
  EXPECT_ERROR(DataLoader(data, {.batch_size = 0}), OptionError, "batch_size is 0");
  EXPECT_ERROR(DataLoader(data, {.num_workers = -1}), OptionError, "num_workers is -1");
  EXPECT_ERROR(DataLoader(data, {.prefetch_factor = 0}), OptionError, "prefetch_factor is 0");
  EXPECT_ERROR(DataLoader(stream, {.shuffle = true}), OptionError, "shuffle");
}

TEST(TensorDataset, RowsSubsetsAndSplits) {
  const TensorDataset data({arange(10), random({10, 3})});
  EXPECT_EQ(data.size(), 10);
  EXPECT_EQ(max_difference(data.get(4)[1], data.tensors()[1][4]), 0);
  EXPECT_ERROR(data.get(10), IndexError, "example 10");
  EXPECT_ERROR(TensorDataset({arange(3), arange(4)}), ShapeError, "[4]");
  const Subset some(data, {7, 2, 2});
  DataLoader loader(some, {.batch_size = 2, .num_workers = 1});
  EXPECT_EQ(numbers(all_of(loader)), (std::vector<double>{7, 2, 2}));
  EXPECT_ERROR(Subset(data, {10}), IndexError, "10");
  Generator g(3);
  const std::vector<Subset> parts = random_split(data, {6, 0, 4}, &g);
  std::vector<int64_t> seen;
  for (const Subset& p : parts) seen.insert(seen.end(), p.indices().begin(), p.indices().end());
  EXPECT_FALSE(std::is_sorted(seen.begin(), seen.end()));
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, arange(10).to_vector<int64_t>());
  EXPECT_EQ(parts[2].size(), 4);
  EXPECT_ERROR(random_split(data, {6, 5}), OptionError, "add up to 11");
}

}  // namespace
}  // namespace dropin::testing
