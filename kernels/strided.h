// The loop under every elementwise kernel: dimensions merged, work split over the threads, rows
// handed to a vector function.
#pragma once
#include <atomic>
#include <initializer_list>
#include <memory>

#include "dropin/abi/abi.h"
#include "dropin/core/dtype.h"
#include "kernels/hd.h"

namespace dropin::kernels {

/// Elements a thread takes at least; smaller arrays stay on the caller's thread.
constexpr int64_t kGrain = 32768;

/// Numbers a row function may need, and where it may report a problem.
struct RowArgs {
  double a = 0, b = 0;
  std::atomic<bool>* bad = nullptr;
};
/// y[i] = f(in[0][i * step[0]], ...) for i < n. Every step is 0 (one value for the whole row) or 1;
/// y may equal an input.
using Row = void (*)(const RowArgs& args, void* y, const void* const* in, const int64_t* step,
                     int64_t n);

/// Runs `row` over y and inputs of its sizes, with any strides. bfloat16 and float16 operands reach
/// the row as float.
void map(Row row, const RowArgs& args, const abi::TensorOut& y,
         std::initializer_list<const abi::TensorIn*> in);

/// A strided loop with size-1 dimensions dropped, dimensions in the order of operand 0's strides
/// (largest first) and neighbours merged.
struct Loop {
  static constexpr int kMaxOperands = 4;
  int ndim = 0, operands = 0;
  int64_t total = 1;
  int64_t size[abi::kMaxDims];
  int64_t stride[kMaxOperands][abi::kMaxDims];  // in elements
  /// The first tensor leads; all have its sizes.
  void make(std::initializer_list<const abi::TensorIn*> tensors);
  int64_t inner() const { return ndim ? size[ndim - 1] : 1; }
  /// Does the operand walk its memory in the loop's own order, element after element?
  bool dense(int operand) const;
  bool constant(int operand) const;
  /// Offset of operand at the flat position.
  int64_t offset(int operand, int64_t flat) const;
};

/// n values of the loop from flat position `begin`, between strided memory and a contiguous block.
void gather(const Loop& loop, int operand, int64_t item, const void* from, int64_t begin, int64_t n,
            void* block);
void scatter(const Loop& loop, int operand, int64_t item, const void* block, int64_t begin,
             int64_t n, void* to);

/// bfloat16 or float16 to float and back (to nearest even), contiguous.
void widen(DType from, const void* x, float* y, int64_t n);
void narrow(DType to, const float* x, void* y, int64_t n);
constexpr bool is_half(DType t) { return t == DType::BFloat16 || t == DType::Float16; }

/// The copy kernel: y = x converted to y's dtype, any strides.
void copy_values(const abi::TensorIn& x, const abi::TensorOut& y);
/// x as dtype `to`, in row-major order in memory of its own.
struct Packed {
  std::unique_ptr<char[]> memory;
  abi::TensorOut tensor;
  Packed(const abi::TensorIn& x, DType to);
};

}  // namespace dropin::kernels
