// Views and their bases: an in-place write to one of them changes the history of all.
//
// A view keeps the tensor that owns the memory's history, its base. A recorded write through a view
// gives the base a new history: outside the view's elements the old one, inside that of the values
// written. Other views notice by a counter, when they are next used, and then become a part of the
// base anew. The part is known by its strides, so one pair of functions serves every kind of view.
#include <algorithm>

#include "autograd/tape.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/elementwise/kernel.h"

namespace dropin {
namespace {

/// Where a tensor's elements lie in the storage.
struct Layout {
  Shape sizes, strides;
  int64_t offset = 0;
  explicit Layout(const TensorImpl& t) : sizes(t.sizes), strides(t.strides), offset(t.offset) {}
  /// Elements from the first to the last.
  int64_t span() const {
    int64_t last = 0;
    for (int i = 0; i < sizes.size(); ++i) {
      if (sizes[i] == 0) return 0;
      last += (sizes[i] - 1) * strides[i];
    }
    return last + 1;
  }
  bool repeats() const {
    for (int i = 0; i < sizes.size(); ++i)
      if (strides[i] == 0 && sizes[i] > 1) return true;
    return false;
  }
  /// True unless the strides alone show that no two elements share memory.
  bool may_overlap() const {
    std::vector<std::pair<int64_t, int64_t>> dims;
    for (int i = 0; i < sizes.size(); ++i)
      if (sizes[i] > 1) dims.emplace_back(strides[i], sizes[i]);
    std::sort(dims.begin(), dims.end());
    int64_t reach = 0;
    for (const auto& [stride, size] : dims) {
      if (stride <= reach) return true;
      reach += (size - 1) * stride;
    }
    return false;
  }
};

/// Zeros that lie as the base does.
Tensor zeros_as(const Layout& base, const TensorOptions& o) {
  return detail::alias(zeros({base.span()}, o), base.sizes, base.strides, 0);
}
Tensor part_of(const Tensor& laid_out, const Layout& base, const Layout& view) {
  return detail::alias(laid_out, view.sizes, view.strides,
                       laid_out.storage_offset() + view.offset - base.offset);
}
void write(const Tensor& from, const Tensor& to) {
  run<kernels::copy>(to.device(), from.in(), to.out());
}

Tensor as_part(const Tensor& x, const Layout& base, const Layout& view);

/// Gradients of a view's elements -> of its base's: those outside are 0, those that the view shows
/// several times are summed.
Tensor paste(const Tensor& g, const Layout& base, const Layout& view) {
  Tensor r = zeros_as(base, g.options());
  if (!view.may_overlap()) {
    write(g, part_of(r, base, view));
  } else {
    const int64_t n = base.span();
    const Tensor where = part_of(arange(0, n), base, view).contiguous().reshape({-1});
    no_grad guard;
    const Tensor sums = index_add(zeros({n}, g.options()), 0, where.to(g.device()),
                                  g.detach().contiguous().reshape({-1}));
    r = detail::alias(sums, base.sizes, base.strides, 0);
  }
  return record("paste", r, {g}, {}, [base, view](const Saved&, const Tensor& gg) -> Tensors {
    return {as_part(gg, base, view)};
  });
}

/// The elements of x, of the base's sizes, that the view shows.
Tensor as_part(const Tensor& x, const Layout& base, const Layout& view) {
  Tensor laid_out = x.detach();
  if (!(x.strides() == base.strides)) {
    laid_out = zeros_as(base, x.options());
    write(x, laid_out);
  }
  return record(
      "as_strided", part_of(laid_out, base, view), {x}, {},
      [base, view](const Saved&, const Tensor& g) -> Tensors { return {paste(g, base, view)}; });
}

/// x with 0 where the view is.
Tensor without_part(const Tensor& x, const Layout& base, const Layout& view) {
  Tensor r = zeros_as(base, x.options());
  write(x, r);
  const Tensor hole = part_of(r, base, view);
  run<kernels::fill>(hole.device(), 0.0, hole.out());
  return record("without_part", r, {x}, {}, [base, view](const Saved&, const Tensor& g) -> Tensors {
    return {without_part(g, base, view)};
  });
}

bool linked(const TensorImpl& t) { return t.base && t.storage == t.base->storage; }

void set_history(TensorImpl& of, const Tensor& from) {
  detail::move_history(Tensor(Ref<TensorImpl>(&of)), from);
}

}  // namespace

namespace detail {

void renew_history(TensorImpl& view) {
  view.seen = view.base->history;
  if (!linked(view)) return;  // the base was given other data
  if (view.origin == ViewOrigin::Several) {
    --view.seen;
    fail<AutogradError>(
        {"tensor: one of several views that one call returned (split, chunk), used after the "
         "tensor "
         "it shows, or another view of it, was changed in place"});
  }
  enable_grad on;
  const Tensor base(view.base),
      part = alias(Tensor(Ref<TensorImpl>(&view)), view.sizes, view.strides, view.offset);
  set_history(view,
              record("as_strided", part, {base}, {},
                     [b = Layout(*view.base), v = Layout(view)](
                         const Saved&, const Tensor& g) -> Tensors { return {paste(g, b, v)}; }));
}

void link_view(const Tensor& y, const Tensor& x) {
  TensorImpl &to = *y.impl(), &from = *x.impl();
  if (!grad_enabled()) {  // writes through it are refused while recording, so it needs no base
    to.origin = from.origin == ViewOrigin::OffTape || x.requires_grad() ? ViewOrigin::OffTape
                                                                        : ViewOrigin::Unrecorded;
    return;
  }
  to.origin = from.origin == ViewOrigin::Own ? ViewOrigin::Recorded : from.origin;
  if (from.origin == ViewOrigin::Unrecorded || from.origin == ViewOrigin::OffTape) return;
  to.base = from.base ? from.base : Ref<TensorImpl>(&from);
  to.seen = to.base->history;
}

void several_views(const Tensors& views) {
  for (const Tensor& v : views)
    if (v.impl()->origin == ViewOrigin::Recorded) v.impl()->origin = ViewOrigin::Several;
}

bool check_in_place(const Tensor& self, bool source, const char* who) {
  if (!grad_enabled() || !is_floating(self.dtype())) return false;
  const TensorImpl& t = *self.impl();
  const bool off_tape = t.origin == ViewOrigin::OffTape;
  if (!source && !off_tape && !self.requires_grad()) return false;
  if (self.requires_grad() && self.is_leaf())
    fail<AutogradError>({who,
                         ": a leaf that requires a gradient cannot be changed in place; use "
                         "no_grad, or the function that returns a new tensor"});
  if (off_tape || t.origin == ViewOrigin::Unrecorded)
    fail<AutogradError>({who,
                         ": a view that was made inside no_grad cannot be changed in place outside "
                         "it; make the view, or the change, on the same side"});
  if (t.origin == ViewOrigin::Several)
    fail<AutogradError>(
        {who,
         ": one of several views that one call returned (split, chunk) cannot be "
         "changed in place; use narrow, or the function that returns a new tensor"});
  if (!linked(t)) return true;
  const Tensor base(t.base);
  if (base.is_leaf() && base.requires_grad())
    fail<AutogradError>({who,
                         ": a view of a leaf that requires a gradient cannot be changed in place; "
                         "use no_grad, or a copy of the leaf"});
  if (Layout(*t.base).repeats())
    fail<AutogradError>({who, ": a view of a tensor whose elements share memory (sizes ",
                         base.sizes(), ", strides ", base.strides(),
                         ") cannot be changed in place while recording"});
  return true;
}

Tensor next_history(const Tensor& self, const Tensor& value, bool keeps, const char* who) {
  const TensorImpl& t = *self.impl();
  if (linked(t)) {
    const Tensor base(t.base);
    return record(who, base.detach(), {base, value}, {},
                  [b = Layout(*t.base), v = Layout(t)](const Saved& s, const Tensor& g) -> Tensors {
                    return {s.needs(0) ? without_part(g, b, v) : Tensor(),
                            s.needs(1) ? as_part(g, b, v) : Tensor()};
                  });
  }
  if (keeps)
    return record(who, self.detach(), {value}, {},
                  [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
  return record(who, self.detach(), {self, value}, {},
                [](const Saved& s, const Tensor& g) -> Tensors {
                  return {s.needs(0) ? zeros_like(g) : Tensor(), s.needs(1) ? g : Tensor()};
                });
}

void take_history(const Tensor& self, const Tensor& next) {
  TensorImpl& owner = linked(*self.impl()) ? *self.impl()->base : *self.impl();
  set_history(owner, next);
  ++owner.history;
}

}  // namespace detail
}  // namespace dropin
