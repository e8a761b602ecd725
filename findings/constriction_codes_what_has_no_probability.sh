#!/usr/bin/env bash
# constriction 0.5.0: entropy coding of a symbol whose probability is 0.
# One would guess: the coder refuses it, since no code of finite length can stand for it.
# What happens: every symbol of the alphabet gets a share of at least 2^-24 of the range: the symbol is coded, in 24 bits and more,
# and decoded rightly. A model that rules symbols out by a probability of 0 is not checked by its own coder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 constriction==0.5.0
"$folder/env/bin/python" - <<'PYTHON'
import constriction
import numpy as np

model = constriction.stream.model.Categorical(np.array([0.5, 0.5, 0.0], dtype=np.float32), perfect=False)
coder = constriction.stream.stack.AnsCoder()
coder.encode_reverse(np.array([2], dtype=np.int32), model)
bits = coder.num_bits()
back = coder.decode(model, 1).tolist()
print(f"symbol of probability 0: coded, {bits} bits in the coder, decoded as {back}")
assert back == [2]
PYTHON
