#!/usr/bin/env bash
# mlx 0.32.4, mx.quantize(mode="mxfp4") and mx.dequantize, CPU.
#
# One would guess that a block whose values are tiny (1e-38, near the least normal float32) comes back as zeros or as
# something tiny: MX formats keep a power of two from 2^-127 to 2^127 for each block, and a value too small for it has
# nowhere to go but 0.
#
# What happens: the exponent ceil(log2(m / 6)) is put into a byte without a bound. Below -127 it wraps: a block whose
# greatest value is 1e-38 gets the byte 255 and comes back as infinity, one of 1e-40 gets 248 and comes back as 1e37.
# The codes are those of the true exponent; only the byte is wrong. A block of zeros is well (byte 127, zeros).
# Who quantizes weights with dead channels of tiny values finds infinities in them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q "mlx[cpu]==0.32.4" numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import mlx.core as mx, numpy as np


def through(greatest):
    block = np.zeros((1, 32), np.float32)
    block[0, 0] = greatest
    codes, scales = mx.quantize(mx.array(block), group_size=32, bits=4, mode="mxfp4")
    back = mx.dequantize(codes, scales, group_size=32, bits=4, mode="mxfp4")
    return int(np.array(scales).ravel()[0]), float(np.array(back.astype(mx.float32)).ravel()[0])


for greatest in (1.0, 1e-30, 1e-37, 1e-38, 1e-40, 0.0):
    byte, value = through(greatest)
    print(f"greatest value {greatest:g}: scale byte {byte}, comes back as {value:g}")
assert through(1e-30)[1] < 2e-30 and through(1e-37)[1] < 2e-37
assert through(1e-38) == (255, float("inf"))
byte, value = through(1e-40)
assert byte == 248 and 1e36 < value < 1e38
assert through(0.0) == (127, 0.0)
print("as stated")
PY
