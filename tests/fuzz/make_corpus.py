"""Writes corpus/: well-formed files and the attacks that a reader of untrusted files must refuse. python3 tests/fuzz/make_corpus.py"""
import base64
import gzip
import io
import json
import os
import pickle
import struct
import zipfile
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


# Pickles by hand: each function gives the opcodes that leave one value.
def p_text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def p_int(v):
    return b"K" + bytes([v]) if 0 <= v < 256 else b"\x8a\x08" + struct.pack("<q", v)


def p_tuple(*items):
    return b"(" + b"".join(items) + b"t"


def p_dict(**entries):
    return b"}(" + b"".join(p_text(k) + v for k, v in entries.items()) + b"u"


def p_global(module, name):
    return f"c{module}\n{name}\n".encode()


def p_storage(kind="FloatStorage", key="0", count=16):
    return p_tuple(p_text("storage"), p_global("torch.storage" if kind == "UntypedStorage" else "torch", kind), p_text(key), p_text("cpu"), p_int(count)) + b"Q"


def p_tensor(storage=None, offset=0, sizes=(2, 2), strides=(2, 1), dtype=None):
    args = [storage or p_storage(), p_int(offset), p_tuple(*map(p_int, sizes)), p_tuple(*map(p_int, strides)), b"\x89", p_global("collections", "OrderedDict") + b")R"]
    if dtype:
        args.append(p_global("torch", dtype))
    return p_global("torch._utils", "_rebuild_tensor_v3" if dtype else "_rebuild_tensor_v2") + p_tuple(*args) + b"R"


def p_whole(value):
    return b"\x80\x02" + value + b"."


def pickles():
    w = lambda name, data: write("pickle", name, data)
    values = {"n": None, "b": [True, False], "i": [0, 300, -1, 70000, 1 << 40, 1 << 70, -(1 << 63)], "f": (1.5, float("nan")), "s": "\u00e9", "y": b"\x00\xe9", "a": bytearray(b"xy"),
              "c": 1 + 2j, "set": {1}, "frozen": frozenset([2]), "e": [{}, [], ()], 5: {None: 1, True: 2}}
    for protocol in (2, 3, 4, 5):
        w(f"values_{protocol}", pickle.dumps(values, protocol=protocol))
    w("tensor", p_whole(p_dict(w=p_tensor())))
    w("transposed", p_whole(p_dict(w=p_tensor(sizes=(4, 4), strides=(1, 4)))))
    w("repeated", p_whole(p_dict(w=p_tensor(sizes=(3, 5), strides=(0, 1)))))
    w("alone", p_whole(p_tensor()))
    for i, dtype in enumerate(["uint16", "uint64", "float8_e4m3fn", "float8_e8m0fnu", "float4_e2m1fn_x2"]):
        w(dtype, p_whole(p_dict(w=p_tensor(p_storage("UntypedStorage", "1", 64), dtype=dtype))))
    w("complex", p_whole(p_dict(w=p_tensor(p_storage("ComplexFloatStorage", "0", 8)))))
    w("parameter", p_whole(p_dict(w=p_global("torch._utils", "_rebuild_parameter") + p_tuple(p_tensor(), b"\x88", p_global("collections", "OrderedDict") + b")R") + b"R")))
    w("attributes", p_whole(p_global("collections", "OrderedDict") + b")R}" + p_text("_metadata") + b"}sb"))
    w("beyond", p_whole(p_dict(w=p_tensor(offset=15))))
    w("far_stride", p_whole(p_dict(w=p_tensor(strides=(1 << 62, 1)))))
    w("overflow_sizes", p_whole(p_dict(w=p_tensor(sizes=(1 << 62, 4), strides=(0, 0)))))
    w("zero_and_far", p_whole(p_dict(w=p_tensor(p_storage("UntypedStorage"), sizes=(0, 1 << 62, 1 << 62), strides=(1, 1, 1), dtype="float4_e2m1fn_x2"))))
    w("endless_view", p_whole(p_dict(w=p_tensor(sizes=(1 << 40,), strides=(0,)))))
    w("negative_size", p_whole(p_dict(w=p_tensor(sizes=(-1, 1)))))
    w("count_beyond", p_whole(p_dict(w=p_tensor(p_storage(count=1 << 62)))))
    w("no_storage", p_whole(p_dict(w=p_tensor(p_storage(key="9")))))
    w("bare_storage", p_whole(p_dict(w=p_storage())))
    w("two_names", p_whole(p_dict(**{"a.b": p_tensor(), "a": p_dict(b=p_tensor())})))
    w("conjugate", p_whole(p_global("torch._utils", "_rebuild_tensor_v2") + p_tuple(p_storage(), p_int(0), p_tuple(), p_tuple(), b"\x89", b"}", p_dict(conj=b"\x88")) + b"R"))
    w("system", p_whole(p_global("os", "system") + p_tuple(p_text("true")) + b"R"))
    w("stack_global", b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.")
    w("build_number", p_whole(b"K\1}b"))
    w("list_of_itself", p_whole(b"]q\0h\0a"))
    w("dict_of_itself", p_whole(b"}q\0" + p_text("a") + b"h\0s"))
    w("bomb", p_whole(b"]q\0" + b"".join(b"0](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(30))))
    w("deep", p_whole(b"]" * 5000 + b"a" * 4999))
    w("marks", b"\x80\x02" + b"(" * 5000)
    w("tuples", p_whole(b")" + b"\x85" * 5000))
    w("long_text", b"\x80\x02X\xff\xff\xff\xffabc")
    w("long_bytes", b"\x80\x05\x96" + b"\xff" * 8)
    w("long_number", b"\x80\x02\x8b\xff\xff\xff\x7f")
    w("negative_number", b"\x80\x02\x8b\xff\xff\xff\xff")
    w("below_mark", p_whole(b"N(s"))
    w("no_memo", p_whole(b"h\7"))
    w("unknown", b"\x80\x02\xfe.")
    w("empty", b"")


def archives():
    w = lambda name, data: write("torch_archive", name, data)

    def zipped(members, method=zipfile.ZIP_STORED, comment=b""):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as z:
            for name, data in members:
                z.writestr(zipfile.ZipInfo(name), data, method)
            z.comment = comment
        return out.getvalue()

    def npy(descr, shape, data, order="False"):
        header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data

    weights = floats(*range(16))
    pickled = p_whole(p_dict(w=p_tensor(), v=p_tensor(p_storage("UntypedStorage", "1", 4), sizes=(2,), strides=(1,), dtype="float8_e5m2"), n=p_int(3)))
    members = [("a/data.pkl", pickled), ("a/byteorder", b"little"), ("a/data/0", weights), ("a/data/1", b"\x3c\x3d\x3e\x3f"), ("a/version", b"3\n")]
    good = zipped(members)
    w("archive", good)
    w("packed_pickle", zipped(members[:1], zipfile.ZIP_DEFLATED))
    w("big_endian", zipped([(n, b"big" if n == "a/byteorder" else d) for n, d in members]))
    w("other_order", zipped([(n, b"middle" if n == "a/byteorder" else d) for n, d in members]))
    w("no_storage", zipped(members[:2]))
    w("script", zipped(members + [("a/constants.pkl", p_whole(b")"))]))
    w("comment", zipped(members, comment=b"PK\5\6 here"))
    w("twice", good.replace(b"a/data/1", b"a/data/0"))
    w("cut", good[: len(good) * 2 // 3])
    w("no_members", zipped([]))
    w("not_utf8", good.replace(b"a/version", b"a/\xff\xfersio"))
    w("encrypted", good.replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"))
    w("other_method", good.replace(b"PK\1\2\x14\x03\x14\0\0\0\0\0", b"PK\1\2\x14\x03\x14\0\0\0\x0c\0"))
    for i in range(4, 22, 2):  # each number of the end
        w(f"end_{i}", good[: len(good) - 22 + i] + b"\xff\xff" + good[len(good) - 22 + i + 2 :])
    w("npz", zipped([("x.npy", npy("<f4", "(2, 2)", floats(1, 2, 3, 4), "True")), ("y.npy", npy(">u2", "(2,)", b"\0\1\0\2"))]))
    w("npz_packed", zipped([("x.npy", npy("<c8", "(64,)", floats(*[1] * 128)))], zipfile.ZIP_DEFLATED))
    w("npz_objects", zipped([("x.npy", npy("|O", "(1,)", b"\x80\2N.")), ("s.npy", npy("<U1", "(1,)", b"a\0\0\0"))]))
    w("npz_short", zipped([("x.npy", npy("<f4", "(2, 2)", floats(1)))]))
    w("npz_other", zipped([("x.txt", b"x")]))
    w("npy", npy("<u4", "(2,)", struct.pack("<2I", 1, 2)))
    whole = [p_whole(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"), p_whole(p_int(1001)), p_whole(p_dict(little_endian=b"\x88")), p_whole(p_dict(w=p_tensor(p_storage(count=4)))), p_whole(b"](" + p_text("0") + b"e")]
    legacy = b"".join(whole) + struct.pack("<q", 4) + floats(1, 2, 3, 4)
    w("legacy", legacy)
    w("legacy_short", legacy[:-1])
    w("legacy_far", b"".join(whole) + struct.pack("<q", 1 << 62))
    w("legacy_negative", b"".join(whole) + struct.pack("<q", -1))
    w("legacy_no_keys", b"".join(whole[:4]) + p_whole(b"]"))
    w("legacy_other_magic", p_whole(b"\x8a\x0am\xfc\x9cF\xf9 j\xa8P\x19"))


def gguf():
    def w(name, data):
        write("gguf", name, data)

    def text(s):
        return struct.pack("<Q", len(s)) + s

    def note(key, kind, value):
        return text(key) + struct.pack("<I", kind) + value

    def info(name, dims, kind, offset):
        return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)

    def whole(notes=(), infos=(), data=b"", version=3, alignment=32, tensors=None, keys=None):
        s = b"GGUF" + struct.pack("<IQQ", version, len(infos) if tensors is None else tensors, len(notes) if keys is None else keys)
        s += b"".join(notes) + b"".join(infos)
        return s + b"\0" * (-len(s) % alignment) + data

    four = floats(1, 2, 3, 4)
    kinds = [note(b"a", 0, b"\1"), note(b"b", 6, floats(0.5)), note(b"c", 8, text(b"x")), note(b"d", 9, struct.pack("<IQ", 4, 2) + struct.pack("<2I", 1, 2)), note(b"e", 10, b"\xff" * 8), note(b"f", 7, b"\1"), note(b"general.alignment", 4, struct.pack("<I", 64))]
    w("values", whole(kinds, [info(b"w", [4], 0, 0)], four, alignment=64))
    sizes = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 20: (32, 18), 23: (256, 136), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36)}
    for kind, (block, size) in sizes.items():
        w(f"type_{kind}", whole([], [info(b"w", [block], kind, 0)], bytes(i * 37 & 255 for i in range(size))))
    w("unknown_type", whole([], [info(b"w", [4], 99, 0)], four))
    w("short", whole([], [info(b"w", [4], 0, 0)], four[:-1]))
    w("overlap", whole([], [info(b"w", [4], 0, 0), info(b"v", [1], 0, 0)], four))
    w("odd_offset", whole([], [info(b"w", [4], 0, 8)], four * 3))
    w("many_tensors", whole([], [], four, tensors=1 << 60))
    w("many_keys", whole([], [], four, keys=1 << 60))
    w("long_text", whole([text(b"k") + struct.pack("<IQ", 8, 1 << 62)], keys=1))
    w("long_list", whole([note(b"k", 9, struct.pack("<IQ", 0, 1 << 62))]))
    w("deep_list", whole([note(b"k", 9, struct.pack("<IQ", 9, 1) * 40)]))
    w("big_shape", whole([], [info(b"w", [1 << 62, 1 << 62], 0, 0)], four))
    w("nine_dimensions", whole([], [info(b"w", [1] * 9, 0, 0)], four))
    w("odd_row", whole([], [info(b"w", [31], 8, 0)], four * 9))
    w("alignment_0", whole([note(b"general.alignment", 4, struct.pack("<I", 0))]))
    w("version_9", whole(version=9))
    w("big_endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 0) + struct.pack(">Q", 1) + b"w" + struct.pack(">IQIQ", 1, 1, 0, 0) + b"\0" * 7 + struct.pack(">f", 1))
    w("split", whole([note(b"split.count", 2, struct.pack("<H", 3)), note(b"split.no", 2, b"\0\0")]))


def packed():
    def w(name, tensors, config=b"", meta=None):
        header, data = {}, b""
        if meta:
            header["__metadata__"] = meta
        for n, (dtype, shape, content) in tensors.items():
            header[n] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps(header).encode()
        write("packed", name, config + b"\n" + struct.pack("<Q", len(text)) + text + data)

    state = json.dumps({"quant_type": "nf4", "blocksize": 4, "dtype": "float32", "shape": [2, 3]}).encode()
    four_bit = {"w": ("U8", [3, 1], b"\x0f\x9a\x78"), "w.absmax": ("F32", [2], floats(1, 2)), "w.quant_map": ("F32", [16], floats(*range(16))), "w.quant_state.bitsandbytes__nf4": ("U8", [len(state)], state)}
    w("nf4", four_bit)
    w("nf4_no_map", {k: v for k, v in four_bit.items() if "map" not in k})
    w("int8", {"f.weight": ("I8", [2, 2], b"\1\2\3\4"), "f.SCB": ("F32", [2], floats(1, 2)), "f.weight_format": ("U8", [], b"\0")})
    bits = b'{"quantization_config":{"config_groups":{"g":{"weights":{"num_bits":4}}}}}'
    ints = {"l.weight_packed": ("I32", [2, 1], b"\1" * 8), "l.weight_scale": ("F32", [2, 1], floats(1, 2)), "l.weight_shape": ("I64", [2], struct.pack("<2q", 2, 8)), "l.weight_zero_point": ("I32", [1, 1], b"\x88\0\0\0")}
    w("int4", ints, bits)
    w("int4_no_config", ints)
    w("int4_shape", dict(ints, **{"l.weight_shape": ("I64", [2], struct.pack("<2q", 2, 1 << 40))}), bits)
    w("nvfp4", {"l.weight_packed": ("U8", [1, 8], b"\x21" * 8), "l.weight_scale": ("F8_E4M3", [1, 1], b"\x40"), "l.weight_global_scale": ("F32", [1], floats(4))})
    w("mxfp4", {"l.weight_packed": ("U8", [1, 16], b"\x21" * 16), "l.weight_scale": ("U8", [1, 1], b"\x80")})
    w("mxfp6", {"l.weight_packed": ("U8", [1, 24], b"\x21" * 24), "l.weight_scale": ("U8", [1, 1], b"\x80")})
    w("experts", {"e_blocks": ("U8", [1, 2, 1, 16], b"\x21" * 32), "e_scales": ("U8", [1, 2, 1], b"\x7f\x80")})
    w("experts_shape", {"e_blocks": ("U8", [1, 2, 1, 16], b"\x21" * 32), "e_scales": ("U8", [2, 1], b"\x7f\x80")})
    w("block_scales", {"a.weight": ("F8_E4M3", [2, 2], b"\x38" * 4), "a.weight_scale_inv": ("F32", [1, 2], floats(1, 2))}, b'{"quantization_config":{"weight_block_size":[2,1]}}')
    ternary = {"p.weight": ("U8", [1, 2], b"\xa4\x12"), "p.weight_scale": ("F32", [1], floats(2)), "p.bias": ("F32", [4], floats(1, 2, 3, 4))}
    for kind in (b"bitlinear", b"autobitlinear", b"other"):
        w(kind.decode(), ternary, b'{"quantization_config":{"quant_method":"bitnet","linear_class":"' + kind + b'"}}')
    note = json.dumps({"_type": "MXTensor", "_data": {"elem_dtype": {"_data": "float8_e4m3fn"}, "block_size": 32}})
    w("torchao", {"f._weight_qdata": ("F8_E4M3", [1, 32], b"\x38" * 32), "f._weight_scale": ("F8_E8M0", [1, 1], b"\x7f")}, meta={"tensor_names": "[]", "f.weight": note})
    w("tied", {"model.embed_tokens.weight": ("F32", [1], floats(1))}, b'{"tie_word_embeddings":true,"model_type":"llama"}')
    w("gpt2", {"h.0.attn.c_attn.weight": ("F32", [1, 2], floats(1, 2)), "wpe.weight": ("F32", [2, 1], floats(1, 2))}, b'{"model_type":"gpt2"}')
    optimizer = "state.0.__bnb_optimizer_quant_state__."
    w("optimizer", {optimizer + "state1": ("U8", [2], b"\1\2"), optimizer + "qmap1": ("F32", [256], floats(*range(256))), optimizer + "absmax1": ("F32", [1], floats(3))})
    write("packed", "index", b'\n{"weight_map":{"a":"none.safetensors"}}')
    write("packed", "index_up", b'\n{"weight_map":{"a":"../x"}}')


for make in (safetensors, npy, image, idx, json_texts, options, golden, checkpoint, cli, pickles, archives, gguf, packed):
    make()
