"""Writes corpus/: well-formed files and the attacks that a reader of untrusted files must refuse. python3 tests/fuzz/make_corpus.py"""
import base64
import gzip
import json
import os
import struct
import zlib

# 8 x 8 pixels, of torchvision's encoder.
JPEG_GRAY = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBkeFxlZ2P/wAALCAAIAAgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/AOPWz9q//9k="
JPEG_COLOR = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/wAARCAAIAAgDASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwCkIPaiiiuw5D//2Q=="
HERE = os.path.dirname(os.path.abspath(__file__))


def write(target, name, data):
    folder = os.path.join(HERE, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def st(header, data=b"", length=None):
    """A safetensors file; header may be text, length may lie."""
    h = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(h) if length is None else length) + h + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def floats(*v):
    return struct.pack(f"<{len(v)}f", *v)


def safetensors():
    w = lambda name, data: write("safetensors", name, data)
    w("empty", st({}))
    w("two", st({"a": entry("F32", [2], 0, 8), "b": entry("I64", [], 8, 16), "__metadata__": {"k": "v"}}, floats(1, 2) + struct.pack("<q", 3)))
    w("zero_size", st({"a": entry("F32", [0, 5], 0, 0)}))
    w("bool_two", st({"a": entry("BOOL", [2], 0, 2)}, b"\x01\x02"))
    w("length_beyond_file", st({}, length=1 << 40))
    w("length_negative", st({}, length=(1 << 64) - 1))
    w("length_short", st({"a": entry("F32", [1], 0, 4)}, floats(1), length=5))
    w("truncated_data", st({"a": entry("F32", [2], 0, 8)}, floats(1)))
    w("excess_data", st({"a": entry("F32", [1], 0, 4)}, floats(1, 2)))
    w("gap", st({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, floats(1, 2, 3)))
    w("overlap", st({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, floats(1, 2)))
    w("overflow_product", st({"a": entry("F32", [1 << 32, 1 << 32, 4], 0, 0)}))
    w("overflow_to_fit", st({"a": entry("F32", [1 << 62, 4], 0, 16)}, floats(1, 2, 3, 4)))
    w("negative_size", st('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', floats(1)))
    w("real_size", st('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', floats(1)))
    w("duplicate_key", st('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', floats(1)))
    w("duplicate_inside", st('{"a":{"dtype":"F32","dtype":"I8","shape":[1],"data_offsets":[0,4]}}', floats(1)))
    w("unknown_dtype", st({"a": entry("F8_E4M3", [1], 0, 1)}, b"x"))
    w("many_dims", st({"a": entry("U8", [1] * 64, 0, 1)}, b"x"))
    w("deep", st('{"a":' + "[" * 2000 + "]" * 2000 + "}"))
    w("not_utf8", st('{"').replace(b'{"', b'{"\xff\xfe":1}'))
    w("metadata_of_numbers", st({"__metadata__": {"k": 1}}))
    w("backwards_range", st({"a": entry("F32", [1], 4, 0)}, floats(1)))
    w("spaces", st("{}" + " " * 6))


def png(width, height, depth, color, rows, extra=b"", chunks=True):
    """rows: filtered scanlines, not yet compressed."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)) + extra
    return b"\x89PNG\r\n\x1a\n" + body + (chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"") if chunks else b"")


def image():
    w = lambda name, data: write("image", name, data)
    row = lambda n: b"\0" + bytes(range(n))
    palette = struct.pack(">I", 6) + b"PLTE" + bytes(range(6)) + struct.pack(">I", zlib.crc32(b"PLTE" + bytes(range(6))))
    w("gray", png(3, 2, 8, 0, row(3) * 2))
    w("bits", png(9, 2, 1, 0, row(2) * 2))
    w("deep", png(2, 2, 16, 2, row(12) * 2))
    w("palette", png(4, 1, 2, 3, b"\0\x1b", palette))
    w("no_palette", png(4, 1, 2, 3, b"\0\x1b"))
    w("alpha", png(2, 2, 8, 6, row(8) * 2))
    w("few_rows", png(3, 4, 8, 0, row(3) * 2))
    w("many_rows", png(3, 1, 8, 0, row(3) * 4))
    w("large", png(60000, 60000, 8, 2, row(3)))
    w("no_data", png(3, 2, 8, 0, b"", chunks=False))
    w("signature_alone", b"\x89PNG\r\n\x1a\n")
    gray, color = (base64.b64decode(t) for t in (JPEG_GRAY, JPEG_COLOR))
    w("jpeg_gray", gray)
    w("jpeg_color", color)
    w("jpeg_half", color[: len(color) // 2])
    w("jpeg_start", b"\xff\xd8\xff")


def npy():
    def n(header, data=b"", version=(1, 0), length=None, magic=b"\x93NUMPY"):
        h = header.encode()
        form = "<H" if version[0] == 1 else "<I"
        return magic + bytes(version) + struct.pack(form, len(h) if length is None else length) + h + data

    w = lambda name, data: write("npy", name, data)
    good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"
    w("good", n(good, floats(1, 2, 3, 4, 5, 6)))
    w("fortran_big_endian", n("{'descr': '>f8', 'fortran_order': True, 'shape': (2, 2), }\n", struct.pack(">4d", 1, 2, 3, 4), (2, 0)))
    w("scalar", n("{'descr': '|b1', 'fortran_order': False, 'shape': (), }\n", b"\x01"))
    w("empty", n("{'descr': '<i8', 'fortran_order': False, 'shape': (0, 7), }\n", b"", (3, 0)))
    w("short", n(good, floats(1)))
    w("overflow", n("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4), }\n"))
    w("huge_digits", n("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 60 + ",), }\n"))
    w("negative", n("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"))
    w("object", n("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"x"))
    w("nested", n("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 500 + ")" * 500 + ", }\n"))
    w("length_lies", n(good, b"", length=65535))
    w("length_lies_32", n(good, b"", (2, 0), length=0xFFFFFFF0))
    w("version_9", n(good, floats(1, 2, 3, 4, 5, 6), (9, 0)))
    w("magic_alone", b"\x93NUMPY")


def idx():
    def i(kind, sizes, data=b""):
        return bytes([0, 0, kind, len(sizes)]) + b"".join(struct.pack(">I", s) for s in sizes) + data

    w = lambda name, data: write("idx", name, data)
    good = i(8, [2, 3], bytes(range(6)))
    w("good", good)
    w("gzip", gzip.compress(good, mtime=0))
    w("gzip_members", gzip.compress(good[:9], mtime=0) + gzip.compress(good[9:], mtime=0))
    w("gzip_truncated", gzip.compress(good, mtime=0)[:-6])
    w("gzip_bad_sum", gzip.compress(good, mtime=0)[:-8] + b"\0\0\0\0" + gzip.compress(good, mtime=0)[-4:])
    w("gzip_bomb", gzip.compress(i(8, [1 << 18], bytes(1 << 18)), mtime=0))
    w("floats", i(13, [2], struct.pack(">2f", 1, 2)))
    w("shorts", i(11, [2], struct.pack(">2h", -1, 2)))
    w("overflow", i(8, [0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF]))
    w("many_dims", bytes([0, 0, 8, 255]) + b"\0\0\0\1" * 255)
    w("zero", i(8, [0, 28, 28]))
    w("short", i(8, [10], b"abc"))
    w("excess", i(8, [1], b"abc"))
    w("unknown_kind", i(10, [1], b"a"))


def json_texts():
    texts = {
        "object": '{"a": [1, 2.5, -3e-7, true, null, "x\\u00e9\\ud83d\\ude00"], "b": {}}', "deep": "[" * 100 + "]" * 100, "deeper": "[" * 100000, "duplicate": '{"a":1,"a":2}',
        "lone_surrogate": '"\\ud800"', "huge_number": "1e999", "long_integer": "123456789012345678901234567890", "minus_zero": "-0.0", "tail": "1 2", "empty": " ", "comma": "[1,]",
        "nan": "NaN", "control": '"\x01"', "limits": "[9223372036854775807,-9223372036854775808,9223372036854775808]", "denormal": "4.9406564584124654e-324",
    }
    for name, t in texts.items():
        write("json", name, t)
    write("json", "overlong", b'"\xc0\x80"')
    write("json", "bom", b"\xef\xbb\xbf1")


def options():
    texts = [
        "{}", '{"embed_dim":8,"num_heads":2}', '{"embed_dim":8,"num_heads":2,"window":4,"causal":true}', '{"embed_dim":0,"num_heads":0}', '{"embed_dim":-8,"num_heads":3}',
        '{"in_features":8,"out_features":6}', '{"in_features":8,"out_features":6,"bits":2,"ternary":true}', '{"in_channels":4,"out_channels":4,"kernel_size":3}',
        '{"channels":4,"kernel_size":[3,5]}', '{"in_channels":4,"out_channels":4,"kernel_size":0,"stride":-1,"dilation":0,"padding":"same"}', '{"lr":1e-3}', '{"lr":-1,"betas":[2,2]}',
        '{"lr":1e999}', '{"embed_dim":"8"}', '{"embed_dim":8,"num_heads":2,"segment_lengths":[4,8],"dilation_rates":[1,2]}', '{"num_embeddings":5,"embedding_dim":3}', '{"bits":3}',
        '{"iou_threshold":0.5,"score_threshold":0.1}', '{"format":"mxfp4_e2m1"}', '{"no_such_option":1}', "[]", "null", "",
    ]
    for k, t in enumerate(texts):
        for c in range(3):
            write("options", f"{k:02}_{c}", bytes([(7 * k + 23 * c) % 96]) + t.encode())


def golden():
    w = lambda name, data: write("golden", name, data)

    def meta(**kw):
        m = {"format": "dropin-golden-1", "kind": "module", "name": "Linear", "config": '{"in_features":2,"out_features":1}', "training": "false", "rtol": "1e-5", "atol": "1e-6", "note": ""}
        m.update(kw)
        return {k: v for k, v in m.items() if v is not None}

    def case(m, tensors):
        header, data = {"__metadata__": m}, b""
        for name, (dtype, shape, d) in tensors.items():
            header[name] = entry(dtype, shape, len(data), len(data) + len(d))
            data += d
        return st(header, data)

    linear = {"param.weight": ("F32", [1, 2], floats(1, 2)), "param.bias": ("F32", [1], floats(3)), "input.x": ("F32", [1, 2], floats(1, 1)), "output.y": ("F32", [1, 1], floats(6))}
    w("linear", case(meta(), linear))
    w("linear_gradient", case(meta(), {**linear, "grad_output.y": ("F32", [1, 1], floats(1)), "grad_input.x": ("F32", [1, 2], floats(1, 2)), "grad_param.weight": ("F32", [1, 2], floats(1, 1))}))
    w("wrong_value", case(meta(), {**linear, "output.y": ("F32", [1, 1], floats(7))}))
    w("wrong_shape", case(meta(), {**linear, "input.x": ("F32", [2], floats(1, 1))}))
    w("extra_parameter", case(meta(), {**linear, "param.none": ("F32", [1], floats(1))}))
    w("gradient_without_output", case(meta(), {**linear, "grad_output.z": ("F32", [1], floats(1))}))
    w("wrong_gradient_shape", case(meta(), {**linear, "grad_output.y": ("F32", [3], floats(1, 2, 3))}))
    for key in ("format", "kind", "name", "config", "rtol", "atol", "training"):
        w(f"without_{key}", case(meta(**{key: None}), linear))
        w(f"odd_{key}", case(meta(**{key: "-1e999"}), linear))
    w("config_of_another_kind", case(meta(config="[1]"), linear))
    w("nan_tolerance", case(meta(rtol="nan"), linear))
    w("nms", case(meta(kind="function", name="nms", config='{"iou_threshold":0.5}'),
                  {"input.boxes": ("F32", [2, 4], floats(0, 0, 1, 1, 0, 0, 1, 1)), "input.scores": ("F32", [2], floats(1, 0.5)), "output.keep": ("I64", [1], struct.pack("<q", 0))}))
    w("function_without_inputs", case(meta(kind="function", name="nms", config="{}"), {}))
    w("adamw", case(meta(kind="optimizer", name="AdamW", config='{"lr":0.1}'),
                    {"param.0": ("F32", [2], floats(1, 2)), "grad.1.0": ("F32", [2], floats(1, 1)), "output.1.0": ("F32", [2], floats(0.9, 1.9))}))
    w("optimizer_step_0", case(meta(kind="optimizer", name="AdamW", config="{}"), {"param.0": ("F32", [2], floats(1, 2)), "grad.0.0": ("F32", [2], floats(1, 1))}))
    w("optimizer_far_step", case(meta(kind="optimizer", name="AdamW", config="{}"), {"param.0": ("F32", [1], floats(1)), "grad.999999999999.0": ("F32", [1], floats(1))}))
    w("optimizer_odd_names", case(meta(kind="optimizer", name="AdamW", config="{}"), {"param.x": ("F32", [1], floats(1)), "grad.1": ("F32", [1], floats(1)), "grad.a.b": ("F32", [1], floats(1))}))


def checkpoint():
    def c(state, tensors, form="dropin-checkpoint-1"):
        header, data = {"__metadata__": {"format": form, "state": state if isinstance(state, str) else json.dumps(state)}}, b""
        for name, (dtype, shape, d) in tensors.items():
            header[name] = entry(dtype, shape, len(data), len(data) + len(d))
            data += d
        return st(header, data)

    w = lambda name, data: write("checkpoint", name, data)
    weights = {"model.weight": ("F32", [2, 3], floats(*range(6))), "model.bias": ("F32", [2], floats(1, 2))}
    state = {"step": 3, "seed": "1", "offset": "0", "notes": {}}
    w("weights", c(state, weights))
    w("moments", c(state, {**weights, "optimizer.state.0.step": ("I64", [], struct.pack("<q", 3)), "optimizer.state.0.exp_avg": ("F32", [2, 3], floats(*range(6))),
                           "optimizer.state.0.exp_avg_sq": ("F32", [2, 3], floats(*range(6)))}))
    w("moment_shape", c(state, {**weights, "optimizer.state.0.exp_avg": ("F32", [3], floats(1, 2, 3))}))
    w("weights_missing", c(state, {}))
    w("weights_shape", c(state, {**weights, "model.bias": ("F32", [3], floats(1, 2, 3))}))
    w("state_not_json", c("{", weights))
    w("state_empty", c("{}", weights))
    w("state_odd", c({"step": -1, "seed": "-1", "offset": "18446744073709551616", "notes": 3}, weights))
    w("other_format", c(state, weights, "x"))
    w("no_metadata", st({}))


def cli():
    lines = ["", "list", "list --json", "list --family Norm", "list --family No", "list a b", "describe", "describe LongformerAttention --json", "describe nothing", "describe Linear Linear",
             "devices", "devices --json x", "conform", "conform nowhere", "conform . --device cuda", "conform . --device none", "conform --only Linear .", "train --task none", "train --steps -1",
             "train --steps 99999999999999999999", "train --swap", "train --swap =", "train --swap A=", "train --swap LayerNorm=RMSNorm --swap MLP=GatedMLP:{", "train --lr nan", "train --resume x --save x",
             "bench --list", "bench nothing", "bench --compare a.json", "bench --compare a.json b.json", "bench --min-time -1", "claims --list", "claims nothing", "--help", "--version", "-h list",
             "train --help", "--", "-- list", "list --json=x", "--list", "l" * 4096, "describe " + "\u00e9" * 30, "describe %s%n"]
    for i, line in enumerate(lines):
        write("cli", f"{i:02}", "\n".join(line.split(" ")).encode())


for make in (safetensors, npy, image, idx, json_texts, options, golden, checkpoint, cli):
    make()
