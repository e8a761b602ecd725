#!/usr/bin/env bash
# onnxruntime 1.32.0: NonMaxSuppression without max_output_boxes_per_class.
# One would guess: no limit, as with every detector of PyTorch; two boxes that do not touch both stay.
# What happens: the optional input counts as 0, which is taken literally: the result is empty, without a word. With the input there are
# two boxes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

boxes = np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], "f")
scores = np.array([[[0.9, 0.8]]], "f")
counts = {}
for limit in (None, 10):
    names = ["boxes", "scores"] + (["limit"] if limit else [])
    infos = [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, boxes.shape),
             helper.make_tensor_value_info("scores", TensorProto.FLOAT, scores.shape)]
    feed = {"boxes": boxes, "scores": scores}
    if limit:
        infos.append(helper.make_tensor_value_info("limit", TensorProto.INT64, [1]))
        feed["limit"] = np.array([limit])
    graph = helper.make_graph([helper.make_node("NonMaxSuppression", names, ["kept"])], "g", infos,
                              [helper.make_tensor_value_info("kept", TensorProto.INT64, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    counts[limit] = len(session.run(None, feed)[0])
print("boxes kept without the input:", counts[None], "and with it:", counts[10])
assert counts == {None: 0, 10: 2}
PYTHON
