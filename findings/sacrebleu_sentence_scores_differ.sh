#!/usr/bin/env bash
# sacrebleu 2.6.0: BLEU of one sentence, by its two ways.
# One would guess: sentence_bleu(hypothesis, references) and BLEU().sentence_score(hypothesis, references) give one number.
# What happens: the function leaves out the orders of n-grams that have no match (effective_order), the class does not unless told:
# 71.65 and 0.0 for three right words of four. Rankings of short candidates (minimum Bayes risk) change with it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q sacrebleu==2.6.0
"$folder/env/bin/python" - <<'PYTHON'
import logging

import sacrebleu

logging.disable(logging.WARNING)
words, references = "the cat sat", ["the cat sat down"]
function = sacrebleu.sentence_bleu(words, references).score
by_class = sacrebleu.BLEU().sentence_score(words, references).score
told = sacrebleu.BLEU(effective_order=True).sentence_score(words, references).score
print(f"sentence_bleu {function:.2f}, BLEU().sentence_score {by_class:.2f}, with effective_order {told:.2f}")
assert abs(function - 71.653) < 1e-2 and by_class == 0 and told == function
PYTHON
