// What the files of the tape, and the operations that make views or write in place, share.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin::detail {

/// Makes y, a recorded alias of x, a view of it: later in-place writes to either reach the other's
/// history.
void link_view(const Tensor& y, const Tensor& x);
/// Marks views that one call made together: a recorded in-place write to one is refused (torch).
void several_views(const Tensors& views);
/// Before an in-place write. True when it must be recorded; AutogradError where it is not allowed.
/// `source`: whether what is written requires a gradient.
bool check_in_place(const Tensor& self, bool source, const char* who);
/// The history that a recorded in-place write of `value` gives to self, or to what self is a view
/// of. keeps: whether value was computed from self (else self's old history gets zeros). Made
/// before the write, because it may run out of memory.
Tensor next_history(const Tensor& self, const Tensor& value, bool keeps, const char* who);
/// After the write: next_history() takes effect.
void take_history(const Tensor& self, const Tensor& next);

/// Makes a view a part of its base anew, after a recorded write to the base or another view.
void renew_history(TensorImpl& view);
/// Gives `to` the operation that made `from`, or none. Gradient and marks of `to` stay.
void move_history(const Tensor& to, const Tensor& from);

}  // namespace dropin::detail
