#include "dropin/data/dataset.h"

#include "dropin/ops/ops.h"
#include "kernels/hd.h"

namespace dropin {

namespace {
void check_example(const char* who, int64_t i, int64_t size) {
  DROPIN_CHECK(i >= 0 && i < size, IndexError, who, ": example ", i, ", expected 0 to below ",
               size);
}
}  // namespace

TensorDataset::TensorDataset(Tensors tensors) : tensors_(std::move(tensors)) {
  DROPIN_CHECK(!tensors_.empty(), ShapeError, "TensorDataset: no tensors, expected at least one");
  for (const Tensor& t : tensors_)
    DROPIN_CHECK(t.dim() > 0 && t.size(0) == tensors_[0].size(0), ShapeError,
                 "TensorDataset: a tensor is ", t.sizes(), ", expected the same first size as ",
                 tensors_[0].sizes());
  size_ = tensors_[0].size(0);
}

Tensors TensorDataset::get(int64_t i) const {
  check_example("TensorDataset", i, size_);
  Tensors r;
  for (const Tensor& t : tensors_) r.push_back(t.select(0, i));
  return r;
}

std::optional<Tensors> TensorDataset::get_batch(const std::vector<int64_t>& indices) const {
  for (const int64_t i : indices) check_example("TensorDataset", i, size_);
  Tensors r;
  for (const Tensor& t : tensors_) r.push_back(index_select(t, 0, tensor(indices).to(t.device())));
  return r;
}

Subset::Subset(const Dataset& dataset, std::vector<int64_t> indices)
    : dataset_(dataset), indices_(std::move(indices)) {
  for (const int64_t i : indices_) check_example("Subset", i, dataset.size());
}

std::vector<int64_t> Subset::mapped(const std::vector<int64_t>& indices) const {
  std::vector<int64_t> r;
  for (const int64_t i : indices) {
    check_example("Subset", i, size());
    r.push_back(indices_[at(i)]);
  }
  return r;
}

Tensors Subset::get(int64_t i) const { return dataset_.get(mapped({i})[0]); }

std::optional<Tensors> Subset::get_batch(const std::vector<int64_t>& indices) const {
  return dataset_.get_batch(mapped(indices));
}

std::vector<Subset> random_split(const Dataset& dataset, const std::vector<int64_t>& lengths,
                                 Generator* g) {
  int64_t total = 0;
  for (const int64_t n : lengths) {
    DROPIN_CHECK(n >= 0, OptionError, "random_split: a length is ", n, ", expected 0 or more");
    total += n;
  }
  DROPIN_CHECK(total == dataset.size(), OptionError, "random_split: the lengths add up to ", total,
               ", expected ", dataset.size(), ", the data set's size");
  const std::vector<int64_t> order = randperm(total, g).to_vector<int64_t>();
  std::vector<Subset> parts;
  auto from = order.begin();
  for (const int64_t n : lengths) {
    parts.emplace_back(dataset, std::vector<int64_t>(from, from + n));
    from += n;
  }
  return parts;
}

Tensors default_collate(const std::vector<Tensors>& examples) {
  DROPIN_CHECK(!examples.empty(), ShapeError,
               "default_collate: no examples, expected at least one");
  const Tensors& first = examples[0];
  std::vector<Tensors> columns(first.size());
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const auto number = static_cast<int64_t>(i);
    DROPIN_CHECK(examples[i].size() == first.size(), ShapeError, "default_collate: example ",
                 number, " of the batch has ", static_cast<int64_t>(examples[i].size()),
                 " tensors, expected ", static_cast<int64_t>(first.size()), " as the first");
    for (std::size_t k = 0; k < first.size(); ++k) {
      const Tensor& t = examples[i][k];
      DROPIN_CHECK(t.sizes() == first[k].sizes() && t.dtype() == first[k].dtype(), ShapeError,
                   "default_collate: tensor ", static_cast<int64_t>(k), " of example ", number,
                   " of the batch is ", t.dtype(), " ", t.sizes(), ", expected ", first[k].dtype(),
                   " ", first[k].sizes(), " as the first");
      columns[k].push_back(t);
    }
  }
  Tensors r;
  for (const Tensors& c : columns) r.push_back(stack(c));
  return r;
}

}  // namespace dropin
