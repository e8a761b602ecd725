"""bench_scans beside torch: python bench/peers/scans.py build/release/bench/bench_scans [--threads N] [--json F]"""
import math

from peers import Compared, backward, forward, main  # first: it says in words when there is no torch

import torch
import torch.nn.functional as F


def ssd(x, dt, A, B, C, D, chunk=256):
    """The chunked form in torch (Dao & Gu 2024, listing 1), decays by a segment sum."""
    b, length, h, p = x.shape
    n, c = B.shape[-1], length // chunk

    def segments(a):
        t = a.shape[-1]
        s = a[..., None].repeat(*([1] * a.dim()), t).masked_fill(~torch.ones(t, t).tril(-1).bool(), 0).cumsum(-2)
        return s.masked_fill(~torch.ones(t, t).tril().bool(), -math.inf)

    u = (x * dt[..., None]).reshape(b, c, chunk, h, p)
    a = (A * dt).reshape(b, c, chunk, h).permute(0, 3, 1, 2)
    B, C = (t.expand(b, length, h, n).reshape(b, c, chunk, h, n) for t in (B, C))
    s = a.cumsum(-1)
    near = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, segments(a).exp(), u)
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, (s[..., -1:] - s).exp(), u)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], 1)
    between = segments(F.pad(s[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    far = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, s.exp())
    return (near + far).reshape(b, length, h, p) + x * D[:, None]


def scan(train):
    names = ("x", "dt", "A", "B", "C", "D")

    def make(given):
        leaves = {n: given[n].requires_grad_(train) for n in names}
        f = lambda: ssd(*(given[n] for n in names))
        return backward(f, leaves, given["g"]) if train else forward(f)

    return make


def leaves_of(given):
    return {n: given[n].requires_grad_() for n in given if "g." + n in given}


def mamba2(given):
    """The torch path of transformers' Mamba-2 block, with our weights."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(hidden_size=256, num_heads=8, head_dim=64, state_size=64, n_groups=1, expand=2, conv_kernel=4, chunk_size=256, use_bias=False, use_conv_bias=True)
    block = Mamba2Mixer(config, layer_idx=0)
    leaves = leaves_of(given)
    with torch.no_grad():
        for name, p in block.named_parameters():
            p.copy_(given[name])
    named = dict(block.named_parameters())
    return backward(lambda: block(given["x"]), {"x": given["x"], **{n: named[n] for n in leaves if n != "x"}}, given["g"])


def attention(given):
    leaves = leaves_of(given)

    def f():
        q, k, v = (F.linear(given["x"], given[n + "_proj.weight"], given[n + "_proj.bias"]).unflatten(-1, (4, -1)).transpose(1, 2) for n in "qkv")
        return F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2), given["out_proj.weight"], given["out_proj.bias"])

    return backward(f, leaves, given["g"])


def gru():
    """torch's GRU of FFM's state, on numbers of its own: another function, timed only."""
    layer, x = torch.nn.GRU(128, 256, batch_first=True), torch.randn(8, 1024, 128, requires_grad=True)
    g = torch.randn(8, 1024, 256)
    f, _ = backward(lambda: layer(x)[0], {"x": x, **dict(layer.named_parameters())}, g)
    return Compared(f)


def she(given):
    """Every lag's matrix, a sum of shifted products: the form without FFT."""
    leaves = leaves_of(given)

    def f():
        x, w = given["x"], given["ext_weight"]
        length, d = x.shape[1], x.shape[2]
        y = F.conv1d(F.pad(x.transpose(1, 2), (length - 1, 0)), w.flip(0).permute(2, 1, 0)).transpose(1, 2) + given["ext_bias"]
        return y * F.linear(x, given["adj_proj.weight"], given["adj_proj.bias"])

    return backward(f, leaves, given["g"])


def rows():
    return [
        ("ssd_scan L:4096/forward", "chunked form in torch", scan(False)),
        ("ssd_scan L:4096/forward+backward", "chunked form in torch", scan(True)),
        ("Mamba2 L:4096/forward+backward", "transformers' torch path", mamba2),
        ("dense L:1024/forward+backward", "torch SDPA", attention),
        ("she L:1024/forward+backward", "direct torch form", she),
        ("FFM T:1024/forward+backward", "torch GRU of 256", gru()),
    ]


if __name__ == "__main__":
    main(rows)
