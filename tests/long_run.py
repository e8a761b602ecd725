#!/usr/bin/env python3
"""A long run: trains with each sequence mixer in turn, once undisturbed and once killed (SIGKILL) at random moments and resumed from its checkpoint. Both must end with the
same losses, to the last digit; memory must be flat once warm; a checkpoint must load after every kill.

python3 tests/long_run.py build/release/bin/dropin [--minutes 30] [--seed 1] [--only LongformerAttention ...]
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time


def train(program, mixer, steps, seed):
    words = [program, "train", "--task", "text", "--steps", str(steps), "--length", "128", "--batch", "8", "--seed", str(seed), "--json"]
    return words + ([] if mixer == "MultiheadAttention" else ["--swap", f"MultiheadAttention={mixer}"])


def resident(pid):
    """Megabytes, or None when the process is gone."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return next((int(line.split()[1]) / 1024 for line in f if line.startswith("VmRSS")), None)
    except OSError:
        return None


def losses(text):
    """What must be the same: all that is no time and no memory."""
    return [{k: v for k, v in r.items() if k not in ("ms_per_step", "peak_mb", "optimizer_mb")} for r in json.loads(text)["runs"]]


def undisturbed(words):
    p = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    samples = []
    while p.poll() is None:
        m = resident(p.pid)
        if m:
            samples.append(m)
        time.sleep(0.1)
    if p.returncode:
        sys.exit(f"{' '.join(words)} ended with {p.returncode}")
    return losses(p.stdout.read()), samples


def disturbed(words, seconds, rng, folder):
    """The same with kills, about six of them in its time; the number of kills and of resumes."""
    path = os.path.join(folder, "checkpoint")
    kills = resumes = 0
    while True:
        more = ["--save", path, "--save-every", "5"] + (["--resume", path] if os.path.exists(path) else [])
        resumes += os.path.exists(path)
        p = subprocess.Popen(words + more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = p.communicate(timeout=rng.uniform(0.05, max(2.0, seconds / 3)) if kills < 50 else None)
        except subprocess.TimeoutExpired:
            p.kill()
            p.communicate()
            kills += 1
            continue
        if p.returncode:
            sys.exit(f"{' '.join(words + more)} ended with {p.returncode}: {err}")
        return losses(out), kills, resumes


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("program")
    a.add_argument("--minutes", type=float, default=30)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--only", nargs="*", default=[])
    args = a.parse_args()
    listed = json.loads(subprocess.run([args.program, "list", "--family", "SequenceMixer", "--json"], capture_output=True, text=True, check=True).stdout)
    mixers = args.only or [c["name"] for c in listed]
    rng, failed = random.Random(args.seed), False
    print(f"{'mixer':<22} {'steps':>6} {'kills':>6} {'resumes':>8} {'losses':>9}  memory, first quarter to last quarter")
    for mixer in mixers:
        start = time.time()
        undisturbed(train(args.program, mixer, 20, args.seed))
        per_step = (time.time() - start) / 20
        steps = max(20, int(args.minutes * 60 / len(mixers) / per_step / 2.6))  # undisturbed, disturbed, and what kills cost
        words = train(args.program, mixer, steps, args.seed)
        start = time.time()
        want, samples = undisturbed(words)
        took = time.time() - start
        with tempfile.TemporaryDirectory() as folder:
            got, kills, resumes = disturbed(words, took, rng, folder)
        n = len(samples) // 4
        # of the last model trained: its first quarter is what is warm
        half = samples[len(samples) // 2 + n // 2 :] if mixer != "MultiheadAttention" else samples[n:]
        early, late = max(half[: max(1, len(half) // 4)]), max(half[-max(1, len(half) // 4) :])
        same, flat = got == want, late <= early * 1.02 + 1
        failed |= not (same and flat)
        print(f"{mixer:<22} {steps:>6} {kills:>6} {resumes:>8} {'same' if same else 'DIFFER':>9}  {early:.1f} to {late:.1f} MB{'' if flat else ': GROWS'}", flush=True)
        if not same:
            print(json.dumps({"undisturbed": want, "disturbed": got}))
    sys.exit(failed)


main()
