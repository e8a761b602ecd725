"""bench_mixers beside torch: python bench/peers/mixers.py build/release/bench/bench_mixers [--threads N] [--json F]"""
import math

from peers import Compared, backward, forward, main  # first: it says in words when there is no torch

import torch
import torch.nn.functional as F


def layer(core, heads, train=True, seen=lambda x: x):
    """Projections around core(q, k, v, given), heads [B, H, L, e], keys of seen(x); leaves are x and all parameters that ours gave a gradient."""

    def make(given):
        leaves = {n: given[n].requires_grad_(train) for n in given if not n.startswith("g") and ("g." + n in given or not train) and n != "y"}

        def project(name, x):
            return F.linear(x, given[name + "_proj.weight"], given.get(name + "_proj.bias"))

        def split(x):
            return x.unflatten(-1, (heads, -1)).transpose(-2, -3)

        def f():
            x = given["x"]
            o = core(split(project("q", x)), split(project("k", seen(x))), split(project("v", seen(x))), given)
            return project("out", o.transpose(-2, -3).flatten(-2))

        return backward(f, leaves, given["g"]) if train else forward(f)

    return make


def lookhere_bias(groups, side):
    """[12, side^2, side^2] of the groups that the rows have."""
    at = torch.arange(side * side)
    y, x = at // side, at % side
    dy, dx = y[None] - y[:, None], x[None] - x[:, None]
    far = (dx**2 + dy**2).float().sqrt()
    up, down, left, right = dx.abs() <= -dy, dx.abs() <= dy, dy.abs() <= -dx, dy.abs() <= dx
    first = [up & (dx <= 0), down & (dx <= 0), left & (dy <= 0), right & (dy <= 0)]
    second = [up & (dx >= 0), down & (dx >= 0), left & (dy >= 0), right & (dy >= 0)]
    rows = []
    if groups == "eighths1":
        for i in range(12):
            rows.append(torch.where(first[i % 4], -far * 0.5 ** (1 + i // 4), -math.inf))
    else:
        rows += [torch.where(v, -far / 2, -math.inf) for v in first + second]
        rows += [-far * 0.25 ** (1 + i) for i in range(4)]
    return torch.stack(rows)[None]


def lookhere(groups):
    bias = []

    def core(q, k, v, given):
        if not bias:
            bias.append(lookhere_bias(groups, 64))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[0])

    return core


def hugging_face(keys):
    """BERT's relative_key and relative_key_query: an embedding for each pair, and einsum."""

    def core(q, k, v, given):
        n, table = q.shape[2], given["distance_embedding.weight"]
        i = torch.arange(n)
        a = F.embedding(i[:, None] - i[None, :] + (table.shape[0] + 1) // 2 - 1, table)
        s = q @ k.transpose(-1, -2) + torch.einsum("bhld,lrd->bhlr", q, a)
        if keys:
            s = s + torch.einsum("bhrd,lrd->bhlr", k, a)
        return (s / math.sqrt(q.shape[-1])).softmax(-1) @ v

    return core


def expanded(q, k, v, given):
    """Every frame gets a copy of the first frame's keys and values, as in the official code."""
    first = lambda t: t.expand(q.shape).flatten(0, 1)
    return F.scaled_dot_product_attention(q.flatten(0, 1), first(k), first(v)).unflatten(0, q.shape[:2])


def dcmh(rank, chunk=128):
    """The official training form: chunks of queries, the heads mixed by einsum."""

    def core(q, k, v, given):
        x, h, length = given["x"], q.shape[1], q.shape[2]
        hidden = F.gelu(torch.einsum("bld,dck->blck", x, given["dyn_w_proj.dw1"][:, 0]))
        w = torch.einsum("blck,ckrh->blcrh", hidden, given["dyn_w_proj.qkw"][0])
        w1, w2 = w[..., :rank, :], w[..., rank:, :]
        w1 = w1 * (w1.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        g = torch.tanh(x @ given["dyn_w_proj.dd"][:, 0]).unflatten(-1, (4, h))

        def compose(a, at, c, end):
            y = a
            for i, s, e in ((c, at, at + a.shape[2]), (c + 1, 0, end)):
                query = i == c
                into, out, by = ("bhts,btrh->brts", "brts,btrh->bhts", "bth->bht") if query else ("bhts,bsrh->brts", "brts,bsrh->bhts", "bsh->bhs")
                y = y + torch.einsum(out, torch.einsum(into, a, w1[:, s:e, i]), w2[:, s:e, i])
                diagonal = torch.einsum(by, g[:, s:e, i])
                y = y + a * (diagonal[..., None] if query else diagonal[:, :, None])
            return y

        out = []
        for at in range(0, length, chunk):
            end = at + chunk
            s = (q[:, :, at:end] / math.sqrt(q.shape[-1])) @ k[:, :, :end].transpose(-1, -2)
            hide = torch.arange(end)[None] > torch.arange(at, end)[:, None]
            p = compose(s, at, 0, end).masked_fill(hide, -math.inf).softmax(-1)
            out.append(compose(p, at, 2, end) @ v[:, :, :end])
        return torch.cat(out, 2)

    return core


def combiner(q, k, v, given):
    """The official form of variant fixed: rows, maxima over them, one softmax over both kinds of keys."""
    b, h, length, e = q.shape
    s = math.isqrt(length)
    n = length // s
    q, k, v = (t.reshape(b, h, n, s, e) for t in (q / math.sqrt(e), k, v))
    pooled_q, pooled_k = q.amax(3), k.amax(3)
    p = torch.einsum("bhne,bhnse->bhns", pooled_q, k).softmax(-1)
    pooled_v = torch.einsum("bhns,bhnse->bhne", p, v)
    own = torch.einsum("bhnie,bhnje->bhnij", q, k).masked_fill(torch.ones(s, s).triu(1).bool(), -math.inf)
    far = torch.einsum("bhnie,bhme->bhnim", q, pooled_k).masked_fill(torch.ones(n, n).triu(0).bool()[:, None], -math.inf)
    w = torch.cat([own, far], -1).softmax(-1)
    y = torch.einsum("bhnij,bhnje->bhnie", w[..., :s], v) + torch.einsum("bhnim,bhme->bhnie", w[..., s:], pooled_v)
    return y.reshape(b, h, length, e)


def performer(q, k, v, given):
    """The low-rank part alone."""
    p, tau = given["projection_matrix"], 1 / math.sqrt(q.shape[-1])

    def features(x):
        u = math.sqrt(tau) * x @ p.T
        return (torch.cat([u, -u], -1) - tau * x.square().sum(-1, keepdim=True) / 2).exp()

    a, b = features(q), features(k)
    return (a @ (b.transpose(-1, -2) @ v)) / (a @ b.sum(2)[..., None])


def local(w):
    """The official form: exact in blocks of w against three, less their share of the low-rank part."""

    def core(q, k, v, given):
        p, tau = given["projection_matrix"], 1 / math.sqrt(q.shape[-1])
        b, h, n, e = q.shape
        c = n // w

        def log_features(x):
            u = math.sqrt(tau) * x @ p.T
            return torch.cat([u, -u], -1) - tau * x.square().sum(-1, keepdim=True) / 2 - math.log(2 * p.shape[0]) / 2

        lq, lk = log_features(q), log_features(k)
        sq, sk = lq.amax(-1, keepdim=True).detach(), lk.amax((-1, -2), keepdim=True).detach()
        fq, fk, values = (lq - sq).exp(), (lk - sk).exp(), torch.cat([v, torch.ones(b, h, n, 1)], -1)
        near = lambda x: F.pad(x, (0, 0, w, w)).unfold(2, 3 * w, w).transpose(-1, -2)
        rows = lambda x: x.reshape(b, h, c, w, -1)
        i, j = torch.arange(w)[:, None], torch.arange(3 * w)[None] - w
        at = torch.arange(c)[:, None, None] * w + j
        hidden = (j < i - w // 2) | (j >= i + (w + 1) // 2) | (at < 0) | (at >= n)
        s = torch.einsum("bhcid,bhcjd->bhcij", rows(q * tau), near(k)).masked_fill(hidden, -math.inf)
        top = torch.maximum(s.amax(-1, keepdim=True), rows(sq + sk)).detach()
        by = (rows(sq + sk) - top).exp()
        share = (torch.einsum("bhcid,bhcjd->bhcij", rows(fq), near(fk)) * by).masked_fill(hidden, 0)
        z = rows(fq @ (fk.transpose(-1, -2) @ values)) * by + ((s - top).exp() - share) @ near(values)
        z = z.reshape(b, h, n, -1)
        return z[..., :e] / z[..., e:].clamp(min=1e-24)

    return core


def lsh(q, k, v, given):
    """A Reformer of the same budget: rounds of sorted clusters of 32, merged by log-sum-exp."""
    b, h, n, e = q.shape
    outs, lses = [], []
    for t in range(given["lsh_alpha"].shape[1]):
        a = given["lsh_alpha"][:e, t]
        iq, ik = (q @ a).argsort(-1), (k @ a).argsort(-1)
        take = lambda x, i: x.gather(2, i[..., None].expand(-1, -1, -1, e)).reshape(b, h, n // 32, 32, e)
        s = torch.einsum("bhcid,bhcjd->bhcij", take(q, iq), take(k, ik)) / math.sqrt(e)
        lse = s.logsumexp(-1, keepdim=True)
        back = iq.argsort(-1)
        outs.append(((s - lse).exp() @ take(v, ik)).reshape(b, h, n, e).gather(2, back[..., None].expand(-1, -1, -1, e)))
        lses.append(lse.reshape(b, h, n).gather(2, back))
    share = torch.stack(lses).softmax(0)
    return sum(w[..., None] * o for w, o in zip(share, outs))


def other(core):
    """A peer that computes something else: timed without a comparison, on numbers of its own."""
    given = {"x": torch.randn(8, 4096, 64), "g": torch.randn(8, 4096, 64)}
    for name in ("q", "k", "v", "out"):
        given[name + "_proj.weight"], given[name + "_proj.bias"] = torch.randn(64, 64) / 8, torch.zeros(64)
    given |= {"g." + n: t for n, t in given.items() if n != "g"}
    given |= {"projection_matrix": torch.randn(133, 64), "lsh_alpha": torch.randn(66, 2)}
    return Compared(layer(core, 1)(given)[0])


def rows():
    tail = "/forward+backward"
    sdpa = lambda **o: lambda q, k, v, given: F.scaled_dot_product_attention(q, k, v, **o)
    return [
        ("LookHere eighths1-eighths2-none 64x64" + tail, "SDPA with the dense mask", layer(lookhere("eighths1-eighths2-none"), 12)),
        ("LookHere eighths1 64x64" + tail, "SDPA with the dense mask", layer(lookhere("eighths1"), 12)),
        ("dense of LookHere" + tail, "SDPA", layer(sdpa(), 12)),
        ("relative m4 L:1024" + tail, "Hugging Face's einsum", layer(hugging_face(True), 1)),
        ("relative shaw L:1024" + tail, "Hugging Face's einsum", layer(hugging_face(False), 1)),
        ("all to first F:14 N:1024/forward", "SDPA on expanded keys", layer(expanded, 5, False, lambda x: x[:, :1])),
        ("all to first F:14 N:1024" + tail, "SDPA on expanded keys", layer(expanded, 5, True, lambda x: x[:, :1])),
        ("DCMHA H:16 L:2048" + tail, "official, chunks of queries", layer(dcmh(2), 16)),
        ("dense of DCMHA" + tail, "SDPA", layer(sdpa(is_causal=True), 16)),
        ("Combiner fixed L:4096" + tail, "official einsum", layer(combiner, 1)),
        ("Scatterbrain local L:4096" + tail, "official, blocks", layer(local(64), 1)),
        ("Scatterbrain local L:4096" + tail, "Performer (another function)", other(performer)),
        ("Scatterbrain lsh L:4096" + tail, "Reformer (another function)", other(lsh)),
        ("dense of Combiner" + tail, "SDPA", layer(sdpa(is_causal=True), 1)),
    ]


if __name__ == "__main__":
    main(rows)
