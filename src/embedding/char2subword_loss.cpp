
#include "dropin/embedding/char2subword.h"
#include "kernels/hd.h"

namespace dropin {

namespace {
using kernels::kInf;

// Cosines of the last dimension, the product of lengths at least 1e-8.
Tensor cosine(const Tensor& a, const Tensor& b) {
  const Tensor lengths = sum(square(a), {-1}) * sum(square(b), {-1});
  return sum(a * b, {-1}) / sqrt(clamp(lengths, 1e-16, kInf<double>));
}

// The k rows of table nearest to each target's, without itself: [n, k].
Tensor nearest_rows(const Tensor& table, const Tensor& target, int64_t k) {
  const Tensor all = table.to(kFloat64);
  Tensors rows;
  for (int64_t i = 0; i < target.size(0); ++i) {
    const int64_t own = target[i].item<int64_t>();
    Tensor distance = sum(square(all - all[own]), {-1});
    distance[own] = kInf<double>;
    rows.push_back(argsort(distance, -1).narrow(0, 0, k));
  }
  return stack(rows, 0);
}

void check_loss(const Tensor& e, const Tensor& table, const Tensor& target,
                const Char2SubwordLossOptions& o) {
  const char* who = "char2subword_loss";
  DROPIN_CHECK(o.cos_weight >= 0 && o.ce_weight >= 0 && o.l2_weight >= 0 && o.neighbor_weight >= 0,
               OptionError, who, ": weights are ", o.cos_weight, ", ", o.ce_weight, ", ",
               o.l2_weight, ", ", o.neighbor_weight, ", expected none below 0");
  DROPIN_CHECK(o.cos_weight + o.ce_weight + o.l2_weight + o.neighbor_weight > 0, OptionError, who,
               ": all weights are 0, expected one above");
  DROPIN_CHECK(is_floating(e.dtype()) && is_floating(table.dtype()), DTypeError, who,
               ": embedding is ", e.dtype(), " and table ", table.dtype(),
               ", expected floating-point tensors");
  DROPIN_CHECK(e.dim() == 2 && e.size(0) > 0, ShapeError, who, ": embedding is ", e.sizes(),
               ", expected [n, o] with n of at least 1");
  DROPIN_CHECK(table.dim() == 2 && table.size(1) == e.size(1), ShapeError, who, ": table is ",
               table.sizes(), ", expected [V, ", e.size(1), "]");
  DROPIN_CHECK(target.dtype() == kInt64, DTypeError, who, ": target is ", target.dtype(),
               ", expected int64");
  DROPIN_CHECK(target.dim() == 1 && target.size(0) == e.size(0), ShapeError, who, ": target is ",
               target.sizes(), ", expected [", e.size(0), "]");
  for (const int64_t k : target.to_vector<int64_t>())
    DROPIN_CHECK(k >= 0 && k < table.size(0), IndexError, who, ": target holds ", k,
                 ", expected 0 to ", table.size(0) - 1);
  DROPIN_CHECK(o.neighbor_weight == 0 || (o.num_neighbors >= 1 && o.num_neighbors < table.size(0)),
               OptionError, who, ": num_neighbors is ", o.num_neighbors,
               ", expected 1 to less than the ", table.size(0), " rows of the table");
}
}  // namespace

Tensor char2subword_loss(const Tensor& e, const Tensor& table_in, const Tensor& target,
                         const Char2SubwordLossOptions& o) {
  check_loss(e, table_in, target, o);
  const Tensor table = table_in.detach().to(e.dtype()), own = index_select(table, 0, target);
  Tensor total;
  auto add = [&](double weight, const Tensor& term) {
    const Tensor t = term * weight;
    total = total.defined() ? total + t : t;
  };
  if (o.cos_weight > 0) add(o.cos_weight, mean(1.0 - cosine(e, own)));
  if (o.ce_weight > 0) add(o.ce_weight, cross_entropy(matmul(e, table.mT()), target));
  if (o.l2_weight > 0) add(o.l2_weight, mean(sum(square(e - own), {-1})));
  if (o.neighbor_weight > 0) {
    const int64_t n = e.size(0), k = o.num_neighbors;
    const Tensor near = nearest_rows(table, target, k).to(e.device());
    const Tensor rows = index_select(table, 0, near.reshape({-1})).reshape({n, k, e.size(1)});
    add(o.neighbor_weight,
        mean(square(cosine(own.unsqueeze(1), rows) - cosine(e.unsqueeze(1), rows))));
  }
  return total;
}

}  // namespace dropin
