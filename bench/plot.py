"""Draws rows NAME/LENGTH of a Google Benchmark JSON file against the length: python bench/plot.py results.json out.svg

One line per NAME, both axes logarithmic; needs matplotlib, which nothing else here does.
"""
import argparse
import json
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    a = argparse.ArgumentParser()
    a.add_argument("results")
    a.add_argument("out", help="an .svg or .png file")
    args = a.parse_args()
    lines = {}
    with open(args.results) as f:
        for row in json.load(f)["benchmarks"]:
            m = re.match(r"(.+?)/(?:L:)?(\d+)(/.*)?$", row["name"])
            if m:
                ms = row["real_time"] * {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}[row["time_unit"]]
                lines.setdefault(m[1], []).append((int(m[2]), ms, row.get("peak MB", row.get("peak_MB"))))
    ink = "#888888"  # legible on white and on black
    fig, axes = plt.subplots(1, 2, figsize=(10, 4))
    fig.patch.set_alpha(0)
    for ax, k, label in ((axes[0], 1, "time, ms"), (axes[1], 2, "peak memory, MB")):
        for (name, rows), colour in zip(sorted(lines.items()), ("#d95f02", "#1b9e77", "#7570b3", "#e7298a")):
            points = [(r[0], r[k]) for r in sorted(rows) if r[k]]
            ax.plot(*zip(*points), marker="o", markersize=4, color=colour, label=name)
        ax.set(xscale="log", yscale="log", xlabel="length L", ylabel=label, facecolor="none")
        ax.set_xscale("log", base=2)
        ax.tick_params(colors=ink, which="both")
        ax.grid(True, color=ink, alpha=0.3)
        for item in (ax.xaxis.label, ax.yaxis.label):
            item.set_color(ink)
        for s in ax.spines.values():
            s.set_color(ink)
    axes[0].legend(facecolor="none", edgecolor=ink, labelcolor=ink)
    fig.tight_layout()
    fig.savefig(args.out)


main()
