#!/usr/bin/env python3
"""The public PyTorch forms of drop-ins as a peer of dropin bench --peer, as libtorch.cpp is for the standard members: same inputs, outputs compared before times are.

dropin bench LongformerAttention SigmoidAttention MixConv2d DeformConv2d --peer bench/peers/forms.py   (with a python3 on the path that has torch; src/cli/peer.cpp says what is asked)
"""
import json
import math
import pathlib
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as e:
    sys.exit(f"forms.py: this Python has no PyTorch ({e})")
from tensors import read, write


def heads(o, p, x, name):
    b, n, d = x.shape
    return F.linear(x, p[name + ".weight"], p.get(name + ".bias")).view(b, n, o["num_heads"], -1).transpose(1, 2)


def joined(p, y):
    b, h, n, d = y.shape
    return F.linear(y.transpose(1, 2).reshape(b, n, h * d), p["out_proj.weight"], p.get("out_proj.bias"))


def longformer(o, p, x):
    """Blocks of w queries against three blocks of w keys, the corners masked."""
    q, k, v = (heads(o, p, x, n) for n in ("q_proj", "k_proj", "v_proj"))
    b, h, n, d = q.shape
    w = o["window"]
    if n % w:
        raise NotImplementedError("the chunked form wants a length that the window divides")
    c = n // w

    def near(t):
        return F.pad(t, (0, 0, w, w)).unfold(2, 3 * w, w).transpose(-1, -2)

    s = torch.einsum("bhcid,bhcjd->bhcij", q.reshape(b, h, c, w, d), near(k)) / math.sqrt(d)
    i, j = torch.arange(w)[:, None], torch.arange(3 * w)[None, :]
    at = torch.arange(c)[:, None, None] * w + j - w
    s = s.masked_fill(((j - w - i).abs() > w) | (at < 0) | (at >= n), -math.inf).softmax(-1)
    return joined(p, torch.einsum("bhcij,bhcjd->bhcid", s, near(v)).reshape(b, h, n, d))


def sigmoid(o, p, x):
    q, k, v = (heads(o, p, x, n) for n in ("q_proj", "k_proj", "v_proj"))
    return joined(p, (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) - math.log(q.shape[2])).sigmoid() @ v)


def mixconv(o, p, x):
    sizes = o["kernel_size"] if isinstance(o["kernel_size"], list) else [o["kernel_size"]]
    weights = [p[f"{i}.weight"] for i in range(len(sizes))] if len(sizes) > 1 else [p["weight"]]
    biases = [p.get(f"{i}.bias") for i in range(len(sizes))] if len(sizes) > 1 else [p.get("bias")]
    parts = x.split([w.shape[0] for w in weights], 1)
    return torch.cat([F.conv2d(t, w, b, padding=w.shape[-1] // 2, groups=w.shape[0]) for t, w, b in zip(parts, weights, biases)], 1)


def deform(o, p, x):
    import torchvision

    n, _, h, w = x.shape
    return torchvision.ops.deform_conv2d(x, torch.zeros(n, 18, h, w), p["weight"], p.get("bias"), padding=1)


FORMS = {"LongformerAttention": longformer, "SigmoidAttention": sigmoid, "MixConv2d": mixconv, "DeformConv2d": deform}


def prepare(folder):
    case, given = json.loads(pathlib.Path(folder, "case.json").read_text()), read(folder + "/in.safetensors")
    f, both = FORMS.get(case["component"]), case["mode"] == "forward+backward"
    if f is None:
        raise NotImplementedError("no form of this component here")
    o, x = case["options"], given["x"].requires_grad_(both)
    p = {n[2:]: t.requires_grad_(both) for n, t in given.items() if n.startswith("p.")}

    def run():
        if not both:
            with torch.no_grad():
                return f(o, p, x)
        for t in (x, *p.values()):
            t.grad = None
        y = f(o, p, x)
        y.backward(given["gradient"])
        return y

    out = {"y": run()}
    if both:  # a parameter that this form does not use has the gradient 0
        out |= {"g." + n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in {"x": x, **p}.items()}
    write(folder + "/out.safetensors", out)
    return run


def main():
    call = None
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "threads":
                torch.set_num_threads(int(rest))
                answer = f"torch {torch.__version__} with {'MKL' if torch.backends.mkl.is_available() else 'another BLAS'}, {rest} threads"
            elif word == "prepare":
                call, answer = prepare(rest), "ready"
            else:
                start = time.perf_counter()
                for _ in range(int(rest)):
                    call()
                answer = repr((time.perf_counter() - start) / int(rest))
        except Exception as e:
            answer = "unsupported: " + str(e).split("\n")[0]
        print(answer, flush=True)


main()
