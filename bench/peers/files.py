"""Loading beside the safetensors package, and GGUF's blocks beside the gguf package, in turn.

python bench/peers/files.py build/release/bench/bench_files [--gigabytes 1] [--rounds 5]
In an environment with numpy, safetensors (torch, if it is there, for its load_file) and gguf==0.19.0.
"""
import argparse, os, re, statistics, subprocess, tempfile, time

import numpy as np


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("--gigabytes", type=float, default=1)
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    from safetensors.numpy import save_file

    try:
        from safetensors.torch import load_file
        library = "safetensors.torch"
    except ImportError:
        from safetensors.numpy import load_file
        library = "safetensors.numpy"
    copied = (lambda t: t.clone()) if library.endswith("torch") else (lambda t: t.copy())
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        path = os.path.join(folder, "m.safetensors")
        rows = int(a.gigabytes * 1e9 / 4 / 4096 / 64)
        save_file({f"layer.{i}.weight": np.full((rows, 4096), i, np.float32) for i in range(64)}, path)
        size = os.path.getsize(path)
        ratios = []
        for _ in range(a.rounds):
            out = subprocess.run([a.program, path, "--rounds", "3"], check=True, capture_output=True, text=True).stdout
            lines = [[float(x) for x in re.findall(r"[\d.]+", line)] for line in out.splitlines()]
            ours, of_read = max(line[1] for line in lines), statistics.median(line[3] for line in lines)
            best = 0
            for _ in range(3):
                begin = time.perf_counter()
                # load_file only maps the file: its values are read when they are touched.
                tensors = {k: copied(t) for k, t in load_file(path).items()}
                best = max(best, size / (time.perf_counter() - begin) / 1e9)
                del tensors
            ratios.append(ours / best)
            print(f"ours {ours:.2f} GB/s ({of_read:.2f} of a read), {library} {best:.2f} GB/s (values copied into memory)")
        print(f"load_safetensors: {statistics.median(ratios):.2f}x {library} ({min(ratios):.2f} to {max(ratios):.2f})")
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        return
    out = subprocess.run([a.program, "--blocks"], check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        name, rate = line.split()
        kind = getattr(GGMLQuantizationType, name)
        block, size = __import__("gguf").GGML_QUANT_SIZES[kind]
        n = (16 << 20) // block
        raw = (np.arange(n * size) * 37 & 63).astype(np.uint8).reshape(n, size)
        best = 1e9
        for _ in range(2):
            begin = time.perf_counter()
            quants.dequantize(raw, kind)
            best = min(best, time.perf_counter() - begin)
        theirs = (16 << 20) / best / 1e9
        print(f"{name}: ours {float(rate):.2f} G values/s, gguf {theirs:.3f}, {float(rate) / theirs:.0f}x")


main()
