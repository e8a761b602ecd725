"""Times a dropin benchmark against a peer in Python: each in a process of its own, in turn (A B B A ...), on the same number of threads."""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

try:
    import torch
except ImportError as e:
    raise SystemExit(f"this peer needs PyTorch, which this Python does not have ({e}); pip install torch, or run it with one that does")
from tensors import read


class Compared:
    """What is timed, of a peer whose outputs its script has compared itself."""

    def __init__(self, f):
        self.f = f


def backward(f, leaves, g):
    """What is timed of f() with its gradients, and the outputs: y, and the gradient of each leaf (by name)."""

    def run():
        for t in leaves.values():
            t.grad = None
        y = f()
        y.backward(g)
        return y

    y = run()
    return run, {"y": y, **{"g." + name: t.grad for name, t in leaves.items()}}


def forward(f):
    """What is timed of f() without a record, and its output."""

    def run():
        with torch.no_grad():
            return f()

    return run, {"y": run()}


def one_row(program, name, options, environment):
    escaped = "".join(c if c.isalnum() else "." for c in name)  # Google Benchmark's regular expressions differ from build to build
    return subprocess.run([program, f"--benchmark_filter=^{escaped}(/(min_time|real_time|iterations).*)?$", *options], capture_output=True, text=True, check=True,
                          env={**os.environ, **environment})


def given(program, name, threads):
    """Inputs and outputs of one of our rows, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "row.safetensors")
        one_row(program, name, [], {"DROPIN_NUM_THREADS": str(threads), "DROPIN_BENCH_DUMP": path})
        if not os.path.exists(path):
            raise SystemExit(f"{program} has no row named {name!r} that writes its outputs")
        return read(path)


def difference(mine, yours):
    """Greatest difference over the greatest value, of y and of all gradients together (some are 0 but for rounding), and where; of integers 0 or infinity."""
    worst = (0.0, "")
    for name, t in yours.items():
        kind = [k for k in yours if k.startswith("g.") == name.startswith("g.")]
        if t.shape != mine[name].shape or not t.is_floating_point():
            worst = max(worst, (0.0 if torch.equal(t, mine[name]) else float("inf"), name))
        elif t.numel():
            top = max(mine[k].abs().max().item() for k in kind)
            worst = max(worst, ((t.detach() - mine[name]).abs().max().item() / max(top, 1e-30), name))
    return worst


def ours(program, name, threads, seconds):
    """Milliseconds of one row of a Google Benchmark program."""
    out = one_row(program, name, [f"--benchmark_min_time={seconds}", "--benchmark_format=json"], {"DROPIN_NUM_THREADS": str(threads)})
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
    """rows: (name of our row, what the peer is, make). make(inputs and outputs of our row, by name) -> what is timed, and its own outputs by the same names; or Compared.
    A peer whose outputs differ by more than 1e-3 of the greatest value is not timed. Prints ours, theirs, and the median of the rounds' ratios with its range; returns
    them as JSON."""
    results = []
    print(f"{'row':<44} {'ours ms':>9} {'peer ms':>9}  {'ratio':>6}  range        peer")
    for name, peer, make in rows:
        worst = (None, "")
        if isinstance(make, Compared):
            f = make.f
        else:
            known = given(program, name, threads)
            f, outputs = make(known)
            worst = difference(known, outputs)
        if worst[0] is not None and not worst[0] <= 1e-3:
            print(f"{name:<44} not timed: {peer} gives another {worst[1]}, by {worst[0]:.1e} of its greatest value", flush=True)
            results.append({"row": name, "peer": peer, "disqualified": f"{worst[1]} differs by {worst[0]:.1e}"})
            continue
        a, b = [], []
        for r in range(rounds):
            order = [lambda: a.append(ours(program, name, threads, seconds)), lambda: b.append(theirs(f, seconds))]
            for measure in order if r % 2 == 0 else reversed(order):
                measure()
        ratios = [y / x for x, y in zip(a, b)]
        row = {"row": name, "peer": peer, "ours_ms": statistics.median(a), "peer_ms": statistics.median(b), "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
               "threads": threads, "difference": worst[0]}
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
