#include <algorithm>
#include <list>
#include <mutex>

#include "kernels/fft/roots.h"
#include "kernels/fft_conv/plan.h"
#include "kernels/hd.h"

namespace dropin::kernels {
namespace {

// Time of a pass per element, in units of a radix-4 pass.
double pass_cost(int64_t r) {
  return r == 16 ? 2 : r == 8 ? 1.4 : r == 5 ? 1.6 : r == 3 ? 1.1 : r == 2 ? 0.8 : 1;
}

// 16 (or 4) in the pass that meets memory, then 8s and at most two 4s, 5s and 3s last: a radix-16
// pass spills registers, which pays only where it spares a sweep. Measured at n = 1024: 16 8 8 is 4
// % faster than 16 4 16, 10 % than 16 16 4; at 8192 16 8 8 8 is 12 % faster than 16 16 8 4. Empty
// when n has another factor.
std::vector<int64_t> cut(int64_t n) {
  int twos = 0;
  while (n % 2 == 0) n /= 2, ++twos;
  std::vector<int64_t> odd;
  for (int64_t p : {5, 3})
    while (n % p == 0) n /= p, odd.push_back(p);
  if (n != 1 || twos < 2) return {};
  const int first = twos >= 4 && twos != 5 ? 4 : 2;
  std::vector<int64_t> r{int64_t{1} << first};
  twos -= first;
  const int fours = twos == 1 ? 0 : twos % 3 == 2 ? 1 : twos % 3 == 1 ? 2 : 0;
  for (int left = twos - 2 * fours; left >= 3; left -= 3) r.push_back(8);
  r.insert(r.end(), static_cast<std::size_t>(fours), 4);
  if (twos == 1) r.push_back(2);
  r.insert(r.end(), odd.begin(), odd.end());
  return r.size() < 2 ? std::vector<int64_t>{} : r;
}

int64_t best_length(int64_t length) {
  int64_t best = 0;
  double least = 0;
  for (int64_t n = ceil_div(length, 4) * 4; best == 0 || n <= length + length / 2; n += 4) {
    const std::vector<int64_t> r = cut(n);
    if (r.empty()) continue;
    double cost = 0.7;
    for (int64_t radix : r) cost += pass_cost(radix);
    cost *= static_cast<double>(n);
    if (best == 0 || cost < least) best = n, least = cost;
    if (best && n > 2 * best) break;
  }
  return best;
}

int64_t position(const ConvPlan& p, std::size_t level, int64_t e) {
  int64_t at = 0;
  for (; level < p.levels.size() && p.levels[level].length > p.run; ++level) {
    at += e / p.levels[level].m * p.levels[level].row;
    e %= p.levels[level].m;
  }
  return at + e;
}

std::shared_ptr<const ConvPlan> make_plan(int64_t n) {
  auto p = std::make_shared<ConvPlan>();
  p->n = n;
  int64_t left = n;
  for (int64_t r : cut(n)) {
    ConvPlan::Level l;
    l.radix = r, l.length = left, l.m = left / r;
    left = l.m;
    p->levels.push_back(std::move(l));
  }
  int64_t row = 1;  // storage of what the next level divides
  for (std::size_t i = p->levels.size(); i-- > 0;) {
    ConvPlan::Level& l = p->levels[i];
    l.row = row;
    row = l.radix * row + (l.length >= 32 ? 1 : 0);
    if (l.length < 32) p->run = l.length;
  }
  p->storage = row;
  for (int64_t e = 0; e < p->levels[0].m; e += p->run) p->offsets.push_back(position(*p, 1, e));
  for (std::size_t i = 0; i + 1 < p->levels.size(); ++i) {
    ConvPlan::Level& l = p->levels[i];
    auto add = [&](int64_t k, int64_t of) {
      double c, s;
      root(k, of, c, s);
      l.twiddles.push_back(static_cast<float>(c));
      l.twiddles.push_back(static_cast<float>(s));
    };
    for (int64_t q = 0; q < l.m; ++q)
      if (i == 0)
        for (int64_t k = 0; k < l.radix; ++k)
          add(q * (k ? 4 * k - 1 : 4 * n - 1), 4 * n);  // k - 1/4
      else
        for (int64_t k = 1; k < l.radix; ++k) add(q * k, l.length);
  }
  return p;
}

}  // namespace

std::shared_ptr<const ConvPlan> conv_plan(int64_t length) {
  static std::mutex mutex;
  static auto* plans =
      new std::list<std::pair<int64_t, std::shared_ptr<const ConvPlan>>>;  // by length, newest
                                                                           // first
  {
    std::lock_guard lock(mutex);
    for (auto it = plans->begin(); it != plans->end(); ++it)
      if (it->first == length) {
        plans->splice(plans->begin(), *plans, it);
        return it->second;
      }
  }
  auto fresh = make_plan(best_length(length));
  std::lock_guard lock(mutex);
  plans->emplace_front(length, fresh);
  if (plans->size() > 24) plans->pop_back();
  return fresh;
}

}  // namespace dropin::kernels
