#!/usr/bin/env bash
# What the program answers: exit codes, messages, and a training run that is cut and resumed.
set -u
dropin=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

# expect CODE TEXT ARGUMENTS...: the exit code, and a text in what is printed
expect() {
  local code=$1 text=$2 out got
  shift 2
  out=$("$dropin" "$@" 2>&1 </dev/null)
  got=$?
  if [ $got -ne "$code" ] || [[ "$out" != *"$text"* ]]; then
    printf 'FAILED: dropin %s\n  exit %s, expected %s; expected to read: %s\n%s\n' "$*" $got "$code" "$text" "$out"
    failures=$((failures + 1))
  fi
}

expect 0 "MultiheadAttention" list
expect 0 '"name": "RMSNorm"' list --family Norm --json
expect 2 'no family "Norms"' list --family Norms
expect 0 "embed_dim" describe MultiheadAttention
expect 0 '"default": null' describe RMSNorm --json
expect 0 "q_proj_global.weight" describe LongformerAttention
expect 0 "[B, L, D]" describe LongformerAttention
expect 2 'the nearest name is "LongformerAttention"; components: ' describe Longformer
expect 2 'the nearest name is "MultiheadAttention"' describe MultiheadAttenton
expect 0 "cpu:" devices
DROPIN_DISABLE=cuda expect 0 "cuda: none: DROPIN_DISABLE names cuda" devices
DROPIN_CUDA_PLUGIN="$folder/none.so" expect 0 "none.so: no such file" devices
DROPIN_CUDA_PLUGIN="$folder/none.so" expect 2 "cuda:0: no CUDA device: no plugin was found that fits (tried" train --device cuda --task text --steps 1
expect 2 "required" describe
expect 2 "see dropin --help" nonsense
expect 2 'no command "trian"; the nearest are train' trian
expect 2 'no component "Foo"' describe Foo
expect 0 "INT=200" train --help
expect 0 "0: recall 32, text 16, images 32, segment 32" train --help
DROPIN_NUM_THREADS=abc expect 2 'DROPIN_NUM_THREADS is "abc", expected a whole number' list
DROPIN_NUM_THREADS=0 expect 2 'DROPIN_NUM_THREADS is "0"' list
DROPIN_NUM_THREADS=2 expect 0 "cpu: 2 threads" devices
DROPIN_DISABLE=onednm expect 2 'names "onednm", expected a list of onednn' list
printf 'not a tensor file' > "$folder/bad.safetensors"
expect 2 "no such file" conform "$folder/none"
expect 2 "bad.safetensors" conform "$folder/bad.safetensors"
expect 2 'the nearest name is "LongformerAttention"; components: ' bench Longformer
expect 2 "no benchmark matches" bench ReLU --filter L:99 --rounds 1
expect 2 "expected 1 to 1000" bench ReLU --rounds 0
expect 2 "threads is 5000" bench ReLU --threads 5000
expect 2 "there is no peer program" bench Linear --peer "$folder/no_such_peer"
expect 2 "is it a peer" bench Linear --peer /bin/true
expect 2 "no usable device cuda:77" bench ReLU --device cuda:77
expect 2 "expected cpu, cuda" bench ReLU --device tpu
expect 2 "cannot be made" bench ReLU --plot "$folder/bad.safetensors/plots"
expect 2 "$folder/none" bench ReLU --json "$folder/none/x.json"
expect 2 "bad.safetensors" bench --compare "$folder/bad.safetensors" "$folder/bad.safetensors"
expect 2 "cannot be read" bench --compare "$folder/none.json" "$folder/none.json"
expect 2 "say where with --plot" bench --from "$folder/none.json"
expect 0 "of GELU" bench ReLU --filter x:1x1024 --rounds 2 --min-time 0 --threads 1 --json "$folder/a.json" --plot "$folder/plots"
expect 0 "2 rows in common" bench --compare "$folder/a.json" "$folder/a.json"
expect 0 "ratios.svg" bench --from "$folder/a.json" --plot "$folder/plots"
expect 2 'the nearest name is "LongformerAttention"; claims are made for: ' claims Longformer
expect 2 'no claim for "ReLU"' claims ReLU
expect 2 "there is no such file" claims --data "$folder/none"
expect 2 "expected input.txt" claims --data "$folder"
expect 2 "$folder/none" claims quantize_mx --output "$folder/none/x.json"
expect 0 "needs --data" claims ParseIdx
expect 0 '"result": "holds"' claims quantize_mx --json --output "$folder/claims.json"
expect 0 "bits/byte" train --task text --steps 1 --batch 2 --length 16 --width 16 --layers 1 --save "$folder/textmodel"
printf 'Dr. Who came. He left!\nBye \xff.' > "$folder/text.txt"
expect 0 "Dr. Who came. "$'\n'"He left!"$'\n'"Bye " segment "$folder/text.txt"
expect 0 '{"begin":14,"end":22,"text":"He left!"}' segment "$folder/text.txt" --rule --json
expect 0 $'0\t13\tDr. Who came.' segment "$folder/text.txt" --offsets --window 1 --options '{"strip_whitespace": true}'
expect 0 "1 bytes are no UTF-8, the first at 27" segment "$folder/text.txt"
expect 0 "0 segments of 0 bytes" segment -
expect 2 "cannot be read" segment "$folder/none.txt"
expect 2 "cannot be read" segment "$folder"
expect 2 'unknown option "strip"' segment "$folder/text.txt" --options '{"strip": true}'
expect 2 "no object" segment "$folder/text.txt" --options '3'
expect 2 "expected one of them" segment "$folder/text.txt" --rule --model "$folder/bad.safetensors"
expect 2 "bad.safetensors" segment "$folder/text.txt" --model "$folder/bad.safetensors"
weights="$folder/textmodel"
[ -f "$weights" ] || weights=$(ls "$folder"/textmodel*.safetensors | head -1)
expect 0 "safetensors, " inspect "$weights"
expect 0 '"container": "safetensors"' inspect "$weights" --json
expect 0 "wrote $folder/half.gguf" convert "$weights" "$folder/half.gguf" --format F16
expect 0 "general.architecture: dropin" inspect "$folder/half.gguf"
expect 0 "half.safetensors.index.json" convert "$folder/half.gguf" "$folder/half.safetensors" --shard 2KB
expect 0 "F16" inspect "$folder/half.safetensors.index.json"
expect 2 "ends in .safetensors or .gguf" convert "$weights" "$folder/half.bin"
expect 2 'format is "Q9"' convert "$weights" "$folder/none.gguf" --format Q9
expect 2 '"5XB"' convert "$weights" "$folder/none.safetensors" --shard 5XB
expect 2 'no name map "BART"' convert "$weights" "$folder/none.safetensors" --map BART
expect 2 "is the file that is read" convert "$folder/half.gguf" "$folder/half.gguf"
expect 2 "cannot be read" inspect "$folder/none.pt"
expect 0 "F1" train --task segment --steps 40 --batch 8 --width 16 --layers 1 --lr 0.02 --save "$folder/segmenter"
printf 'the king sees the old river the lamp finds the road' > "$folder/spoken.txt"
expect 0 "the old river "$'\n' segment "$folder/spoken.txt" --model "$folder/segmenter" --options '{"threshold": 0.2}'
expect 2 "need 2147483 GB at least, this machine has" train --task text --layers 16000000 --width 1024
expect 2 "is 0, expected a text in UTF-8" train --task segment --data "$folder/segmenter" --steps 1
# What is no UTF-8 text is refused before training, in words; one with odd characters is not.
printf 'caf\xe9 au lait, na\xefve, %400s\n' x > "$folder/latin1.txt"
printf '\xff\xfea\x00b\x00c\x00%40s' x > "$folder/utf16.txt"
printf '%30s\x01\x02\x03\x04\x05\x06\x07' x > "$folder/controls.txt"
printf 'caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x98\x80 \x1b[1mbold\x1b[0m \x7f \xef\xbf\xbf %400s \xe2\x80' x > "$folder/odd.txt"
for task in text segment; do
  expect 2 "byte 3 (0xE9) is no UTF-8, expected a text in UTF-8; one in Latin-1 is converted by iconv -f LATIN1 -t UTF-8" train --task $task --data "$folder/latin1.txt" --steps 1
  expect 2 "it begins as UTF-16 does" train --task $task --data "$folder/utf16.txt" --steps 1
  expect 2 "7 of 37 bytes are control characters" train --task $task --data "$folder/controls.txt" --steps 1
  expect 2 "is 0, expected a text in UTF-8" train --task $task --data "$dropin" --steps 1
done
expect 0 "bits/byte" train --task text --data "$folder/odd.txt" --steps 1 --batch 2 --length 16 --width 16 --layers 1
expect 2 "has no file train-images-idx3-ubyte (or .gz)" train --task images --data "$folder" --steps 1
expect 2 "is no folder with train-images-idx3-ubyte" train --task images --data "$folder/none" --steps 1
expect 2 "no vocabulary" segment "$folder/text.txt" --model "$folder/textmodel"
# Three vectors, searched.
vectors="$folder/vectors.npy"
printf '\x93NUMPY\x01\x00\x46\x00%-69s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }" > "$vectors"
printf '\0\0\x80\x3f\0\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\x80\x3f\0\0\x80\x3f' >> "$vectors"  # (1, 0), (0, 1), (1, 1)
expect 0 "3 documents" index build "$folder/index" --vectors "$vectors" --options '{"metric": "dot"}' --k 2
expect 0 $'0\t1\t0\t1\n0\t2\t2\t1\n1\t1\t1\t1\n' index search "$folder/index" --queries "$vectors"
expect 0 '{"query":2,"ids":[2],"scores":[2.0]}' index search "$folder/index" --queries "$vectors" --k 1 --json
expect 0 "" index search "$folder/index" --queries "$vectors" --save "$folder/found"
expect 2 "holds 2 tensors, \"ids\" first; expected --tensor" index search "$folder/index" --queries "$folder/found"
expect 2 "holds int64 [3, 2], expected floating-point" index search "$folder/index" --queries "$folder/found" --tensor ids
expect 0 "6 documents" index add "$folder/index" --vectors "$folder/found" --tensor scores
expect 2 "expected build, add or search" index find "$folder/index"
expect 2 "expected --vectors" index build "$folder/index"
expect 2 'metric is "l1"' index build "$folder/index" --vectors "$vectors" --options '{"metric": "l1"}'
expect 2 "expected a VectorIndex" index search "$folder/segmenter" --queries "$vectors"
# Texts of a model of bytes.
text=(generate --model "$folder/textmodel" --max-new 6)
expect 0 "6 tokens behind 1 prompts" "${text[@]}" --prompt "the king"
expect 0 "12 tokens behind 2 prompts" "${text[@]}" --prompt "the king" --prompt a --decoder 'BeamSearchDecoder:{"num_beams": 3}'
expect 0 "4 tokens behind 1 prompts" generate --model "$folder/textmodel" --prompt "the king sat"
printf 'a\nthe lamp\n' > "$folder/prompts"
expect 0 '"prompt":"the lamp"' "${text[@]}" --prompt-file "$folder/prompts" --json
expect 2 "is empty" "${text[@]}" --prompt ""
expect 2 "there is no prompt" "${text[@]}"
expect 2 "none" "${text[@]}" --prompt-file "$folder/none"
expect 2 'the nearest name is "GreedyDecoder"' "${text[@]}" --prompt a --decoder GreedyDecode
expect 2 "Linear is a Projection, expected a Decoder" "${text[@]}" --prompt a --decoder Linear
expect 2 'unknown option "beams"' "${text[@]}" --prompt a --decoder 'BeamSearchDecoder:{"beams": 3}'
expect 2 "json: at byte" "${text[@]}" --prompt a --decoder 'BeamSearchDecoder:{'
expect 2 "not a JSON object" "${text[@]}" --prompt a --decoder 'BeamSearchDecoder:3'
expect 2 "no tree masks" "${text[@]}" --prompt a --decoder 'SpeculativeDecoder:{"heads": {"type": "HydraHeads", "embed_dim": 4, "vocab_size": 256}}'
expect 2 "prompt 2 has 16 bytes and 1 are to be generated, the model holds at most 16" generate --model "$folder/textmodel" --prompt a --prompt "the old king sat"
expect 2 "prompt 1 has 12 bytes and 6 are to be generated" "${text[@]}" --prompt "the king sat"
expect 2 "max-new is -1" generate --model "$folder/textmodel" --prompt a --max-new -1
expect 2 "both given" "${text[@]}" --prompt a --decoder 'GreedyDecoder:{"max_new_tokens": 3}'
expect 2 "bad.safetensors" generate --model "$folder/bad.safetensors" --prompt a
expect 2 "expected a Transformer" generate --model "$folder/segmenter" --prompt a
expect 0 "accuracy" train --task recall --steps 1 --batch 2 --length 9 --width 16 --layers 1 --save "$folder/recall"
expect 2 'for the task "recall"' generate --model "$folder/recall" --prompt a
# Drafts do not change a text, a prompt beside it neither, and the same seed gives the same.
same_text() {
  if [ "$1" != "$2" ] || [ -z "$1" ]; then
    printf 'FAILED: texts differ (%s)\n%s\n%s\n' "$3" "$1" "$2"
    failures=$((failures + 1))
  fi
}
texts() { "$dropin" "${text[@]}" "$@" 2> /dev/null | od -c; }
same_text "$(texts --prompt 'the king')" "$(texts --prompt 'the king' --decoder AssistedDecoder)" drafts
both=$("$dropin" "${text[@]}" --prompt-file "$folder/prompts" 2> /dev/null | od -c)
same_text "$({ "$dropin" "${text[@]}" --prompt a; "$dropin" "${text[@]}" --prompt 'the lamp'; } 2> /dev/null | od -c)" "$both" prompts
drawn=(--prompt "the king" --decoder SamplingDecoder)
same_text "$(texts "${drawn[@]}" --seed 3)" "$(texts "${drawn[@]}" --seed 3)" seeds
# Bytes that are no UTF-8 come as they are, and in JSON as U+FFFD.
if command -v iconv > /dev/null; then
  hot=("${text[@]}" --prompt a --decoder 'SamplingDecoder:{"temperature": 9}')
  "$dropin" "${hot[@]}" 2> /dev/null | iconv -f UTF-8 -t UTF-8 > /dev/null 2>&1
  as_is=$?
  "$dropin" "${hot[@]}" --json 2> /dev/null | iconv -f UTF-8 -t UTF-8 > /dev/null 2>&1
  if [ $? -ne 0 ] || [ $as_is -eq 0 ]; then
    echo "FAILED: bytes that are no UTF-8"
    failures=$((failures + 1))
  fi
fi
# A stop word ends a text and is left out of it; so it is with any decoder.
bytes=$("$dropin" "${text[@]}" "${drawn[@]}" --seed 3 --json 2> /dev/null | sed 's/.*"tokens":.\([0-9,]*\).*/\1/')
IFS=, read -r -a ids <<< "$bytes"
word=$(printf "\\x$(printf %x "${ids[2]}")\\x$(printf %x "${ids[3]}")")
expect 0 '"stopped_by":"length"' "${text[@]}" "${drawn[@]}" --seed 3 --json
expect 0 "4 tokens behind" "${text[@]}" "${drawn[@]}" --seed 3 --stop never --stop "$word"
expect 0 '"stopped_by":"stop"' "${text[@]}" "${drawn[@]}" --seed 3 --stop "$word" --json
expect 0 '"stopped_by":"end"' "${text[@]}" --prompt "the king" --decoder "SamplingDecoder:{\"eos_id\": ${ids[2]}}" --seed 3 --json
expect 2 "stop is empty" "${text[@]}" --prompt a --stop ""
if [ -e /dev/full ]; then
  "$dropin" segment "$folder/text.txt" > /dev/full 2> "$folder/words"
  if [ $? -ne 2 ] || ! grep -q "cannot be written" "$folder/words"; then
    echo "FAILED: segments on a full disk"
    failures=$((failures + 1))
  fi
fi
expect 2 "no task \"poems\"" train --task poems
expect 2 "expected OLD=NEW" train --task recall --swap LayerNorm
expect 2 "is a Norm" train --task recall --swap LayerNorm=Linear
expect 2 "the model has no Conv2d" train --task recall --swap Conv2d=DepthwiseConv2d
expect 2 "cannot be read" train --task text --data "$folder/none.txt"
expect 2 "FashionMNIST" train --task images --data "$folder"
expect 2 "there is no folder" train --task recall --save "$folder/none/x"
expect 2 "not a regular file" train --task recall --save /dev/full --steps 100000000
expect 2 "clip is -1, expected a positive number" train --task recall --clip -1
expect 2 "does not fit 64 bits" train --task recall --steps 99999999999999999999
expect 2 "it is a folder" train --task recall --save "$folder" --steps 100000000
expect 2 "the optimizer is AdamW" train --task recall --swap SGD=Adam8bit --steps 100000000
expect 2 "beta" train --task recall --swap 'AdamW=AdamW8bit:{"betas": [2, 0.9]}' --steps 100000000
expect 2 "bad.safetensors" train --task recall --resume "$folder/bad.safetensors"
expect 0 "RMSNorm" train --task recall --steps 3 --batch 2 --length 9 --width 16 --layers 1 --swap LayerNorm=RMSNorm
expect 0 "accuracy" train --task images --steps 2 --batch 4 --width 4 --layers 2

# A run cut in the middle and resumed ends exactly like one that was not.
run=(train --task recall --steps 12 --batch 4 --length 9 --width 16 --layers 1 --swap LayerNorm=RMSNorm --json)
"$dropin" "${run[@]}" --save "$folder/whole" --save-every 5 > "$folder/whole.json" 2>/dev/null
"$dropin" "${run[@]}" --save "$folder/part" --save-every 5 > /dev/null 2>&1 &
pid=$!
for _ in $(seq 200); do [ -e "$folder/part" ] && break; sleep 0.01; done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
"$dropin" "${run[@]}" --save "$folder/part" --save-every 5 --resume "$folder/part" > "$folder/part.json" 2>/dev/null
same() { grep -E '"(loss|metric|parameters)"' "$1"; }
if [ "$(same "$folder/whole.json")" != "$(same "$folder/part.json")" ] || [ -z "$(same "$folder/whole.json")" ]; then
  echo "FAILED: the resumed run differs"
  diff "$folder/whole.json" "$folder/part.json"
  failures=$((failures + 1))
fi
expect 2 "other settings" train --task recall --steps 13 --resume "$folder/whole"
expect 2 "steps is 13, there 12" "${run[@]/#12/13}" --resume "$folder/whole"
expect 2 "lr is 0.5, there 0.001" "${run[@]}" --lr 0.5 --resume "$folder/whole"

# A signal ends a run at its next step, with the state saved, and it goes on as if nothing had been.
run=("${run[@]/#12/300}")
"$dropin" "${run[@]}" > "$folder/whole.json" 2>/dev/null
"$dropin" "${run[@]}" --save "$folder/cut" --save-every 100000 > /dev/null 2> "$folder/cut.txt" &
pid=$!
sleep 0.3
kill -TERM $pid 2>/dev/null
wait $pid
code=$?
if [ $code -eq 143 ]; then
  grep -q "with --resume $folder/cut goes on" "$folder/cut.txt" || { echo "FAILED: it does not say how to go on"; failures=$((failures + 1)); }
  "$dropin" "${run[@]}" --resume "$folder/cut" > "$folder/cut.json" 2>/dev/null
  [ "$(same "$folder/whole.json")" = "$(same "$folder/cut.json")" ] || { echo "FAILED: the interrupted run differs"; failures=$((failures + 1)); }
elif [ $code -ne 0 ]; then
  echo "FAILED: after a signal the program ended with $code"
  failures=$((failures + 1))
fi

# What cannot be written is an error, wherever it goes.
"$dropin" "${run[@]/#300/1}" > /dev/full 2> "$folder/full.txt"
[ $? -eq 2 ] && grep -q "No space left" "$folder/full.txt" || { echo "FAILED: a full disk passed"; failures=$((failures + 1)); }
"$dropin" --help > /dev/full 2>/dev/null
[ $? -eq 2 ] || { echo "FAILED: a full disk passed --help"; failures=$((failures + 1)); }
{ sleep 0.3; "$dropin" list; echo $? > "$folder/pipe.txt"; } 2>/dev/null | true
[ "$(cat "$folder/pipe.txt")" = 2 ] || { echo "FAILED: a closed pipe passed"; failures=$((failures + 1)); }

# A run of one variant may be made longer.
one=(train --task recall --batch 4 --length 9 --width 16 --layers 1 --json)
"$dropin" "${one[@]}" --steps 4 --save "$folder/short" > /dev/null 2>&1
expect 0 '"steps": 6' "${one[@]}" --steps 6 --resume "$folder/short"
expect 2 "steps is 3, there 4" "${one[@]}" --steps 3 --resume "$folder/short"

[ $failures -eq 0 ] && echo "all answers as expected"
exit $((failures > 0))
