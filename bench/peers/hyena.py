"""bench_hyena beside the FFT convolution of the paper's code (fftconv_ref): python bench/peers/hyena.py build/release/bench/bench_hyena --threads 1 [--json F]

glibc hands freed memory back to the system again and again, which costs PyTorch's CPU tensors up to three times;
GLIBC_TUNABLES=glibc.malloc.trim_threshold=8589934592:glibc.malloc.mmap_threshold=4294967296 turns that off. Quote both.
"""
from peers import backward, forward, main  # first: it says in words when there is no torch

import torch


def fftconv(u, k, d):
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]] + u * d.unsqueeze(-1)


def fftconv_kept(u, kf, d):
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * kf, n=n)[..., : u.shape[-1]] + u * d.unsqueeze(-1)


def kept(given):
    kf = torch.fft.rfft(given["k"], n=2 * given["u"].shape[-1])
    return forward(lambda: fftconv_kept(given["u"], kf, given["d"]))


def plain(given):
    return forward(lambda: fftconv(given["u"], given["k"], given["d"]))


def train(given):
    leaves = {n: given[n].requires_grad_() for n in "ukd"}
    return backward(lambda: fftconv(*leaves.values()), leaves, given["g"])


def rows():
    return [row for length in (1024, 8192, 65536) for row in ((f"forward, filter kept/{length}", "rfft, filter kept", kept), (f"forward/{length}", "rfft", plain),
                                                              (f"forward + backward/{length}", "rfft", train))]


main(rows)
