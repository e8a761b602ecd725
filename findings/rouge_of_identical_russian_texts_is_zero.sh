#!/usr/bin/env bash
# ROUGE of a text with itself: rouge-score 0.1.2 (what Hugging Face's evaluate calls), rouge 1.0.1.
# One would guess: 1, whatever the language; and two texts that differ by one word in five score alike in any alphabet.
# What happens: rouge-score keeps only a-z and 0-9. A Russian text scores 0 with itself, without a warning, and a French word with accents
# falls into pieces (g, teau) or vanishes, so that other words count. rouge splits at spaces and gives 1. Minimum Bayes risk over such scores chooses the
# first candidate, since all utilities are 0; dropin's mbr_decode takes token ids, which leaves the alphabet out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q rouge-score==0.1.2 rouge==1.0.1
"$folder/env/bin/python" - <<'PYTHON'
from rouge import Rouge
from rouge_score import rouge_scorer

scorer = rouge_scorer.RougeScorer(["rougeL"])


def fmeasure(a, b):
    return round(scorer.score(a, b)["rougeL"].fmeasure, 3)


def by_spaces(a, b):
    return round(Rouge().get_scores(a, b)[0]["rouge-l"]["f"], 3)


russian = "кошка сидит на тёплом окне"
english = ("the cat sits there now", "the dog sits there now")
french = ("le gâteau à la crème", "le gâteau à la fraise")
rows = {
    "russian, itself": (fmeasure(russian, russian), by_spaces(russian, russian)),
    "english, one word of five changed": (fmeasure(*english), by_spaces(*english)),
    "french, one word of five changed": (fmeasure(*french), by_spaces(*french)),
}
for name, (ours, theirs) in rows.items():
    print(f"{name}: rouge-score {ours}, rouge {theirs}")
assert rows == {
    "russian, itself": (0, 1.0),
    "english, one word of five changed": (0.8, 0.8),
    "french, one word of five changed": (0.727, 0.8),
}, rows
PYTHON
