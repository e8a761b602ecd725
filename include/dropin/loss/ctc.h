// CTCLoss: sequences whose alignment is not known.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ctc.h"

namespace dropin {

struct CTCLossOptions {
  int64_t blank = 0;
  std::string reduction = "mean";
  bool zero_infinity = false;
  static void fields(auto&& f) {
    using O = CTCLossOptions;
    f("blank", &O::blank, "the class that stands for no label");
    f("reduction", &O::reduction, "mean, sum or none");
    f("zero_infinity", &O::zero_infinity, "targets that no alignment holds give 0, not infinity");
  }
};
/// ctc_loss() with its options kept. torch.nn.CTCLoss.
class CTCLoss {
 public:
  explicit CTCLoss(const CTCLossOptions& o = {}) : options_(o) {}
  Tensor operator()(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths,
                    const Tensor& target_lengths) const {
    return ctc_loss(log_probs, targets, input_lengths, target_lengths, options_.blank,
                    options_.reduction, options_.zero_infinity);
  }

 private:
  CTCLossOptions options_;
};

}  // namespace dropin
