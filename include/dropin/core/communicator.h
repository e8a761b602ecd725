// Communicator: what members that split a sequence over several devices ask of the ranks beside
// them.
#pragma once
#include <cstdint>
#include <functional>

namespace dropin {

/// A group of ranks that call the same operations in the same order. MPI and NCCL fit behind it;
/// in_process() runs ranks as threads.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// Every rank gives `bytes` bytes and gets all ranks' in order: out has size() * bytes.
  virtual void all_gather(const void* in, int64_t bytes, void* out) = 0;
  /// Every rank gives size() * count floats and gets the sum of all ranks' pieces of its rank: out
  /// has count.
  virtual void reduce_scatter_sum(const float* in, int64_t count, float* out) = 0;
  virtual void reduce_scatter_sum(const double* in, int64_t count, double* out) = 0;
  /// The ranks [first, first + count) of this group, to which the caller belongs, as a group. Valid
  /// as long as this one.
  virtual Communicator& group(int64_t first, int64_t count) = 0;
  /// Bytes received from other ranks so far, groups included.
  virtual int64_t bytes_received() const = 0;
};

/// Runs f(communicator) on `ranks` threads, one per rank. An exception of any rank is thrown again
/// when all have ended (the others get an Error from the call in which they wait).
void in_process(int64_t ranks, const std::function<void(Communicator&)>& f);

}  // namespace dropin
