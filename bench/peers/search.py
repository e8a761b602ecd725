#!/usr/bin/env python3
"""Exact search beside faiss (IndexFlatIP) and usearch (exact search), in turn with bench_search: N x E unit vectors, k = 10.

bench/peers/search.py build/release/bin/dropin build/release/bench/bench_search [--rounds R]   (with a python3 on the path that has numpy, faiss-cpu and usearch)

First the answers of all three to the same queries are compared, through dropin index; then times are taken, each round ours, then theirs, and the least of each and the ratios (peer / ours) are printed.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

try:
    import faiss
    import numpy
    import usearch.index
except ImportError as e:
    sys.exit(f"search.py: this Python lacks a peer ({e})")

N, E, K = 250_000, 256, 10


def unit(rng, n):
    x = rng.standard_normal((n, E), dtype=numpy.float32)
    return x / numpy.linalg.norm(x, axis=1, keepdims=True)


def peers(docs):
    flat = faiss.IndexFlatIP(E)
    flat.add(docs)
    return {
        "faiss": lambda q: flat.search(q, K)[1],
        "usearch": lambda q: usearch.index.search(docs, q, K, usearch.index.MetricKind.IP, exact=True).keys.reshape(len(q), K),
    }


def compare(program, docs, queries, found):
    with tempfile.TemporaryDirectory() as folder:
        files = {n: str(pathlib.Path(folder, n)) for n in ("docs.npy", "queries.npy", "index")}
        numpy.save(files["docs.npy"], docs)
        numpy.save(files["queries.npy"], queries)
        subprocess.run([program, "index", "build", files["index"], "--vectors", files["docs.npy"]], check=True, stdout=subprocess.DEVNULL)
        out = subprocess.run([program, "index", "search", files["index"], "--queries", files["queries.npy"], "--json"], check=True, capture_output=True, text=True).stdout
    ours = numpy.array([json.loads(line)["ids"] for line in out.splitlines()])
    for name, theirs in found.items():
        agree = (ours == theirs).mean()
        print(f"{name}: {100 * agree:.2f} % of {ours.size} places hold the same id")
        if agree < 0.999:
            sys.exit("search.py: the answers differ; no times are taken")


def ours(bench, storage, queries):
    out = subprocess.run([bench, f"--benchmark_filter=search/{storage}/{N}/{E}/{queries}/", "--benchmark_min_time=0.5", "--benchmark_format=json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["benchmarks"][0]["real_time"]


def theirs(search, q):
    search(q)
    begin, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - begin < 0.5:
        search(q)
        calls += 1
    return (time.perf_counter() - begin) / calls * 1e3


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("bench")
    p.add_argument("--rounds", type=int, default=3)
    a = p.parse_args()
    rng = numpy.random.default_rng(1)
    docs, queries = unit(rng, N), unit(rng, 64)
    found = peers(docs)
    compare(a.program, docs, queries, {n: f(queries) for n, f in found.items()})
    for count in (1, 64):
        best = {}
        for _ in range(a.rounds):
            for name in ("f32", "bf16", "i8"):
                best[name] = min(best.get(name, 1e9), ours(a.bench, name, count))
            for name, f in found.items():
                best[name] = min(best.get(name, 1e9), theirs(f, queries[:count]))
        print(f"{count} queries: " + ", ".join(f"{n} {t:.2f} ms" for n, t in best.items()))
        for name in found:
            print(f"  {name} / dropin f32: {best[name] / best['f32']:.2f}")


main()
