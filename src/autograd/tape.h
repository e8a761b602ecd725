// What the files of the tape share.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin::detail {

/// Makes a view a part of its base anew, after a recorded write to the base or another view.
void renew_history(TensorImpl& view);
/// Gives `to` the operation that made `from`, or none. Gradient and marks of `to` stay.
void move_history(const Tensor& to, const Tensor& from);

}  // namespace dropin::detail
