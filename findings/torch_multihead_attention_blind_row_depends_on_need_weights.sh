#!/usr/bin/env bash
# torch 2.15.0, torch.nn.MultiheadAttention on the CPU: a query whose attn_mask forbids every key.
# One would guess: need_weights only decides whether the weights are returned, and eval() only turns dropout off, so the output is one.
# What happens: with need_weights=True the row is NaN; with need_weights=False it is out_proj.bias (attention of zero) while training
# and NaN after eval() under no_grad, where another path runs. The same weights and inputs, three settings, two answers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.15.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PYTHON'
import torch

torch.manual_seed(0)
layer = torch.nn.MultiheadAttention(4, 2, batch_first=True)
x = torch.randn(1, 3, 4)
forbidden = torch.zeros(3, 3, dtype=torch.bool)
forbidden[1] = True


def row(need_weights):
    y = layer(x, x, x, attn_mask=forbidden, need_weights=need_weights)[0][0, 1].detach()
    return "NaN" if y.isnan().all() else "out_proj.bias" if torch.equal(y, layer.out_proj.bias) else str(y)


said = {("train", True): row(True), ("train", False): row(False)}
layer.eval()
with torch.no_grad():
    said["eval", True], said["eval", False] = row(True), row(False)
for (mode, need_weights), what in said.items():
    print(f"{mode}, need_weights={need_weights}: {what}")
assert said == {
    ("train", True): "NaN",
    ("train", False): "out_proj.bias",
    ("eval", True): "NaN",
    ("eval", False): "NaN",
}
PYTHON
