// Generator: the state of a counter-based random stream (Philox4x32-10), the same for any device
// and thread count.
#pragma once
#include <cstdint>

namespace dropin {

/// Seed and position of a random stream. Every draw takes whole blocks of four 32-bit words and
/// moves the offset on.
class Generator {
 public:
  explicit Generator(std::uint64_t seed = 0) : seed_(seed) {}
  void manual_seed(std::uint64_t seed) {
    seed_ = seed;
    offset_ = 0;
  }
  std::uint64_t seed() const { return seed_; }
  std::uint64_t offset() const { return offset_; }
  void set_offset(std::uint64_t offset) { offset_ = offset; }
  /// Takes `blocks` blocks; returns the offset of the first.
  std::uint64_t advance(std::uint64_t blocks) {
    std::uint64_t o = offset_;
    offset_ += blocks;
    return o;
  }

 private:
  std::uint64_t seed_, offset_ = 0;
};

/// The calling thread's default generator; seed 0 until manual_seed.
Generator& default_generator();
/// Seeds the calling thread's default generator.
void manual_seed(std::uint64_t seed);

}  // namespace dropin
