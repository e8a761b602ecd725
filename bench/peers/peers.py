"""Times a dropin benchmark against a peer in Python: each in a process of its own, in turn (A B B A ...), on the same number of threads."""
import argparse
import json
import os
import statistics
import subprocess
import time

try:
    import torch
except ImportError as e:
    raise SystemExit(f"this peer needs PyTorch, which this Python does not have ({e}); pip install torch, or run it with one that does")


def ours(program, name, threads, seconds):
    """Milliseconds of one row of a Google Benchmark program."""
    escaped = "".join(c if c.isalnum() else "." for c in name)  # Google Benchmark's regular expressions differ from build to build
    out = subprocess.run([program, f"--benchmark_filter=^{escaped}(/(min_time|real_time|iterations).*)?$", "--benchmark_format=json", f"--benchmark_min_time={seconds}"],
                         capture_output=True, text=True, check=True, env={**os.environ, "DROPIN_NUM_THREADS": str(threads)})
    rows = json.loads(out.stdout)["benchmarks"]
    if not rows:
        raise SystemExit(f"{program} has no row named {name!r}")
    unit = {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}[rows[0]["time_unit"]]
    return rows[0]["real_time"] * unit


def theirs(f, seconds):
    """Milliseconds of one call of f."""
    f()
    n, start = 0, time.perf_counter()
    while n < 2 or time.perf_counter() - start < seconds:
        f()
        n += 1
    return 1000 * (time.perf_counter() - start) / n


def compare(program, rows, threads, rounds=5, seconds=0.25):
    """rows: (name of our row, what the peer is, f). Prints ours, theirs, and the median of the rounds' ratios with its range; returns them as JSON."""
    results = []
    print(f"{'row':<44} {'ours ms':>9} {'peer ms':>9}  {'ratio':>6}  range        peer")
    for name, peer, f in rows:
        a, b = [], []
        for r in range(rounds):
            order = [lambda: a.append(ours(program, name, threads, seconds)), lambda: b.append(theirs(f, seconds))]
            for measure in order if r % 2 == 0 else reversed(order):
                measure()
        ratios = [y / x for x, y in zip(a, b)]
        row = {"row": name, "peer": peer, "ours_ms": statistics.median(a), "peer_ms": statistics.median(b), "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
               "threads": threads}
        print(f"{name:<44} {row['ours_ms']:>9.3f} {row['peer_ms']:>9.3f}  {row['ratio']:>5.2f}x  {row['low']:.2f}-{row['high']:.2f}x  {peer}", flush=True)
        results.append(row)
    return results


def main(rows):
    """The command line of a peer script; rows() is called once torch has its threads."""
    a = argparse.ArgumentParser()
    a.add_argument("program", help="the benchmark program, e.g. build/release/bench/bench_attention")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--only", default="", help="rows whose name holds this")
    a.add_argument("--json")
    args = a.parse_args()
    if not os.access(args.program, os.X_OK):
        raise SystemExit(f"there is no program {args.program}; -DDROPIN_BUILD_BENCH=ON builds the bench_* where Google Benchmark is found")
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    print("torch", torch.__version__, "with", "MKL" if torch.backends.mkl.is_available() else "no MKL", "on", args.threads, "threads")
    results = compare(args.program, [r for r in rows() if args.only in r[0]], args.threads, args.rounds)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"torch": torch.__version__, "rows": results}, f, indent=1)
