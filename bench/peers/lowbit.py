"""bench_lowbit beside torch and bitsandbytes on the CPU: python bench/peers/lowbit.py build/release/bench/bench_lowbit [--threads N] [--only alone/AdamW] [--json F]"""
import subprocess
import sys
import tempfile

import numpy
import torch
import torch.nn.functional as F
from peers import Compared, main

N = 1 << 24  # parameters
FORMATS = {"MXFP8_E4M3": (3, 7, 8, 0x7E, 8), "MXFP4_E2M1": (1, 1, 2, 0x07, 4)}  # mantissa, bias, emax, largest code, width


def quantize_mx(x, name):
    """Codes and scales of blocks of 32, by whole-tensor operations."""
    mantissa, bias, emax, largest, width = FORMATS[name]
    b = x.view(-1, 32)
    m = b.abs().amax(1, keepdim=True)
    s = (torch.frexp(m).exponent - 1 - emax).clamp(-127, 127)
    scales = torch.where(m > 0, s + 127, 0).to(torch.uint8)
    v = torch.ldexp(b, -s)
    a = v.abs()
    e = (torch.frexp(a).exponent - 1).clamp(min=1 - bias)
    k = torch.round(torch.ldexp(a, mantissa - e)).to(torch.int32)
    codes = (((e + bias - 1) << mantissa) + k).clamp(max=largest) | (torch.signbit(v).to(torch.int32) << (width - 1))
    return codes.to(torch.uint8).view(x.shape), scales


def bit_linear(x, w, bias):
    """The fake-quantized forward of BitLinear b1.58 (RMSNorm, absmax, one group)."""
    h = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)
    t = h.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    q = torch.round(h * (127 / t)).clamp(-128, 127) * (t / 127)
    b = w.abs().mean().clamp(min=1e-5)
    return F.linear(q, torch.round(w / b).clamp(-1, 1) * b, bias)


def stepper(make, n=N):
    p = torch.nn.Parameter(torch.randn(n))
    p.grad = torch.randn(n)
    o = make([p])
    o.step()
    return o.step


def check(program, bnb):
    """Results first: what is not equal is not compared."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, "--dump", folder], check=True)
        load = lambda name: torch.from_numpy(numpy.load(f"{folder}/{name}.npy"))
        for name in FORMATS:
            codes, scales = quantize_mx(load("mx_x"), name)
            assert torch.equal(codes, load(name + "_codes")) and torch.equal(scales.flatten(), load(name + "_scales").flatten()), name

        def three(make, name):
            """Mean difference of parameters after three steps, over how far they moved."""
            p = torch.nn.Parameter(load("p").clone())
            p.grad = load("g").clone()
            o = make([p])
            for _ in range(3):
                o.step()
            d, moved = (p.detach() - load(name)).abs(), (load(name) - load("p")).abs().mean()
            print(f"  {name} after 3 steps: mean difference {d.mean() / moved:.1e} of the movement, {(d > 1e-5).float().mean():.2%} of parameters differ by more than 1e-5")
            return d.mean() / moved

        assert three(lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1e-2, fused=True), "AdamW") < 1e-5
        if bnb:  # its table of codes has no second look: some of the nearest codes are missed, those of small squares above all
            assert three(lambda p: bnb.optim.AdamW8bit(p, lr=1e-3, weight_decay=1e-2), "AdamW8bit") < 1e-2
            assert three(lambda p: bnb.optim.SGD8bit(p, lr=1e-3, momentum=0.9), "SGD8bit") < 1e-2
        d = (bit_linear(load("bit_x"), load("bit_weight"), load("bit_bias")) - load("bit_y")).abs().max().item()
        print(f"  BitLinear packed beside its fake-quantized form in torch: largest difference {d:.1e}")
        assert d < 1e-4


def all_rows():
    try:
        import bitsandbytes as bnb
        print("bitsandbytes", bnb.__version__)
    except ImportError:
        bnb = None
        print("no bitsandbytes: its rows are left out")
    check(sys.argv[1], bnb)
    x = torch.randn(1024, 4096)
    rows = [(f"alone/quantize_mx/{f}", "torch, whole-tensor operations", lambda f=f: quantize_mx(x, f)) for f in FORMATS]
    fused = lambda p: torch.optim.AdamW(p, lr=1e-6, fused=True)
    rows += [("alone/AdamW", "torch AdamW fused", stepper(fused)), ("alone/AdamW8bit", "torch AdamW fused", stepper(fused))]
    if bnb:
        rows += [("alone/AdamW8bit/1M", "bitsandbytes AdamW8bit", stepper(lambda p: bnb.optim.AdamW8bit(p, lr=1e-6), 1 << 20)),
                 ("alone/SGD8bit/1M", "bitsandbytes SGD8bit", stepper(lambda p: bnb.optim.SGD8bit(p, lr=1e-6, momentum=0.9), 1 << 20))]
    for m in (1, 512):
        layer, h = torch.nn.Linear(4096, 4096), torch.randn(m, 4096)

        def linear(layer=layer, h=h):
            with torch.no_grad():
                layer(h)

        rows.append((f"alone/BitLinear packed/{m}", "torch Linear", linear))
    return [(name, peer, Compared(f)) for name, peer, f in rows]


main(all_rows)
