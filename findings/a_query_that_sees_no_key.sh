#!/usr/bin/env bash
# Attention for a query whose mask forbids every key: jax 0.10.2, flax 0.12.8, mlx 0.32.4, tinygrad 0.14.0, onnxruntime 1.32.0.
# One would guess: NaN everywhere (0 / 0), or at least that a library answers one question in one way.
# What happens: jax.nn.dot_product_attention and flax give the mean of all values, forbidden ones included: nothing tells the caller, and
# the masked keys leak. mlx gives that mean for a boolean mask and NaN for the same mask as numbers of -inf. tinygrad gives NaN,
# onnxruntime's Attention (opset 23) zeros. Weights moved between them agree until the first row of padding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 jax==0.10.2 flax==0.12.8 mlx==0.32.4 mlx-cpu==0.32.4 tinygrad==0.14.0 onnx==1.23.2 \
  onnxruntime==1.32.0
cd "$folder"
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PYTHON'
import jax
import mlx.core as mx
import numpy as np
import onnxruntime
from flax import nnx
from onnx import TensorProto, helper
from tinygrad import Tensor

draw = np.random.RandomState(0)
q, k = (draw.randn(1, 2, 3, 4).astype(np.float32) for _ in range(2))
v = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
allowed = np.ones((3, 3), bool)
allowed[1] = False  # query 1 sees nothing
added = np.where(allowed, 0, -np.inf).astype(np.float32)

last = [jax.numpy.asarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v)]
mask = jax.numpy.asarray(allowed)[None, None]
fused = mx.fast.scaled_dot_product_attention
mlx = [mx.array(x) for x in (q, k, v)]
node = helper.make_node("Attention", ["q", "k", "v", "m"], ["y"])
inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 3, 4]) for n in "qkv"]
inputs.append(helper.make_tensor_value_info("m", TensorProto.BOOL, [3, 3]))
output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 4])
graph = helper.make_graph([node], "one_attention", inputs, [output])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

rows = {
    "jax": np.asarray(jax.nn.dot_product_attention(*last, mask=mask))[0, 1, 0],
    "flax": np.asarray(nnx.dot_product_attention(*last, mask=mask))[0, 1, 0],
    "mlx, bool": np.array(fused(*mlx, scale=0.5, mask=mx.array(allowed)))[0, 0, 1],
    "mlx, -inf": np.array(fused(*mlx, scale=0.5, mask=mx.array(added)))[0, 0, 1],
    "tinygrad": Tensor(q).scaled_dot_product_attention(Tensor(k), Tensor(v), attn_mask=Tensor(allowed)).numpy()[0, 0, 1],
    "onnxruntime": session.run(None, {"q": q, "k": k, "v": v, "m": allowed})[0][0, 0, 1],
}


def kind(row):
    if np.isnan(row).all():
        return "NaN"
    if (row == 0).all():
        return "zeros"
    return "mean of all values" if np.allclose(row, v[0, 0].mean(0)) else str(row)


said = {name: kind(row) for name, row in rows.items()}
for name, what in said.items():
    print(f"{name}: {what}")
assert said == {
    "jax": "mean of all values",
    "flax": "mean of all values",
    "mlx, bool": "mean of all values",
    "mlx, -inf": "NaN",
    "tinygrad": "NaN",
    "onnxruntime": "zeros",
}
PYTHON
