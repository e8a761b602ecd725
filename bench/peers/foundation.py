"""bench_foundation beside torch: python bench/peers/foundation.py build/release/bench/bench_foundation [--threads N] [--json F]"""
from peers import main  # first: it says in words when there is no torch

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out, self.fc1, self.fc2 = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(256, 256)
        self.positions = nn.Parameter(torch.randn(256, 256) * 0.02)
        self.blocks = nn.ModuleList(Block(256, 4) for _ in range(4))
        self.norm = nn.LayerNorm(256)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, ids):
        h = self.tokens(ids) + self.positions
        for b in self.blocks:
            h = b(h)
        return F.linear(self.norm(h), self.tokens.weight)


def add():
    a, b = torch.randn(16), torch.randn(16)
    return lambda: a + b


def add_sum_backward():
    a, b = torch.randn(16, requires_grad=True), torch.randn(16)

    def f():
        a.grad = None
        (a + b).sum().backward()

    return f


def rows_of(f, inputs):
    g = torch.randn_like(inputs[0])

    def run():
        for x in inputs:
            x.grad = None
        f(*inputs).backward(g)

    return run


def linear(m, n, k):
    x, w, g = torch.randn(m, k, requires_grad=True), torch.randn(n, k, requires_grad=True), torch.randn(m, n)

    def run():
        x.grad = w.grad = None
        F.linear(x, w).backward(g)

    return run


def adamw():
    p = torch.randn(1 << 24, requires_grad=True)
    p.grad = torch.randn(1 << 24)
    return torch.optim.AdamW([p], lr=1e-6, fused=True).step


def step():
    m = Transformer()
    o = torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True)
    ids, target = torch.randint(0, 256, (8, 256)), torch.randint(0, 256, (8 * 256,))

    def run():
        o.zero_grad()
        F.cross_entropy(m(ids).reshape(-1, 256), target).backward()
        o.step()

    return run


def rows():
    w, b = torch.ones(1024, requires_grad=True), torch.zeros(1024, requires_grad=True)
    return [
        ("add 16 elements", "a + b", add()),
        ("add, sum, backward 16 elements", "torch", add_sum_backward()),
        *[(f"layer_norm [{n}, 1024]/forward+backward", "F.layer_norm", rows_of(lambda x, w, b: F.layer_norm(x, (1024,), w, b), [torch.randn(n, 1024, requires_grad=True), w, b]))
          for n in (512, 4096)],
        *[(f"softmax [{n}, 1024]/forward+backward", "F.softmax", rows_of(lambda x: F.softmax(x, -1), [torch.randn(n, 1024, requires_grad=True)])) for n in (512, 4096)],
        ("linear 2048x256 to 1024/forward+backward/ours", "F.linear", linear(2048, 1024, 256)),
        ("linear 512x1024 to 1024/forward+backward/ours", "F.linear", linear(512, 1024, 1024)),
        ("AdamW step 16M parameters", "fused AdamW", adamw()),
        ("Transformer step D 256, 4 layers, L 256, B 8", "the same model", step()),
    ]


main(rows)
