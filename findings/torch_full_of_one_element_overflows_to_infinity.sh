#!/usr/bin/env bash
# torch 2.15.0: filling a float16 tensor with a number beyond float16's largest (65504).
# One would guess: what happens does not depend on how many elements there are: refused always, or infinity always.
# What happens: torch.full and fill_ raise "cannot be converted to type c10::Half without overflow" for no element, for two and for more,
# and give infinity without a word for exactly one: a batch of one hides what a batch of two refuses. masked_fill refuses all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.15.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import torch

said = {}
for name, f in {
    "full": lambda n: torch.full((n,), 1e6, dtype=torch.float16),
    "fill_": lambda n: torch.zeros(n, dtype=torch.float16).fill_(1e6),
    "masked_fill": lambda n: torch.zeros(n, dtype=torch.float16).masked_fill(torch.ones(n, dtype=torch.bool), 1e6),
}.items():
    for n in (0, 1, 2, 3):
        try:
            said[name, n] = str(f(n).tolist())
        except RuntimeError as e:
            said[name, n] = "refused" if "overflow" in str(e) else str(e)
    print(name, {n: said[name, n] for n in (0, 1, 2, 3)})
for name in ("full", "fill_"):
    assert [said[name, n] for n in (0, 1, 2, 3)] == ["refused", "[inf]", "refused", "refused"]
assert all(said["masked_fill", n] == "refused" for n in (0, 1, 2, 3))
PYTHON
