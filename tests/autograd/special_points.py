"""Writes special_points/*.inc: values and gradients of PyTorch at special points, as plain numbers.

    python tests/autograd/special_points.py

Inputs are vectors. Gradients are those of the sum of the result. The names of the operations are
those that special_points_test.cpp knows.
"""

import math
import pathlib
import warnings

import torch
import torch.nn.functional as F

warnings.simplefilter("ignore")
inf, nan = math.inf, math.nan
folder = pathlib.Path(__file__).with_suffix("")
files = {}  # name: what it holds, entries


def begin(name, what):
    """The entries that follow go to this file."""
    files[name] = (what, [])


def number(v):
    if math.isnan(v):
        return "NAN"
    if math.isinf(v):
        return "INFINITY" if v > 0 else "-INFINITY"
    if v == 0:
        return "-0.0" if math.copysign(1, v) < 0 else "0"
    return repr(int(v)) if v == int(v) and abs(v) < 1e6 else f"{v:.9g}"


def braces(v):
    return "{" + ", ".join(number(float(x)) for x in v) + "}"


def entry(name, f, *inputs, dtype=torch.float64):
    xs = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in inputs]
    y = f(*xs)
    gradients = torch.autograd.grad(y.sum(), xs, allow_unused=True)
    gradients = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, xs)]
    kind = "kFloat64" if dtype == torch.float64 else "kFloat32"
    parts = [
        f'"{name}"',
        kind,
        "{" + ", ".join(braces(x.tolist()) for x in xs) + "}",
        braces(y.detach().reshape(-1).tolist()),
        "{" + ", ".join(braces(g.tolist()) for g in gradients) + "}",
    ]
    list(files.values())[-1][1].append("{" + ", ".join(parts) + "},")


f32 = torch.float32
unary = {
    "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "square": torch.square,
    "exp": torch.exp, "exp2": torch.exp2, "expm1": torch.expm1, "log": torch.log,
    "log2": torch.log2, "log1p": torch.log1p, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan,
    "asin": torch.asin, "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh,
    "cosh": torch.cosh, "tanh": torch.tanh, "erf": torch.erf, "floor": torch.floor,
    "ceil": torch.ceil, "round": torch.round, "trunc": torch.trunc, "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid, "softplus": F.softplus,
    "softplus(2, 5)": lambda x: F.softplus(x, 2, 5), "relu": F.relu, "relu6": F.relu6,
    "leaky_relu": F.leaky_relu, "leaky_relu(-1)": lambda x: F.leaky_relu(x, -1.0),
    "elu": F.elu, "elu(2)": lambda x: F.elu(x, 2.0), "selu": F.selu, "silu": F.silu,
    "softsign": F.softsign, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid,
    "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "clamp(0, 1)": lambda x: torch.clamp(x, 0, 1),
    "clamp(1, 0)": lambda x: torch.clamp(x, 1, 0),
    "clamp(-inf, 0)": lambda x: torch.clamp(x, -inf, 0),
    "x * 0": lambda x: x * 0.0, "x / 0": lambda x: x / 0.0, "1 / x": lambda x: 1.0 / x,
    "0 / x": lambda x: 0.0 / x, "1 - x": lambda x: 1.0 - x,
    "2 ^ x": lambda x: torch.pow(2.0, x), "0 ^ x": lambda x: torch.pow(0.0, x),
    "x % 2": lambda x: torch.remainder(x, 2.0),
    "abs(x) ^ 0.5": lambda x: torch.sqrt(torch.abs(x)),
    "where(x > 0, log, x)": lambda x: torch.where(x > 0, torch.log(x), x),
    "masked_fill(x == 0, 1)": lambda x: x.masked_fill(x == 0, 1.0) * 2,
}
for e in [0, 1, 2, 3, 0.5, -0.5, -1, -2, 1.5]:
    unary[f"x ^ {e}"] = lambda x, e=e: torch.pow(x, e)
points = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 6.0, 2.5, 10.0, 20.0, 21.0,
          40.0, -40.0, 200.0, -200.0, 800.0, -800.0, 1e-30, -1e-30, 1e-300, 1e200, -1e200, inf,
          -inf, nan]
single = [0.0, -0.0, 1e-30, 1e30, -1e30, 90.0, -90.0, -104.0, 17.0, -17.0, 20.0, 3.0, -3.0, inf,
          -inf]
begin("functions", "functions of one number")
for name, f in unary.items():
    if name == "sigmoid":
        begin("activations", "activation functions")
    if name == "clamp(0, 1)":
        begin("with_numbers", "one tensor beside plain numbers")
    trigonometric = name in ("sin", "cos", "tan")
    entry(name, f, [p for p in points if not (trigonometric and 1e6 < abs(p) < inf)])
    entry(name, f, [p for p in single if not (trigonometric and 1e6 < abs(p) < inf)], dtype=f32)

pair = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, -2.5, inf, -inf, nan]
left = [a for a in pair for _ in pair]
right = [b for _ in pair for b in pair]
binary = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "maximum": torch.maximum, "minimum": torch.minimum, "atan2": torch.atan2, "pow": torch.pow,
    "remainder": torch.remainder, "where(a > b, a, b)": lambda a, b: torch.where(a > b, a, b),
    "hypot": lambda a, b: torch.sqrt(a * a + b * b),
    "mse_loss": lambda a, b: F.mse_loss(a, b, reduction="none"),
    "l1_loss": lambda a, b: F.l1_loss(a, b, reduction="none"),
}
begin("pairs", "two tensors")
for name, f in binary.items():
    if not name.endswith("loss"):
        entry(name, f, left, right)
tiny = [0.0, 1e-30, 1e30, -1e30, 1e-40]
for name in ("mul", "div", "atan2", "pow"):
    entry(name, binary[name], [a for a in tiny for _ in tiny], [b for _ in tiny for b in tiny],
          dtype=f32)

begin("losses", "losses by element")
for name in ("mse_loss", "l1_loss"):
    entry(name, binary[name], left, right)
logits = [0.0, -0.0, 1.0, -1.0, 40.0, -40.0, 200.0, -200.0, 800.0, -800.0, inf, -inf, nan]
targets = [0.0, 1.0, 0.3]
for dtype in (torch.float64, f32):
    entry("binary_cross_entropy_with_logits",
          lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
          [x for x in logits for _ in targets], [t for _ in logits for t in targets], dtype=dtype)
chances = [0.0, 1.0, 0.5, 1e-30, 1e-45]
entry("binary_cross_entropy", lambda p, t: F.binary_cross_entropy(p, t, reduction="none"),
      [x for x in chances for _ in targets], [t for _ in chances for t in targets])
entry("binary_cross_entropy", lambda p, t: F.binary_cross_entropy(p, t, reduction="none"),
      [x for x in chances for _ in targets], [t for _ in chances for t in targets], dtype=f32)

reductions = {
    "sum": torch.sum, "mean": torch.mean, "prod": lambda x: torch.prod(x, 0),
    "amax": lambda x: torch.amax(x, 0), "amin": lambda x: torch.amin(x, 0),
    "max": lambda x: torch.max(x, 0).values, "min": lambda x: torch.min(x, 0).values,
    "var": torch.var, "var(0)": lambda x: torch.var(x, correction=0),
    "std": torch.std, "std(0)": lambda x: torch.std(x, correction=0),
    "norm": torch.linalg.vector_norm, "logsumexp": lambda x: torch.logsumexp(x, 0),
    "softmax": lambda x: torch.softmax(x, 0) * torch.arange(1.0, len(x) + 1, dtype=x.dtype),
    "log_softmax": lambda x: torch.log_softmax(x, 0)
    * torch.arange(1.0, len(x) + 1, dtype=x.dtype),
    "cumsum": lambda x: torch.cumsum(x, 0), "cumprod": lambda x: torch.cumprod(x, 0),
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 0),
    "cummax": lambda x: torch.cummax(x, 0).values,
    "sort": lambda x: torch.sort(x, stable=True).values
    * torch.arange(1.0, len(x) + 1, dtype=x.dtype),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.detach().flip(0), 0),
    "layer_norm": lambda x: F.layer_norm(x, x.shape)
    * torch.arange(1.0, len(x) + 1, dtype=x.dtype),
    "rms_norm": lambda x: F.rms_norm(x, x.shape, eps=1e-6)
    * torch.arange(1.0, len(x) + 1, dtype=x.dtype),
    "cross_entropy": lambda x: F.cross_entropy(x.unsqueeze(0), torch.tensor([0])),
    "nll_loss": lambda x: F.nll_loss(x.unsqueeze(0), torch.tensor([0])),
    "distance": lambda x: torch.linalg.vector_norm(x - x.detach()),
    "normalize": lambda x: F.normalize(x, dim=0)
    * torch.arange(1.0, len(x) + 1, dtype=x.dtype),
}
rows = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 2.0], [0.0, -0.0, 1.0], [2.0, 0.0, 0.0, 3.0],
        [3.0, 1.0, 3.0, 3.0], [-1.0, -1.0, 2.0], [5.0], [0.0], [-inf, -inf, -inf],
        [-inf, 0.0, 1.0], [0.0, -inf, -inf], [inf, 1.0, 2.0], [inf, inf, 0.0], [inf, -inf, 0.0],
        [nan, 1.0, 2.0], [1.0, nan, 1.0], [1e200, 1.0, -1e200], [800.0, 0.0, -800.0],
        [1e-200, 1e-200, 0.0]]
begin("reductions", "a row to one number")
for name, f in reductions.items():
    if name == "softmax":
        begin("rows", "a row to a row, and measures of rows")
    for row in rows:
        if name == "layer_norm" and 1e200 in row:
            continue  # its variance is infinite: PyTorch makes that 0, dropin NaN
        entry(name, f, row)
    if not name.startswith("std"):  # the variance underflows in float32; PyTorch keeps a double
        entry(name, f, [1e-30, 1e-30, 0.0], dtype=f32)
    entry(name, f, [90.0, 90.0, -90.0], dtype=f32)
for row in ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 4.0]],
            [[1.0, 0.0], [-1.0, 0.0]], [[inf, 1.0], [1.0, 1.0]]):
    entry("cosine_similarity of two", lambda a, b: F.cosine_similarity(a, b, 0), *row)
    entry("distance of two", lambda a, b: torch.linalg.vector_norm(a - b), *row)

folder.mkdir(exist_ok=True)
for name, (what, entries) in files.items():
    text = (f"// Values and gradients of PyTorch {torch.__version__.split('+')[0]}: {what}. Written by "
            "special_points.py: operation, dtype,\n"
            "// inputs, result, gradients of the sum of the result.\n"
            "// clang-format off\n")
    (folder / f"{name}.inc").write_text(text + "\n".join(entries) + "\n")
