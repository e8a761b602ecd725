"""bench_hyena beside the FFT convolution of the paper's code (fftconv_ref): python bench/peers/hyena.py build/release/bench/bench_hyena --threads 1 [--json F]

glibc hands freed memory back to the system again and again, which costs PyTorch's CPU tensors up to three times;
GLIBC_TUNABLES=glibc.malloc.trim_threshold=8589934592:glibc.malloc.mmap_threshold=4294967296 turns that off. Quote both.
"""
from peers import main  # first: it says in words when there is no torch

import torch

CHANNELS = 256


def fftconv(u, k, d):
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]] + u * d.unsqueeze(-1)


def fftconv_kept(u, kf, d):
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * kf, n=n)[..., : u.shape[-1]] + u * d.unsqueeze(-1)


def unrecorded(f):
    def run():
        with torch.no_grad():
            f()

    return run


def rows():
    all_rows = []
    for length in (1024, 8192, 65536):
        u = torch.randn(1, CHANNELS, length, requires_grad=True)
        k = torch.randn(CHANNELS, length, requires_grad=True)
        d, g = torch.randn(CHANNELS, requires_grad=True), torch.randn(1, CHANNELS, length)
        kf = torch.fft.rfft(k.detach(), n=2 * length)

        def train(u=u, k=k, d=d, g=g):
            fftconv(u, k, d).backward(g)
            u.grad = k.grad = d.grad = None

        all_rows.append((f"forward, filter kept/{length}", "rfft, filter kept", unrecorded(lambda u=u, kf=kf, d=d: fftconv_kept(u, kf, d))))
        all_rows.append((f"forward/{length}", "rfft", unrecorded(lambda u=u, k=k, d=d: fftconv(u, k, d))))
        all_rows.append((f"forward + backward/{length}", "rfft", train))
    return all_rows


main(rows)
