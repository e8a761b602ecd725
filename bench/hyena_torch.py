"""The FFT convolution of the paper's code (fftconv_ref) in PyTorch, at the sizes of hyena_bench.cpp: milliseconds, the least of several runs.

python bench/hyena_torch.py [threads]. glibc returns freed memory to the system again and again, which costs PyTorch's CPU tensors up to three times;
GLIBC_TUNABLES=glibc.malloc.trim_threshold=8589934592:glibc.malloc.mmap_threshold=4294967296 turns that off. Quote both.
"""
import sys
import time

import torch

CHANNELS = 256


def fftconv(u, k, d):
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]] + u * d.unsqueeze(-1)


def fftconv_kept(u, kf, d):
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * kf, n=n)[..., : u.shape[-1]] + u * d.unsqueeze(-1)


def least(f, runs):
    f()
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def main():
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), FFT: {'MKL' if torch.backends.mkl.is_available() else 'pocketfft'}")
    for length, runs in ((1024, 40), (8192, 8), (65536, 3)):
        u = torch.randn(1, CHANNELS, length, requires_grad=True)
        k = torch.randn(CHANNELS, length, requires_grad=True)
        d = torch.randn(CHANNELS, requires_grad=True)
        g = torch.randn(1, CHANNELS, length)

        def train():
            fftconv(u, k, d).backward(g)
            u.grad = k.grad = d.grad = None

        with torch.no_grad():
            kf = torch.fft.rfft(k, n=2 * length)
            kept, forward = least(lambda: fftconv_kept(u, kf, d), runs), least(lambda: fftconv(u, k, d), runs)
        print(f"L {length:6d}  forward, filter kept {kept:8.2f}  forward {forward:8.2f}  forward + backward {least(train, runs):8.2f}", flush=True)


if __name__ == "__main__":
    main()
