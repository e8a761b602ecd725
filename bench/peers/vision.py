"""bench_vision beside torch and torchvision on the CPU: python bench/peers/vision.py build/release/bench/bench_vision [--threads N] [--only depthwise] [--json F]"""
from peers import main  # first: it says in words when there is no torch

import torch
import torch.nn.functional as F


def scene(n, objects):
    """The boxes and scores of box_scene (dropin/data/tasks.h)."""
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


def all_rows():
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
    return rows


main(all_rows)
