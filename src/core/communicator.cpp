#include "dropin/core/communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "dropin/core/error.h"

namespace dropin {
namespace {

/// Where the ranks of a group meet: each lays down a pointer, all read, all leave.
struct Meeting {
  explicit Meeting(int64_t n) : ranks(n), given(static_cast<std::size_t>(n)) {}
  const int64_t ranks;
  std::vector<const void*> given;
  std::mutex lock;
  std::condition_variable arrived;
  int64_t count = 0, round = 0;
  bool broken = false;

  void wait() {
    std::unique_lock l(lock);
    const int64_t mine = round;
    if (++count == ranks) {
      count = 0;
      ++round;
      arrived.notify_all();
    } else {
      arrived.wait(l, [&] { return round != mine || broken; });
    }
    if (round == mine) fail({"Communicator: another rank ended early"});
  }
  void leave_broken() {
    std::lock_guard l(lock);
    broken = true;
    arrived.notify_all();
  }
};

/// What all ranks share: a meeting per group.
struct World {
  std::mutex lock;
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<Meeting>> meetings;
  bool broken = false;
  Meeting& meeting(int64_t first, int64_t count) {
    std::lock_guard l(lock);
    auto& m = meetings[{first, count}];
    if (!m) m = std::make_unique<Meeting>(count), m->broken = broken;
    return *m;
  }
  void leave_broken() {
    std::lock_guard l(lock);
    broken = true;
    for (auto& [key, m] : meetings) m->leave_broken();
  }
};

class InProcess : public Communicator {
 public:
  InProcess(World& w, int64_t first, int64_t count, int64_t rank)
      : world_(w), meeting_(w.meeting(first, count)), first_(first), rank_(rank) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return meeting_.ranks; }
  void all_gather(const void* in, int64_t bytes, void* out) override {
    exchange(in, [&](int64_t r, const void* theirs) {
      std::memcpy(static_cast<char*>(out) + r * bytes, theirs, static_cast<std::size_t>(bytes));
    });
    received_ += (size() - 1) * bytes;
  }
  void reduce_scatter_sum(const float* in, int64_t count, float* out) override {
    sum(in, count, out);
  }
  void reduce_scatter_sum(const double* in, int64_t count, double* out) override {
    sum(in, count, out);
  }
  Communicator& group(int64_t first, int64_t count) override {
    if (first < 0 || count < 1 || first + count > size() || rank_ < first || rank_ >= first + count)
      fail<OptionError>({"Communicator: group of ranks [", first, ", ", first + count,
                         ") asked by rank ", rank_, " of ", size()});
    auto& g = groups_[{first, count}];
    if (!g) g = std::make_unique<InProcess>(world_, first_ + first, count, rank_ - first);
    return *g;
  }
  int64_t bytes_received() const override {
    int64_t n = received_;
    for (const auto& [key, g] : groups_) n += g->bytes_received();
    return n;
  }

 private:
  template <class F>
  void exchange(const void* in, F&& take) {
    meeting_.given[static_cast<std::size_t>(rank_)] = in;
    meeting_.wait();
    for (int64_t r = 0; r < size(); ++r) take(r, meeting_.given[static_cast<std::size_t>(r)]);
    meeting_.wait();  // nobody's memory is given back before all have read it
  }
  template <class T>
  void sum(const T* in, int64_t count, T* out) {
    std::vector<T> total(static_cast<std::size_t>(count));
    exchange(in, [&](int64_t, const void* theirs) {  // rank by rank: the same sum on every run
      const T* p = static_cast<const T*>(theirs) + rank_ * count;
      for (int64_t i = 0; i < count; ++i) total[static_cast<std::size_t>(i)] += p[i];
    });
    std::copy(total.begin(), total.end(), out);
    received_ += (size() - 1) * count * static_cast<int64_t>(sizeof(T));
  }
  World& world_;
  Meeting& meeting_;
  int64_t first_, rank_, received_ = 0;
  std::map<std::pair<int64_t, int64_t>, std::unique_ptr<InProcess>> groups_;
};

}  // namespace

void in_process(int64_t ranks, const std::function<void(Communicator&)>& f) {
  if (ranks < 1) fail<OptionError>({"in_process: ", ranks, " ranks, expected at least 1"});
  World world;
  std::exception_ptr first;
  std::mutex lock;
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        InProcess c(world, 0, ranks, r);
        f(c);
      } catch (...) {
        {
          std::lock_guard l(lock);
          if (!first) first = std::current_exception();
        }
        world.leave_broken();
      }
    });
  for (std::thread& t : threads) t.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace dropin
