"""Joins files of dropin bench --json that were measured one after another: python bench/merge.py OUT IN... The first one's context stays, with the range of the limits."""
import json
import sys


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    files = []
    for p in sys.argv[2:]:
        with open(p) as f:
            files.append(json.load(f))
    out = {"context": files[0]["context"], "benchmarks": [r for f in files for r in f["benchmarks"]]}
    for key in [k for k in out["context"] if k.startswith("limit_")]:
        out["context"][key] = max(f["context"][key] for f in files)  # a limit is the most that was seen
    with open(sys.argv[1], "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


main()
