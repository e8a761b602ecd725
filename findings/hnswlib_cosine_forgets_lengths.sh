#!/usr/bin/env bash
# hnswlib 0.8.0: get_items() of an index in the space cosine.
# One would guess: the vectors that were added come back, as from the spaces l2 and ip.
# What happens: only their directions are kept; (3, 4) comes back as (0.6, 0.8), so a saved index cannot be rebuilt for another
# metric from its own items.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 hnswlib==0.8.0
"$folder/env/bin/python" - <<'PYTHON'
import hnswlib
import numpy as np

x = np.array([[3.0, 4.0]], "f")
seen = {}
for space in ("l2", "ip", "cosine"):
    index = hnswlib.Index(space=space, dim=2)
    index.init_index(max_elements=4)
    index.add_items(x, [7])
    seen[space] = np.asarray(index.get_items([7]))[0]
    print(space, seen[space].tolist())
assert np.array_equal(seen["l2"], x[0]) and np.array_equal(seen["ip"], x[0])
assert np.allclose(seen["cosine"], [0.6, 0.8], atol=1e-6)
PYTHON
