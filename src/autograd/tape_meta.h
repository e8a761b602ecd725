// What a tensor knows of the tape: its gradient, its marks, and the operation that made it.
#pragma once
#include <memory>

#include "autograd/tape.h"
#include "dropin/autograd/swap_note.h"

namespace dropin::detail {

struct TapeMeta final : TapeEntry {
  bool requires_grad = false, full_state = false;
  std::shared_ptr<const SwapNote> swap;
  Tensor grad;
  Ref<Node> node;
  int output = 0;
};
inline TapeMeta* meta(const Tensor& t) {
  TensorImpl& i = *t.impl();
  if (i.base && i.seen != i.base->history) [[unlikely]]
    detail::renew_history(i);
  return static_cast<TapeMeta*>(i.tape);
}
inline TapeMeta& make_meta(const Tensor& t) {
  if (TapeMeta* m = meta(t)) return *m;
  TapeMeta* m = new TapeMeta;
  t.impl()->tape = m;
  return *m;
}

/// Whether gradients are watched for NaN (detect_anomaly).
bool detects_anomaly();

}  // namespace dropin::detail
