// Quantizer: the contract of layers that replace vectors by entries of a codebook.
#pragma once
#include "dropin/module/family.h"

namespace dropin {

struct Quantized {
  Tensor y;           ///< like x
  Tensor loss;        ///< [], to be added to the task's
  Tensor perplexity;  ///< [], of the codes in use; no gradient
  Tensor indices;     ///< int64, x's sizes without D
};

/// x [..., D] -> y, loss [], perplexity [], indices int64 [...]. lengths int64 [B] of x [B, T, D]:
/// frames from there on take no part in loss and perplexity. Standard member: VectorQuantizer.
class Quantizer : public Module {
 public:
  using Family = Quantizer;
  static constexpr const char* kFamily = "Quantizer";
  static FamilyInfo family();
  virtual Quantized forward(const Tensor& x, const Tensor& lengths = {}) = 0;
  Quantized operator()(const Tensor& x, const Tensor& lengths = {}) { return forward(x, lengths); }
  NamedTensors call(const NamedTensors& in) override;
};

namespace detail {
/// The row of `codes` [K, D] nearest to each row of z [N, D]: int64 [N]. The first one on ties, 0
/// for a row with NaN. Never N x K numbers in memory.
Tensor nearest_codes(const Tensor& z, const Tensor& codes);
/// exp of the entropy of the codes among the frames that count (undefined: all); 1 for none.
Tensor code_perplexity(const Tensor& indices, const Tensor& counts, int64_t codes, DType dtype);
/// bool [B, T] frames below their lengths, which are checked; undefined without lengths.
Tensor frames_within(std::string_view who, const Tensor& lengths, int64_t batch, int64_t frames);
}  // namespace detail

}  // namespace dropin
