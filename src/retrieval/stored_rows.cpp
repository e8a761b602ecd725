#include "retrieval/stored_rows.h"

#include <cmath>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"

namespace dropin::retrieval {

namespace {

constexpr double kLeastLength = 1e-12;
constexpr int64_t kLengthGrain = 256;  // rows

std::uint32_t version_of(const Tensor& t) { return t.defined() ? t.version() : 0; }
const void* place_of(const Tensor& t) { return t.defined() ? t.data_ptr() : nullptr; }

}  // namespace

Codes encode_rows(const Tensor& rows) {
  const Tensor v = rows.to(kFloat32);
  if (v.numel() == 0) return {v.to(kInt8), zeros({v.size(0)})};
  const Tensor step = amax(abs(v), {1}, true) * (1.0 / 127);
  return {round(v / where(step == 0.0, 1.0, step)).to(kInt8), step.reshape({v.size(0)})};
}

StoredRows::StoredRows(const Tensor& vectors, const Tensor& ids, const StoredAs& as)
    : vectors_(vectors.detach()),
      ids_as_given_(ids),
      version_(version_of(vectors)),
      ids_version_(version_of(ids)),
      l2_(as.metric == "l2") {
  no_grad guard;
  rows_ = vectors_.to(kCPU).contiguous();
  if (ids.defined()) ids_ = ids.to(kCPU).contiguous();
  // of float64 modules the rounded values, in float64
  const bool wide = rows_.dtype() == kFloat64;
  if (as.storage == "f16" || as.storage == "bf16") {
    rows_ = rows_.to(as.storage == "f16" ? kFloat16 : kBFloat16);
    if (wide) rows_ = rows_.to(kFloat64);
  } else if (as.storage == "i8") {
    const Codes c = encode_rows(rows_);
    rows_ = wide ? c.codes.to(kFloat64) * c.steps.to(kFloat64).unsqueeze(1) : c.codes;
    if (!wide) steps_ = c.steps;
  }
  if (as.metric == "cosine") measure();
  if (as.backend != "exact" && size() > 0) approximate_by(as.backend, l2_);
}

bool StoredRows::is_of(const Tensor& vectors, const Tensor& ids) const {
  return vectors_.data_ptr() == vectors.data_ptr() && version_ == vectors.version() &&
         vectors_.sizes() == vectors.sizes() && place_of(ids_as_given_) == place_of(ids) &&
         ids_version_ == version_of(ids);
}

void StoredRows::decode(int64_t row, double* values) const {
  const Tensor r = rows_.select(0, row);
  const double step = steps_.defined() ? steps_.data<float>()[row] : 1;
  auto copy = [&](const auto* p) {
    for (int64_t e = 0; e < width(); ++e) values[e] = static_cast<double>(p[e]) * step;
  };
  if (dtype() == kFloat64) return copy(r.data<double>());
  if (dtype() == kFloat16) return copy(r.data<float16>());
  if (dtype() == kBFloat16) return copy(r.data<bfloat16>());
  if (dtype() == kInt8) return copy(r.data<std::int8_t>());
  copy(r.data<float>());
}

std::vector<double> StoredRows::unit(int64_t row) const {
  std::vector<double> v(at(width()));
  decode(row, v.data());
  double squares = 0;
  for (const double x : v) squares += x * x;
  const double length = std::max(std::sqrt(squares), kLeastLength);
  for (double& x : v) x /= length;
  return v;
}

void StoredRows::measure() {
  units_ = empty({size()}, kFloat64);
  double* units = units_.data<double>();
  parallel_for(size(), kLengthGrain, [&](int64_t begin, int64_t end) {
    std::vector<double> v(at(width()));
    for (int64_t i = begin; i < end; ++i) {
      decode(i, v.data());
      double squares = 0;
      for (const double x : v) squares += x * x;
      units[i] = 1 / std::max(std::sqrt(squares), kLeastLength);
    }
  });
  units32_ = units_.to(kFloat32);
}

void StoredRows::approximate_by(const std::string& backend, bool l2) {
  const DType t = dtype() == kFloat64 ? kFloat64 : kFloat32;
  Tensor rows = rows_.to(t);
  if (steps_.defined()) rows = rows * steps_.unsqueeze(1);
  if (cosine()) rows = rows * units_.to(t).unsqueeze(1);
  if (backend == "hnsw") {
    approximate_.reset(new NeighbourGraph(Points(rows, l2)));
  } else {
    approximate_.reset(new Cells(Points(rows, l2)));
  }
}

kernels::SearchInputs StoredRows::inputs(DType t) const {
  kernels::SearchInputs in;
  in.rows = rows_.in();
  in.steps = steps_.in();
  in.units = (t == kFloat64 ? units_ : units32_).in();
  in.ids = ids_.in();
  in.l2 = l2_;
  return in;
}

}  // namespace dropin::retrieval
