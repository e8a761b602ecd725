#!/usr/bin/env bash
# usearch 2.26.6: an index with dtype i8 over float vectors.
# One would guess: each value is scaled to 8 bits as it is, so that the metrics ip and l2sq see the vectors' lengths.
# What happens: every vector is divided by its length before it is stored, whatever the metric: two vectors of one direction become
# one, and l2sq between them is 0. Seen: x and 10 x are both stored as [55 -27 11 110], at distance 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 usearch==2.26.6
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
from usearch.index import Index

x = np.array([0.5, -0.25, 0.1, 1.0], "f")
for metric in ("cos", "ip", "l2sq"):
    index = Index(ndim=4, metric=metric, dtype="i8")
    index.add(1, x)
    index.add(2, 10 * x)
    stored = [np.asarray(index.get(key)).ravel().tolist() for key in (1, 2)]
    print(metric, stored)
    assert stored[0] == stored[1] == [55, -27, 11, 110], stored
index = Index(ndim=4, metric="l2sq", dtype="i8")
index.add(2, 10 * x)
assert index.search(x, 1).distances[0] == 0
print("l2sq between x and 10 x: 0")
PYTHON
