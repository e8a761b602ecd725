"""Times torch's and torchvision's CPU forms in turn with the rows of bench_vision: same shapes, same threads, the best of the rounds of each.

python bench/vision_peers.py path/to/bench_vision [--threads 2] [--rounds 3] [--only depthwise]
"""
import argparse, json, os, re, subprocess, time

import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("bench")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--only", default="")
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)


def ours(name):
    out = subprocess.run([args.bench, f"--benchmark_filter=^{re.escape(name)}/min_time", "--benchmark_format=json"], capture_output=True, text=True,
                         env=dict(os.environ, DROPIN_NUM_THREADS=str(args.threads)), check=True)
    rows = json.loads(out.stdout)["benchmarks"]
    assert len(rows) == 1, (name, rows)
    return rows[0]["real_time"]


def theirs(f):
    f()
    start, n = time.perf_counter(), 0
    while n < 3 or time.perf_counter() - start < 0.3:
        f()
        n += 1
    return (time.perf_counter() - start) / n * 1e6


def scene(n, objects):
    """The boxes and scores of bench/vision_bench.cpp."""
    state = 12345

    def uniform():
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 40) / 16777216.0

    centres = [(60 + 430 * uniform(), 60 + 430 * uniform(), 40 + 120 * uniform()) for _ in range(objects)]
    boxes = []
    for i in range(n):
        if objects:
            cx, cy, s = centres[i % objects]
            x, y = cx + s * 0.4 * (uniform() - 0.5), cy + s * 0.4 * (uniform() - 0.5)
            w, h = s * (0.7 + 0.6 * uniform()), s * (0.7 + 0.6 * uniform())
        else:
            x, y = 550 * uniform(), 550 * uniform()
            w, h = 10 + 60 * uniform(), 10 + 60 * uniform()
        boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(boxes), torch.tensor([0.06 + 0.94 * uniform() for _ in range(n)])


def forward(f):
    def g():
        with torch.no_grad():
            f()
    return g


def both(f, leaves, grad):
    def g():
        f().backward(grad)
        for t in leaves:
            t.grad = None
    return g


rows = []  # ours, theirs, their function
B, C, S = 8, 96, 56
x = torch.randn(B, C, S, S).contiguous(memory_format=torch.channels_last).requires_grad_()
g = torch.randn(B, C, S, S).contiguous(memory_format=torch.channels_last)
plain_x, plain_g = x.detach().contiguous().requires_grad_(), g.contiguous()
for k in (3, 5, 7, 9, 11):
    w = torch.randn(C, 1, k, k).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain_w = w.detach().contiguous().requires_grad_()
    f = lambda w=w, k=k: F.conv2d(x, w, None, 1, k // 2, 1, C)
    p = lambda w=plain_w, k=k: F.conv2d(plain_x, w, None, 1, k // 2, 1, C)
    rows += [(f"depthwise/{k}/forward", "torch channels_last", forward(f)), (f"depthwise/{k}/both", "torch channels_last", both(f, [x, w], g)),
             (f"depthwise/{k}/channels_last/forward", "torch channels_last", forward(f)), (f"depthwise/{k}/channels_last/both", "torch channels_last", both(f, [x, w], g)),
             (f"depthwise/{k}/both", "torch NCHW", both(p, [plain_x, plain_w], plain_g))]
ws = [torch.randn(C // 4, 1, k, k).contiguous(memory_format=torch.channels_last).requires_grad_() for k in (3, 5, 7, 9)]
mix = lambda: torch.cat([F.conv2d(p, w, None, 1, w.shape[2] // 2, 1, C // 4) for p, w in zip(torch.split(x, C // 4, 1), ws)], 1)
ps = [w.detach().contiguous().requires_grad_() for w in ws]
plain_mix = lambda: torch.cat([F.conv2d(p, w, None, 1, w.shape[2] // 2, 1, C // 4) for p, w in zip(torch.split(plain_x, C // 4, 1), ps)], 1)
rows += [("mixconv/forward", "torch split, conv, cat, channels_last", forward(mix)), ("mixconv/both", "torch split, conv, cat, channels_last", both(mix, [x] + ws, g)),
         ("mixconv/both", "torch split, conv, cat, NCHW", both(plain_mix, [plain_x] + ps, plain_g))]
try:
    import torchvision
    for n in (1000, 5000):
        for objects, kind in ((0, "spread"), (12, "crowded")):
            boxes, scores = scene(n, objects)
            nms = lambda b=boxes, s=scores: torchvision.ops.nms(b, s, 0.5)
            rows += [(f"nms/{n}/{kind}", "torchvision nms", nms), (f"nms/{n}/{kind}/fast_nms", "torchvision nms", nms)]
    N, O = 4, 64
    z = torch.randn(N, O, S, S, requires_grad=True)
    offset, mask, w = (torch.randn(N, 18, S, S) * 2).requires_grad_(), torch.rand(N, 9, S, S, requires_grad=True), torch.randn(O, O, 3, 3, requires_grad=True)
    gz = torch.randn(N, O, S, S)
    deform = lambda: torchvision.ops.deform_conv2d(z, offset, w, None, 1, 1, 1, mask)
    rows += [("deform/forward", "torchvision", forward(deform)), ("deform/both", "torchvision", both(deform, [z, offset, mask, w], gz))]
except ImportError:
    print("no torchvision: its rows are left out")

print(f"torch {torch.__version__}, {args.threads} threads, microseconds, best of {args.rounds} rounds in turn")
for name, label, f in rows:
    if args.only not in name:
        continue
    a, b = zip(*[(ours(name), theirs(f)) for _ in range(args.rounds)])
    print(f"{name:40} {min(a):10.0f}   {label:40} {min(b):10.0f}   {min(b) / min(a):6.2f}x", flush=True)
