#!/usr/bin/env bash
# transformers 5.24.0: the names of a ViT's tensors, in memory and on disk.
# One would guess: the file that save_pretrained() writes has the names of state_dict().
# What happens: they are two sets. In memory the attention is vit.layers.0.attention.q_proj, in the file
# vit.encoder.layer.0.attention.attention.query; a loader that was written against one refuses the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q transformers==5.24.0 torch==2.15.0 safetensors==0.8.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PYTHON'
from safetensors import safe_open
from transformers import ViTConfig, ViTForImageClassification

model = ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20,
                                            image_size=12, patch_size=4, num_labels=5))
memory = set(model.state_dict())
model.save_pretrained("saved")
with safe_open("saved/model.safetensors", "pt") as f:
    disk = set(f.keys())
print("in memory only:", sorted(memory - disk)[:3])
print("on disk only:", sorted(disk - memory)[:3])
assert "vit.layers.0.attention.q_proj.weight" in memory - disk
assert "vit.encoder.layer.0.attention.attention.query.weight" in disk - memory
assert len(memory) == len(disk)
PYTHON
