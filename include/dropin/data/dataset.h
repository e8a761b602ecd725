// Data sets of the user's own: what a DataLoader reads.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// Examples by number (torch.utils.data.Dataset). Derive from it:
///   struct Squares : Dataset {
///     int64_t size() const override { return 100; }
///     Tensors get(int64_t i) const override { return {scalar(i), scalar(i * i)}; }
///   };
/// Several threads may call get() at once. What it draws from the default generator depends on the
/// loader's seed, the epoch and the batch only.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  /// Example i, 0 <= i < size(): x and y, or any list of tensors of the same length for each i.
  virtual Tensors get(int64_t i) const = 0;
  /// The examples `indices` as a batch at once, where that is quicker than stacking them one by
  /// one.
  virtual std::optional<Tensors> get_batch(const std::vector<int64_t>& /*indices*/) const {
    return std::nullopt;
  }
};

/// Examples one after the other (torch.utils.data.IterableDataset): of a file, a generator, a
/// stream. One thread at a time calls next(), in order, whatever the number of workers.
class IterableDataset {
 public:
  virtual ~IterableDataset() = default;
  /// A new epoch begins: 0, 1, ...
  virtual void start(int64_t epoch) = 0;
  /// The next example; nothing after the last.
  virtual std::optional<Tensors> next() = 0;
};

/// Examples are rows of tensors of the same first size: get(i) = {x[i], y[i], ...}. ShapeError
/// where they differ or a tensor has no dimension, IndexError for a row that is not there.
class TensorDataset : public Dataset {
 public:
  explicit TensorDataset(Tensors tensors);
  int64_t size() const override { return size_; }
  Tensors get(int64_t i) const override;
  std::optional<Tensors> get_batch(const std::vector<int64_t>& indices) const override;
  const Tensors& tensors() const { return tensors_; }

 private:
  Tensors tensors_;
  int64_t size_ = 0;
};

/// Some examples of another data set, which must live as long. IndexError for one that is not
/// there.
class Subset : public Dataset {
 public:
  Subset(const Dataset& dataset, std::vector<int64_t> indices);
  Subset(const Dataset&&, std::vector<int64_t>) = delete;
  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  Tensors get(int64_t i) const override;
  std::optional<Tensors> get_batch(const std::vector<int64_t>& indices) const override;
  const std::vector<int64_t>& indices() const { return indices_; }

 private:
  std::vector<int64_t> mapped(const std::vector<int64_t>& indices) const;
  const Dataset& dataset_;
  std::vector<int64_t> indices_;
};

/// Disjoint parts of these sizes, drawn by the generator (null: the default one). OptionError
/// unless the sizes add up to the data set's.
std::vector<Subset> random_split(const Dataset& dataset, const std::vector<int64_t>& lengths,
                                 Generator* g = nullptr);
std::vector<Subset> random_split(const Dataset&&, const std::vector<int64_t>&,
                                 Generator* = nullptr) = delete;

/// Examples stacked position by position: n lists {x, y} -> {[n, ...], [n, ...]}. ShapeError naming
/// the example that does not fit the first.
Tensors default_collate(const std::vector<Tensors>& examples);

}  // namespace dropin
