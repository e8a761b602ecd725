#!/usr/bin/env bash
# onnxruntime 1.32.0 on the CPU: the greatest of values with a NaN among them.
# One would guess: ReduceMax, ArgMax and TopK follow one rule, the NaN wins (numpy, torch).
# What happens: ReduceMax and ArgMax pass over the NaN (3.0, at 2), TopK takes it as the greatest of all (nan, at 1): two heads of one
# exported model disagree about which class won.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

def run(node, results, **inputs):
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(n, kinds[str(v.dtype)], v.shape) for n, v in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in zip(node.output, results)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)

x = np.array([[1, np.nan, 3, 2, 3]], "f")
real, whole = TensorProto.FLOAT, TensorProto.INT64
top = run(helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0), [real], x=x)[0]
arg = run(helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0), [whole], x=x)[0]
values, places = run(helper.make_node("TopK", ["x", "k"], ["v", "i"]), [real, whole], x=x, k=np.array([1]))
print("ReduceMax", top, "ArgMax", arg, "TopK", values, places)
assert top == 3 and arg[0] == 2 and np.isnan(values[0, 0]) and places[0, 0] == 1
PYTHON
