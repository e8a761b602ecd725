"""Writes in_place_views/*.inc: what PyTorch does with in-place operations on views, as plain numbers.

    python tests/autograd/in_place_views.py

in_place_views_test.cpp knows the names. Each case: w is a leaf [2, 3], a a leaf of the view's
sizes; a base, a view of it, an in-place operation on the view, a later use, backward.
"""

import pathlib
import warnings

import torch

warnings.simplefilter("ignore")


def no_grad(f):
    def g(*x):
        with torch.no_grad():
            return f(*x)
    return g


bases = {
    "computed": lambda w: w * 2,
    "leaf": lambda w: w,
    "plain": lambda w: torch.ones(2, 3) * 3,
    "detached": lambda w: (w * 2).detach(),
    "transposed": lambda w: (w.reshape(3, 2) * 2).t().detach(),
}
views = {
    "itself": lambda y: y,
    "select": lambda y: y[0],
    "select last": lambda y: y.select(1, -1),
    "select twice": lambda y: y[1][2],
    "slice": lambda y: y.narrow(1, 1, 2),
    "slice step": lambda y: y[:, ::2],
    "transpose": lambda y: y.transpose(0, 1),
    "permute": lambda y: y.permute(1, 0),
    "unsqueeze": lambda y: y.unsqueeze(1),
    "squeeze": lambda y: y.narrow(0, 1, 1).squeeze(0),
    "view": lambda y: y.view(3, 2) if y.is_contiguous() else y.view(2, 3, 1),
    "flatten": lambda y: y.narrow(0, 0, 1).flatten(),
    "diagonal": lambda y: y.diagonal(1),
    "expand": lambda y: y.unsqueeze(0).expand(2, 2, 3),
    "split": lambda y: y.split(1)[1],
    "chunk": lambda y: y.chunk(3, 1)[0],
    "view of a split": lambda y: y.split(1)[1][0],
    "made in no_grad": no_grad(lambda y: y[0]),
    "detach": lambda y: y[0].detach(),
}
operations = {
    "mul_(10)": lambda v, a: v.mul_(10),
    "add_(0.5)": lambda v, a: v.add_(0.5),
    "add_(a)": lambda v, a: v.add_(a),
    "sub_(a, 2)": lambda v, a: v.sub_(a, alpha=2),
    "mul_(a)": lambda v, a: v.mul_(a),
    "div_(a)": lambda v, a: v.div_(a),
    "copy_(a)": lambda v, a: v.copy_(a),
    "copy_(1)": lambda v, a: v.copy_(torch.ones(())),
    "fill_(9)": lambda v, a: v.fill_(9),
    "zero_()": lambda v, a: v.zero_(),
    "clamp_(3, 7)": lambda v, a: v.clamp_(3, 7),
    "masked_fill_(v > 5, 1)": lambda v, a: v.masked_fill_(v > 5, 1),
    "mul_(v)": lambda v, a: v.mul_(v),
    "mul_(10) in no_grad": no_grad(lambda v, a: v.mul_(10)),
    "copy_(a) in no_grad": no_grad(lambda v, a: v.copy_(a)),
    "mul_(10), add_(a)": lambda v, a: v.mul_(10).add_(a),
}


def weighted(t):
    return (t * torch.arange(1.0, t.numel() + 1).reshape(t.shape)).sum()


def run(base, view, operation, use):
    w = torch.arange(1.0, 7).reshape(2, 3).clone().requires_grad_()
    y = bases[base](w)
    v = views[view](y)
    a = (torch.arange(1.0, v.numel() + 1) / 2).reshape(v.shape).clone().requires_grad_()
    other = y.transpose(0, 1)
    before = None
    if use == "saved before":
        before = (y * y).sum()
    if use == "unsaved before":
        before = (y * 3).sum()
    try:
        operations[operation](v, a)
    except RuntimeError:
        return "R"
    later = {
        "base": lambda: weighted(y),
        "view": lambda: weighted(v),
        "other view": lambda: weighted(other),
        "new view": lambda: weighted(y.transpose(0, 1)[1]),
        "square of base": lambda: weighted(y * y),
    }
    try:
        loss = later.get(use, lambda: before)()
    except RuntimeError:
        return "U"
    if not loss.requires_grad:
        return "N"
    try:
        loss.backward()
    except RuntimeError:
        return "B"
    return [y.detach(), w.grad, a.grad]


def braces(t):
    if t is None:
        return "{}"
    return "{" + ", ".join(f"{v:.7g}" for v in t.reshape(-1).tolist()) + "}"


thorough = ("itself", "select", "slice step", "transpose", "view")
uses = ["base", "view", "other view", "new view", "square of base", "saved before",
        "unsaved before"]
files = {}


def file_of(base, view):
    """A file for each base; that of most cases in three, by kind of view."""
    if base != "computed":
        return base
    place = list(views).index(view)
    return ("computed_parts" if place < list(views).index("slice step")
            else "computed_reordered" if place < list(views).index("view") else "computed_shaped")


for base in bases:
    for view in views:
        for operation in operations:
            few = base != "computed" or view not in thorough
            if few and operation not in ("mul_(10)", "copy_(a)", "fill_(9)", "mul_(a)",
                                         "mul_(10) in no_grad"):
                continue
            rows = {}
            for use in uses:
                if few and use not in ("base", "view", "other view"):
                    continue
                rows[use] = run(base, view, operation, use)
            if all(r == "R" for r in rows.values()):
                rows = {"base": "R"}
            for use, r in rows.items():
                if r == "U" and "no_grad" in operation:
                    continue  # a write outside the tape; dropin lets such views be used
                if r == "B" and view == "expand":
                    continue  # fails inside PyTorch's own backward
                where = f'"{base}", "{view}", "{operation}", "{use}"'
                rest = f"'{r}', {{}}, {{}}, {{}}" if isinstance(r, str) else (
                    "'G', " + ", ".join(braces(t) for t in r))
                files.setdefault(file_of(base, view), []).append("{" + where + ", " + rest + "},")
folder = pathlib.Path(__file__).with_suffix("")
folder.mkdir(exist_ok=True)
for name, entries in files.items():
    text = (f"// What PyTorch {torch.__version__.split('+')[0]} does with in-place operations on views, "
            "written by in_place_views.py:\n"
            "// base, view, operation, use, outcome (R: the operation is refused, U: the use, B:\n"
            "// backward, N: nothing to differentiate, G: gradients), values of the base, gradients of w "
            "and of a.\n"
            "// clang-format off\n")
    (folder / f"{name}.inc").write_text(text + "\n".join(entries) + "\n")
