// What our two uses of oneDNN share: its threads, and its end.
#pragma once
#include <dnnl.hpp>

#include <atomic>

#include "src/cpu/onednn.h"

namespace dropin::cpu::onednn {

/// Primitives made so far.
extern std::atomic<int64_t> created;

/// To be called after oneDNN made static objects of its own (code, tables), which end with the
/// program in reverse order of their making. A handler registered after each of them was made runs
/// before it ends: from then on our own kernels serve, so that destructors of the user's globals
/// may still run a model.
void watch_the_end();

/// In its scope oneDNN uses the calling thread only. The setting belongs to the thread; the user's
/// own is put back.
class OneThread {
 public:
  OneThread();
  ~OneThread();
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_ = 1;
};

}  // namespace dropin::cpu::onednn
