// DataLoader: batches of a data set, made ahead by worker threads.
#pragma once
#include <functional>
#include <iterator>

#include "dropin/core/json.h"
#include "dropin/data/dataset.h"

namespace dropin {

struct DataLoaderOptions {
  int64_t batch_size = 1;
  bool shuffle = false;         ///< another order each epoch, by the generator
  bool drop_last = false;       ///< leaves out a smaller last batch
  int64_t num_workers = 0;      ///< threads; 0: batches are made when they are asked for
  int64_t prefetch_factor = 2;  ///< batches that each worker is ahead
  std::optional<Generator> generator = std::nullopt;  ///< none: seeded by the default one
  std::function<Tensors(const std::vector<Tensors>&)> collate_fn = nullptr;  ///< default_collate
};

/// Batches of a data set that lives as long (torch.utils.data.DataLoader):
///   DataLoader loader(data, {.batch_size = 32, .shuffle = true, .num_workers = 2});
///   for (const Tensors& batch : loader) { ... batch[0], batch[1] ... }
/// Each for begins an epoch. The batches, and what get() draws from the default generator, are the
/// same for the same generator, whatever the number of workers. An error of the data set or of
/// collate_fn is rethrown where its batch would come, and ends the epoch. OptionError for options.
class DataLoader {
 public:
  explicit DataLoader(const Dataset& dataset, const DataLoaderOptions& o = {});
  explicit DataLoader(IterableDataset& dataset, const DataLoaderOptions& o = {});
  explicit DataLoader(const Dataset&&, const DataLoaderOptions& = {}) = delete;
  ~DataLoader();
  DataLoader(const DataLoader&) = delete;
  DataLoader& operator=(const DataLoader&) = delete;

  /// Walks over the batches of one epoch; invalid once the next begins.
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Tensors;
    using difference_type = std::ptrdiff_t;
    using pointer = const Tensors*;
    using reference = const Tensors&;
    Iterator() = default;
    reference operator*() const { return batch_; }
    pointer operator->() const { return &batch_; }
    Iterator& operator++();
    void operator++(int) { ++*this; }
    bool operator==(const Iterator& o) const { return loader_ == o.loader_; }

   private:
    friend class DataLoader;
    explicit Iterator(DataLoader* loader) : loader_(loader) { ++*this; }
    DataLoader* loader_ = nullptr;  // null at the end
    Tensors batch_;
  };
  /// Begins the next epoch, or goes on with the one that load_state_dict() named.
  Iterator begin();
  Iterator end() { return {}; }
  /// Batches per epoch. StateError for an IterableDataset, which does not know.
  int64_t size() const;

  /// Where the loader stands, for a checkpoint's notes: the epoch, batches given out of it, and the
  /// generator. The batch that was given last counts as done.
  Json state_dict() const;
  /// The next for goes on behind the last batch given when `state` was taken. An IterableDataset's
  /// earlier batches are read and dropped. OptionError for what is no such state; nothing is
  /// changed then.
  void load_state_dict(const Json& state);

 private:
  struct Epoch;
  bool next(Tensors& batch);
  void start_epoch();
  const Dataset* dataset_ = nullptr;
  IterableDataset* stream_ = nullptr;
  DataLoaderOptions options_;
  Generator generator_;
  int64_t epoch_ = 0, given_ = 0;  // the epoch that runs, or comes next; batches given out of it
  Epoch* running_ = nullptr;
};

}  // namespace dropin
