"""bench_foundation beside torch: python bench/peers/foundation.py build/release/bench/bench_foundation [--threads N] [--json F]"""
from peers import backward, forward, main  # first: it says in words when there is no torch

import torch
import torch.nn.functional as F


LAYERS, HEADS = 4, 4


def transformer(p, ids):
    """The model of the bench, by functions of the parameters with their names."""
    h = F.embedding(ids, p["tokens.weight"]) + p["positions"][: ids.shape[1]]
    b, n, d = h.shape
    for i in range(LAYERS):
        w = {k.removeprefix(f"block{i}."): t for k, t in p.items() if k.startswith(f"block{i}.")}
        part = lambda x, name: F.linear(x, w[name + ".weight"], w.get(name + ".bias"))
        x = F.layer_norm(h, (d,), w["norm1.weight"], w["norm1.bias"])
        q, k, v = (part(x, f"mixer.{c}_proj").view(b, n, HEADS, -1).transpose(1, 2) for c in "qkv")
        h = h + part(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, d), "mixer.out_proj")
        x = F.layer_norm(h, (d,), w["norm2.weight"], w["norm2.bias"])
        h = h + part(F.gelu(part(x, "ff.fc1")), "ff.fc2")
    return F.linear(F.layer_norm(h, (d,), p["norm.weight"], p["norm.bias"]), p["tokens.weight"])


def timed(f, *names):
    """f of those inputs, with the gradients of all."""

    def make(given):
        leaves = {n: given[n].requires_grad_() for n in names}
        return backward(lambda: f(*leaves.values()), leaves, given["g"])

    return make


def add(given):
    return forward(lambda: given["a"] + given["b"])


def add_sum_backward(given):
    a = given["a"].requires_grad_()
    return backward(lambda: (a + given["b"]).sum(), {"a": a}, given["g"])


def adamw(given):
    p = given["p"].clone().requires_grad_()
    p.grad = given["g"]
    o = torch.optim.AdamW([p], lr=1e-6, fused=True)
    o.step()
    return o.step, {"y": p.detach().clone()}


def step(given):
    p = {k[2:]: t.requires_grad_() for k, t in given.items() if k.startswith("p.")}
    loss = lambda: F.cross_entropy(transformer(p, given["ids"]).reshape(-1, 256), given["target"])
    y = loss()
    y.backward()
    o = torch.optim.AdamW(p.values(), lr=1e-4, fused=True)

    def run():
        o.zero_grad()
        loss().backward()
        o.step()

    return run, {"y": y.detach(), **{"g." + k: t.grad.clone() for k, t in p.items()}}


def rows():
    return [
        ("add 16 elements", "a + b", add),
        ("add, sum, backward 16 elements", "torch", add_sum_backward),
        *[(f"layer_norm [{n}, 1024]/forward+backward", "F.layer_norm", timed(lambda x, w, b: F.layer_norm(x, (1024,), w, b), "x", "w", "b")) for n in (512, 4096)],
        *[(f"softmax [{n}, 1024]/forward+backward", "F.softmax", timed(lambda x: F.softmax(x, -1), "x")) for n in (512, 4096)],
        ("linear 2048x256 to 1024/forward+backward/ours", "F.linear", timed(F.linear, "x", "w")),
        ("linear 512x1024 to 1024/forward+backward/ours", "F.linear", timed(F.linear, "x", "w")),
        ("AdamW step 16M parameters", "fused AdamW", adamw),
        ("Transformer step D 256, 4 layers, L 256, B 8", "the same model", step),
    ]


main(rows)
