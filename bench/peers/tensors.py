"""Reading and writing of safetensors files, as far as the peers need it."""
import json
import pathlib
import struct

import torch


def read(path):
    data = pathlib.Path(path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, v in json.loads(data[8 : 8 + n]).items():
        if name != "__metadata__":
            a, b = v["data_offsets"]
            t = torch.frombuffer(bytearray(data[8 + n + a : 8 + n + b]), dtype=torch.int64 if v["dtype"] == "I64" else torch.float32)
            out[name] = t.reshape(v["shape"])
    return out


def write(path, tensors):
    header, parts, at = {}, [], 0
    for name, t in tensors.items():
        raw = t.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
