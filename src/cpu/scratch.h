// Short-lived working memory of one thread. Blocks are kept and handed out again, because fresh
// pages cost ten times reused ones.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace dropin::cpu {

namespace detail {
inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Large blocks lie on huge pages, where the system has them: passes with large strides would
// otherwise miss the table of pages at every step.
inline std::align_val_t scratch_align(std::size_t bytes) {
  return std::align_val_t{bytes >= 2 * kHugePage ? kHugePage : 64};
}
inline void* scratch_new(std::size_t bytes) {
  void* p = ::operator new(bytes, scratch_align(bytes));
#ifdef __linux__
  if (bytes >= 2 * kHugePage) madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return p;
}
inline void scratch_delete(void* p, std::size_t bytes) {
  ::operator delete(p, scratch_align(bytes));
}

/// The free blocks of one thread.
class ScratchCache {
 public:
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
  };
  Block take(std::size_t bytes) {
    Block* best = nullptr;
    for (Block& b : kept_)
      if (b.data && b.bytes >= bytes && (!best || b.bytes < best->bytes)) best = &b;
    if (!best) return {scratch_new(bytes), bytes};
    const Block out = *best;
    *best = {};
    return out;
  }
  void give(Block b) {
    Block* worst = &b;  // keeps the largest blocks, up to a limit for each
    for (Block& k : kept_)
      if (k.bytes < worst->bytes) worst = &k;
    if (worst != &b && b.bytes <= keep_bytes_) {
      const Block old = *worst;
      *worst = b;
      b = old;
    }
    if (b.data) scratch_delete(b.data, b.bytes);
  }
  /// The thread ends: nothing is kept from here on, but destructors that run later may still ask.
  void end() {
    keep_bytes_ = 0;
    for (Block& b : kept_) {
      if (b.data) scratch_delete(b.data, b.bytes);
      b = {};
    }
  }

 private:
  std::size_t keep_bytes_ = std::size_t{64} << 20;
  Block kept_[6];
};

inline ScratchCache& scratch_cache() {
  // No destructor of its own: objects that outlive this thread's others may run a model yet.
  static thread_local constinit ScratchCache cache;
  static thread_local const struct Reaper {
    ~Reaper() { cache.end(); }
  } reaper;
  return cache;
}
}  // namespace detail

/// n uninitialised elements, 64-byte aligned, until the end of the scope; to be made and destroyed
/// by the same thread. std::bad_alloc if there is no memory.
template <class T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t n)
      : block_(detail::scratch_cache().take((static_cast<std::size_t>(n) * sizeof(T) + 4095) /
                                            4096 * 4096)) {}
  Scratch(Scratch&& o) noexcept : block_(o.block_) { o.block_ = {}; }
  Scratch& operator=(Scratch&& o) noexcept {
    const auto mine = block_;
    block_ = o.block_;
    o.block_ = mine;
    return *this;
  }
  ~Scratch() {
    if (block_.data) detail::scratch_cache().give(block_);
  }
  T* data() const { return static_cast<T*>(block_.data); }
  T& operator[](int64_t i) const { return data()[i]; }

 private:
  detail::ScratchCache::Block block_;
};

}  // namespace dropin::cpu
