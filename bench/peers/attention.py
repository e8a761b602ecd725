"""bench_attention beside torch: python bench/peers/attention.py build/release/bench/bench_attention [--threads N] [--json F]"""
import math

from peers import backward, forward, main  # first: it says in words when there is no torch

import torch
import torch.nn.functional as F

def timed(f, train):
    def make(given):
        q, k, v = (given[n].requires_grad_(train) for n in ("q", "k", "v"))
        return backward(lambda: f(q, k, v), {"q": q, "k": k, "v": v}, given["g"]) if train else forward(lambda: f(q, k, v))

    return make


def window(w):
    """The public chunked form: blocks of w queries against three blocks of w keys, the corners masked."""

    def f(q, k, v):
        b, h, n, d = q.shape
        c = n // w

        def near(x):  # [b, h, c, 3w, d]
            x = F.pad(x, (0, 0, w, w))
            return x.unfold(2, 3 * w, w).transpose(-1, -2)

        s = torch.einsum("bhcid,bhcjd->bhcij", q.reshape(b, h, c, w, d), near(k)) / math.sqrt(d)
        i, j = torch.arange(w)[:, None], torch.arange(3 * w)[None, :]
        at = torch.arange(c)[:, None, None] * w + j - w
        hidden = ((j - w - i).abs() > w) | (at < 0) | (at >= n)
        p = s.masked_fill(hidden, -math.inf).softmax(-1)
        return torch.einsum("bhcij,bhcjd->bhcid", p, near(v)).reshape(b, h, n, d)

    return f


def dilated(segments, ratios):
    """Gather, SDPA, scatter, and a mixture by log-sum-exp, pattern by pattern."""

    def f(q, k, v):
        b, h, n, d = q.shape
        outs, lses = [], []
        for w, r in zip(segments, ratios):
            w = min(w, n)
            group = (h + r - 1) // r
            u = torch.arange(w // r) * r
            index = (torch.arange(n // w)[None, :, None] * w + u[None, None, :] + (torch.arange(h) // group)[:, None, None]).reshape(1, h, -1, 1).expand(b, h, -1, d)
            qs, ks, vs = (x.gather(2, index).reshape(b, h * (n // w), w // r, d) for x in (q, k, v))
            o = F.scaled_dot_product_attention(qs, ks, vs)
            with torch.no_grad():
                lse = torch.logsumexp(qs @ ks.transpose(-1, -2) / math.sqrt(d), -1)
            outs.append(torch.zeros_like(q).scatter(2, index, o.reshape(b, h, -1, d)))
            lses.append(torch.full((b, h, n), -math.inf).scatter(2, index[..., 0], lse.reshape(b, h, -1)))
        alpha = torch.stack(lses).softmax(0)
        return sum(a[..., None] * o for a, o in zip(alpha, outs))

    return f


def latent_cumsum(q, k, v):
    """Causal latent attention by cumulative sums of T x N x D products."""
    p, e = q.softmax(-1), (k - k.amax(2, keepdim=True)).exp()
    u = (e[..., None] * v[..., None, :]).cumsum(2) / e.cumsum(2)[..., None]
    return (p[..., None] * u).sum(-2)


def all_rows():
    rows = []
    for length in (1024, 4096):
        for train in (False, True):
            tail = ("/forward+backward" if train else "/forward") + f"/L:{length}"
            rows.append(("dense" + tail, "SDPA", timed(F.scaled_dot_product_attention, train)))
            rows.append(("causal" + tail, "SDPA", timed(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), train)))
    for train in (False, True):
        tail = "/forward+backward" if train else "/forward"
        rows.append((f"window w:256{tail}/L:4096", "chunks of w", timed(window(256), train)))
        rows.append((f"dilated{tail}/L:4096", "gather, SDPA, scatter", timed(dilated([256, 512, 1024, 2048], [1, 2, 4, 8]), train)))
        rows.append((f"latent causal{tail}/L:1024", "cumsum", timed(latent_cumsum, train)))
    return rows


main(all_rows)
