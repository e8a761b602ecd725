#include "ops/attention_positions.h"

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin::ops_detail {

namespace {

bool has_tables(const AttentionParams& p) {
  return p.relative.defined() || p.relative_factors.defined() || p.relative_values.defined();
}

void check_table(const char* who, const char* name, const Tensor& table, const Shape& want) {
  if (!table.defined()) return;
  need_floating(who, table);
  Shape real = want;
  real[0] = table.dim() > 0 ? table.size(0) : 0;
  if (!(table.sizes() == real) || real[0] < 1)
    fail<ShapeError>({who, ": ", name, " is ", table.sizes(), ", expected ", want,
                      " with any number of rows (-1) above 0"});
}

void check_grid(const char* who, const Tensor& q, const Tensor& k, const AttentionParams& p) {
  const Tensor &grid = p.grid_bias, &places = p.grid_places;
  if (!places.defined() || places.dtype() != kInt64 || places.dim() != 2 || places.size(1) != 2)
    fail<ShapeError>({who, ": grid_places must be [P, 2] int64, beside grid_bias"});
  if (q.size(2) != k.size(2) || places.size(0) > k.size(2))
    fail<ShapeError>({who, ": ", places.size(0), " places on a grid for ", q.size(2),
                      " queries and ", k.size(2), " keys, expected one length, at least as long"});
  need_floating(who, grid);
  if (grid.dim() != 3 || grid.size(0) != q.size(1) || grid.size(1) % 2 == 0 ||
      grid.size(2) % 2 == 0)
    fail<ShapeError>({who, ": grid_bias is ", grid.sizes(), ", expected [", q.size(1),
                      ", Gy, Gx], Gy and Gx odd"});
  if (grid.requires_grad()) fail<OptionError>({who, ": grid_bias is a constant, not learned"});
  for (int64_t axis = 0; axis < 2 && places.size(0) > 0; ++axis) {
    const Tensor along = places.select(1, axis);
    const int64_t apart = amax(along).item<int64_t>() - amin(along).item<int64_t>(),
                  room = (grid.size(1 + axis) - 1) / 2;
    if (apart > room)
      fail<ShapeError>({who, ": grid_places lie ", apart, " apart, expected at most ", room,
                        " because grid_bias is ", grid.sizes()});
  }
}

}  // namespace

bool has_positions(const AttentionParams& p) { return has_tables(p) || p.grid_bias.defined(); }

void check_positions(const char* who, const Tensor& q, const Tensor& k, const Tensor& v,
                     const AttentionParams& p) {
  if (!has_positions(p)) return;
  if (!p.step.empty())
    fail<OptionError>({who, ": learned distances and places on a grid do not go along strands"});
  check_table(who, "relative", p.relative, {-1, q.size(3)});
  check_table(who, "relative_factors", p.relative_factors, {-1});
  check_table(who, "relative_values", p.relative_values, {-1, v.size(3)});
  if (p.grid_bias.defined()) check_grid(who, q, k, p);
}

Tensor grid_costs(const AttentionParams& p, int64_t length) {
  const Tensor& grid = p.grid_bias;
  const int64_t n = p.grid_places.size(0), heads = grid.size(0);
  auto apart = [&](int64_t axis) {  // key minus query, counted from the table's first entry
    const Tensor along = p.grid_places.select(1, axis);
    return along.unsqueeze(0) - along.unsqueeze(1) + (grid.size(1 + axis) - 1) / 2;
  };
  const Tensor at = apart(0) * grid.size(2) + apart(1);
  const Tensor cost =
      index_select(grid.detach().reshape({heads, -1}), 1, at.reshape({-1}).to(grid.device()))
          .reshape({heads, n, n});
  return pad(cost, {0, length - n, 0, length - n});
}

RelativeRows::RelativeRows(const AttentionParams& p, int64_t offset, int64_t lq, int64_t lk,
                           const Device& d)
    : p_(p) {
  if (has_tables(p))
    place_ =
        (arange(lq).unsqueeze(1) - arange(lk).unsqueeze(0) + (offset + p.relative_middle)).to(d);
}

Tensor RelativeRows::rows_of(const Tensor& table) const {
  return clamp(place_, 0, table.size(0) - 1);
}
Tensor RelativeRows::pairs(const Tensor& table, int64_t batch, int64_t heads) const {
  return rows_of(table).expand({batch, heads, place_.size(0), place_.size(1)}).contiguous();
}

Tensor RelativeRows::scores(const Tensor& q, const Tensor& k, double scale) const {
  Tensor s = matmul(q, k.mT());
  if (p_.relative_factors.defined())
    s = s * index_select(p_.relative_factors, 0, rows_of(p_.relative_factors).reshape({-1}))
                .reshape(place_.sizes())
                .to(q.dtype());
  if (!p_.relative.defined()) return s;
  const Tensor at = pairs(p_.relative, q.size(0), q.size(1)), table = p_.relative.to(q.dtype());
  s = s + gather(matmul(q, table.mT()), -1, at);
  if (p_.relative_of_keys)
    s = s + gather(matmul(k * scale, table.mT()), -1, at.mT().contiguous()).mT();
  return s;
}

Tensor RelativeRows::with_values(const Tensor& z, const Tensor& probabilities) const {
  const Tensor& table = p_.relative_values;
  if (!table.defined()) return z;
  const Tensor& w = probabilities;
  const Tensor none = zeros({w.size(0), w.size(1), w.size(2), table.size(0)}, w.options());
  return z +
         matmul(scatter_add(none, -1, pairs(table, w.size(0), w.size(1)), w), table.to(w.dtype()));
}

}  // namespace dropin::ops_detail
