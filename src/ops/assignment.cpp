#include "dropin/ops/assignment.h"

#include <cmath>

#include "kernels/hd.h"
#include "ops/common.h"

namespace dropin {

namespace {

// Shortest augmenting paths with potentials (Jonker & Volgenant 1987): task t of `tasks` gets one
// of `workers` >= tasks. cost(t, w). Returns each task's worker.
template <class Cost>
std::vector<int64_t> assigned_workers(int64_t tasks, int64_t workers, Cost cost) {
  const double none = kernels::kInf<double>;
  std::vector<double> task_price(at(tasks + 1)), worker_price(at(workers + 1));
  std::vector<int64_t> task_of(at(workers + 1)), before(at(workers + 1));  // from 1; 0: free
  for (int64_t t = 1; t <= tasks; ++t) {
    std::vector<double> least(at(workers + 1), none);
    std::vector<bool> done(at(workers + 1));
    int64_t w = 0;
    task_of[0] = t;
    do {
      done[at(w)] = true;
      const int64_t now = task_of[at(w)];
      double step = none;
      int64_t next = 0;
      for (int64_t v = 1; v <= workers; ++v) {
        if (done[at(v)]) continue;
        const double slack = cost(now - 1, v - 1) - task_price[at(now)] - worker_price[at(v)];
        if (slack < least[at(v)]) least[at(v)] = slack, before[at(v)] = w;
        if (least[at(v)] < step) step = least[at(v)], next = v;
      }
      for (int64_t v = 0; v <= workers; ++v)
        if (done[at(v)])
          task_price[at(task_of[at(v)])] += step, worker_price[at(v)] -= step;
        else
          least[at(v)] -= step;
      w = next;
    } while (task_of[at(w)] != 0);
    for (; w != 0; w = before[at(w)]) task_of[at(w)] = task_of[at(before[at(w)])];
  }
  std::vector<int64_t> worker(at(tasks));
  for (int64_t v = 1; v <= workers; ++v)
    if (task_of[at(v)] > 0) worker[at(task_of[at(v)] - 1)] = v - 1;
  return worker;
}

}  // namespace

std::vector<int64_t> detail::assigned_rows(const double* cost, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows * columns; ++i)
    if (!std::isfinite(cost[i]))
      fail<OptionError>({"hungarian: cost at [", i / columns, ", ", i % columns, "] is ", cost[i],
                         ", expected finite numbers"});
  if (columns <= rows)
    return assigned_workers(columns, rows,
                            [&](int64_t t, int64_t w) { return cost[w * columns + t]; });
  const std::vector<int64_t> column =
      assigned_workers(rows, columns, [&](int64_t t, int64_t w) { return cost[t * columns + w]; });
  std::vector<int64_t> r(at(columns), -1);
  for (int64_t i = 0; i < rows; ++i) r[at(column[at(i)])] = i;
  return r;
}

Tensor hungarian(const Tensor& cost) {
  ops_detail::need_floating("hungarian", cost);
  if (cost.dim() != 2) fail<ShapeError>({"hungarian: cost is ", cost.sizes(), ", expected [R, C]"});
  const std::vector<double> c = cost.to_vector();
  return tensor(detail::assigned_rows(c.data(), cost.size(0), cost.size(1)), {cost.size(1)})
      .to(cost.device());
}

}  // namespace dropin
