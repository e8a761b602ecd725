"""bench_vision beside torch and torchvision on the CPU: python bench/peers/vision.py build/release/bench/bench_vision [--threads N] [--only depthwise] [--json F]"""
from peers import backward, forward, main  # first: it says in words when there is no torch

import torch
import torch.nn.functional as F


C = 96  # channels of the depthwise rows


def timed(f, train, layout=torch.contiguous_format):
    """f(x, weights ...) of the leaves "0", "1", ... in that layout."""

    def make(given):
        leaves = {n: t.contiguous(memory_format=layout if t.dim() == 4 else torch.contiguous_format).requires_grad_(train) for n, t in given.items() if n.isdigit()}
        if not train:
            return forward(lambda: f(*leaves.values()))
        return backward(lambda: f(*leaves.values()), leaves, given["g"].contiguous(memory_format=layout))

    return make


def depthwise(k):
    return lambda x, w: F.conv2d(x, w, None, 1, k // 2, 1, C)


def mix(x, *weights):
    parts = torch.split(x, C // len(weights), 1)
    return torch.cat([F.conv2d(p, w, None, 1, w.shape[2] // 2, 1, C // len(weights)) for p, w in zip(parts, weights)], 1)


def nms(given):
    import torchvision

    return forward(lambda: torchvision.ops.nms(given["boxes"], given["scores"], 0.5))


def beside_fast_nms(given):
    """Not the same function: fast_nms keeps a subset of what nms keeps, and that is what is compared."""
    run, outputs = nms(given)
    return run, {"y": given["y"] if torch.isin(given["y"], outputs["y"]).all() else outputs["y"]}


def deform(x, offset, mask, w):
    import torchvision

    return torchvision.ops.deform_conv2d(x, offset, w, None, 1, 1, 1, mask)


def all_rows():
    rows, last = [], torch.channels_last  # ours, theirs, their function
    for k in (3, 5, 7, 9, 11):
        f = depthwise(k)
        rows += [(f"depthwise/{k}/forward", "torch channels_last", timed(f, False, last)), (f"depthwise/{k}/both", "torch channels_last", timed(f, True, last)),
                 (f"depthwise/{k}/channels_last/forward", "torch channels_last", timed(f, False, last)),
                 (f"depthwise/{k}/channels_last/both", "torch channels_last", timed(f, True, last)), (f"depthwise/{k}/both", "torch NCHW", timed(f, True))]
    rows += [("mixconv/forward", "torch split, conv, cat, channels_last", timed(mix, False, last)), ("mixconv/both", "torch split, conv, cat, channels_last", timed(mix, True, last)),
             ("mixconv/both", "torch split, conv, cat, NCHW", timed(mix, True))]
    try:
        import torchvision  # noqa: F401
    except ImportError:
        print("no torchvision: its rows are left out")
        return rows
    for n in (1000, 5000):
        for kind in ("spread", "crowded"):
            rows += [(f"nms/{n}/{kind}", "torchvision nms", nms), (f"nms/{n}/{kind}/fast_nms", "torchvision nms", beside_fast_nms)]
    return rows + [("deform/forward", "torchvision", timed(deform, False)), ("deform/both", "torchvision", timed(deform, True))]


main(all_rows)
