"""Writes promotion.inc: PyTorch's dtypes of results, as plain names.

    python tests/tensor/promotion.py > tests/tensor/promotion.inc

Operands: a tensor of two elements, a tensor without dimensions, or a number. A line is an
operation, its left operand, and a letter for each right operand in order: the dtype of the result,
'-' where PyTorch refuses, '.' where nothing was asked. promotion_test.cpp knows the names.
"""

import warnings

import torch

warnings.simplefilter("ignore")
dtypes = {
    "bool": torch.bool, "uint8": torch.uint8, "int8": torch.int8, "int32": torch.int32,
    "int64": torch.int64, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "float32": torch.float32, "float64": torch.float64,
}
operands = {}
for name, t in dtypes.items():
    operands[name + "[2]"] = lambda t=t: torch.ones(2, dtype=t)
    operands[name + "[]"] = lambda t=t: torch.ones((), dtype=t)
operands["true"] = lambda: True
operands["2"] = lambda: 2
operands["2.0"] = lambda: 2.0

two = {
    "result_type": torch.result_type,
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "/": lambda a, b: a / b, "//": lambda a, b: torch.floor_divide(a, b),
    "%": lambda a, b: torch.remainder(a, b), "pow": lambda a, b: torch.pow(a, b),
    "==": lambda a, b: a == b, "<": lambda a, b: a < b,
    "where": lambda a, b: torch.where(torch.tensor([True, False]), a, b),
    "maximum": torch.maximum, "atan2": torch.atan2,
    "clamp": lambda a, b: torch.clamp(a, 0, b),
    "masked_fill": lambda a, b: torch.masked_fill(a, torch.tensor([True, False]), b),
    "add_": lambda a, b: a.add_(b), "sub_": lambda a, b: a.sub_(b), "mul_": lambda a, b: a.mul_(b),
    "div_": lambda a, b: a.div_(b), "copy_": lambda a, b: a.copy_(b),
    "fill_": lambda a, b: a.fill_(b), "clamp_": lambda a, b: a.clamp_(0, b),
    "masked_fill_": lambda a, b: a.masked_fill_(torch.tensor([True, False]), b),
}
numbers_only = ("clamp", "masked_fill", "fill_", "clamp_", "masked_fill_")
tensors_only = ("maximum", "atan2", "copy_")
one = {
    "neg": torch.neg, "abs": torch.abs, "sign": torch.sign, "square": torch.square,
    "exp": torch.exp, "log1p": torch.log1p, "sqrt": torch.sqrt, "sin": torch.sin,
    "tanh": torch.tanh, "erf": torch.erf, "sigmoid": torch.sigmoid, "floor": torch.floor,
    "relu": torch.relu, "reciprocal": torch.reciprocal, "isnan": torch.isnan,
    "sum": torch.sum, "mean": torch.mean, "prod": torch.prod, "amax": torch.amax,
    "any": torch.any, "var": torch.var, "logsumexp": lambda x: torch.logsumexp(x, 0),
    "cumsum": lambda x: torch.cumsum(x, 0), "cumprod": lambda x: torch.cumprod(x, 0),
    "argmax": lambda x: torch.argmax(x, 0), "softmax": lambda x: torch.softmax(x, 0),
}


def outcome(f, *x):
    try:
        r = f(*x)
    except (RuntimeError, TypeError, ValueError, ZeroDivisionError, NotImplementedError):
        return "-"
    return letters[str(r if isinstance(r, torch.dtype) else r.dtype).removeprefix("torch.")]


letters = {"bool": "b", "uint8": "u", "int8": "c", "int16": "s", "int32": "i", "int64": "l",
           "float16": "h", "bfloat16": "g", "float32": "f", "float64": "d"}


print("// Result dtypes of PyTorch " + torch.__version__.split("+")[0]
      + ", written by promotion.py: operation, left operand,")
print("// a letter for each right operand.")
print("// clang-format off")
for op, f in two.items():
    for a in operands:
        row = ""
        for b in operands:
            number_a, number_b = not a.endswith("]"), not b.endswith("]")
            asked = not (
                (number_a and number_b)
                or (op.endswith("_") and (number_a or a.endswith("[]")))
                or (number_a and op in ("result_type", "//", "%", "clamp", "masked_fill"))
                or (op in numbers_only and not number_b)
                or (op in tensors_only and (number_a or number_b))
            )
            row += outcome(f, operands[a](), operands[b]()) if asked else "."
        if row.strip("."):
            print(f'{{"{op}", "{a}", "{row}"}},')
for op, f in one.items():
    row = "".join(outcome(f, operands[a + "[2]"]()) for a in dtypes)
    print(f'{{"{op}", "", "{row}"}},')
