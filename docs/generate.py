"""The site's sources: docs/pages, README's words, and a page per component from the registry (`dropin describe --json`) and its docstring in the headers.

python3 docs/generate.py PROGRAM OUTPUT    writes OUTPUT/src and OUTPUT/mkdocs.yml
"""
import glob
import json
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
# Few entries at the top, so that the bar fits a window.
SECTIONS = {
    "Tasks": {"Your own training loop": "training.md", "Your own module": "modules.md", "Your own function": "autograd.md", "Groups and schedules": "optimizers.md",
              "Your own data": "data.md", "Checkpoints": "checkpoints.md", "Generating": "generation.md", "Threads and random numbers": "threads.md", "Eigen, pointers, DLPack": "arrays.md"},
    "PyTorch": {"From PyTorch to dropin": "from_pytorch.md", "Differences": "differences.md", "Functions": "functions.md"},
    "Inside": {"Architecture": "architecture.md", "A tour": "tour.md", "Adding a component": "adding.md", "A kernel": "kernel.md", "Contributing": "contributing.md"},
    "Measured": {"Results": "bench/README.md", "How": "bench/results/README.md", "Readme": "readme.md", "Changelog": "changelog.md"},
}


def ask(program, *words):
    return json.loads(subprocess.run([program, *words, "--json"], capture_output=True, text=True, check=True).stdout)


def headers():
    for folder, _, names in sorted(os.walk(os.path.join(ROOT, "include", "dropin"))):
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path) as f:
                yield os.path.relpath(path, os.path.join(ROOT, "include")), f.read()


def docstrings():
    """name -> (header, comment, declaration) of every class, struct and function. Classes made by a macro have the comment above their line, or the macro's own;
    names that share one comment have a line `/// - NAME: words` in it. A declaration is kept for functions only."""
    found, lists = {}, {}

    def words(comment):
        return "\n".join(line[3:].removeprefix(" ") for line in comment.strip().split("\n") if not line.startswith("/// - "))

    pattern = re.compile(r"((?:^///[^\n]*\n)*)(?:template[^\n]*\n)?^((class|struct|[\w:<>, *&]+?)\s+(\w+)\s*(\((?:[^(){};]|\{[^{}]*\}|\([^()]*\))*\))?[^;{(]*[;{])", re.M)
    for path, text in headers():
        macros = {m.group(2): words(m.group(1)) for m in re.finditer(r"((?:^///[^\n]*\n)+)#define (DROPIN_\w+)\(", text, re.M)}
        for m in re.finditer(r"((?:^///[^\n]*\n)*)^(DROPIN_[A-Z_]+)\((\w+),", text, re.M):
            prefix = "FewBit" if "FEWBIT" in m.group(2) else ""
            found.setdefault(prefix + m.group(3), (path, words(m.group(1)) or macros.get(m.group(2), ""), ""))
        for m in pattern.finditer(re.sub(r"^namespace (?!dropin)\w+ \{.*?^\}", "", text, flags=re.M | re.S)):
            kind = m.group(3) in ("class", "struct")
            if kind or m.group(5):
                declaration = "" if kind else re.sub(r"^inline ", "", m.group(2)).rstrip("{; ") + ";"
                old = found.get(m.group(4))
                if not old:
                    found[m.group(4)] = (path, words(m.group(1)), declaration)
                elif old[0] == path and declaration:  # an overload
                    found[m.group(4)] = (path, "\n".join(filter(None, (old[1], words(m.group(1))))), old[2] + "\n" + declaration)
        for m in re.finditer(r"((?:^///[^\n]*\n)+)", text, re.M):
            for name, line in re.findall(r"^/// - (\w+): (.*)$", m.group(1), re.M):
                lists[name] = (path, line + "\n\n" + words(m.group(1)), "")
    return {**lists, **{k: v for k, v in found.items() if v[1] or k not in lists}}


def cell(text):
    return str(text).replace("|", "\\|").replace("<", "&lt;")


def table(titles, rows):
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    return "\n".join(lines + ["| " + " | ".join(cell(c) for c in r) + " |" for r in rows]) + "\n"


def measured(name):
    """Rows of bench/README.md that speak of the component: (what, wanted, measured), and (claim, the paper's figure, verdict)."""
    with open(os.path.join(ROOT, "bench", "README.md")) as f:
        rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in f if line.startswith("| ")]
    words = {w.lower() for w in (name, re.sub(r"(Attention|Operator|2d)$", "", name))} - {"multihead"}
    figures = [r[1:4] for r in rows if len(r) >= 4 and r[0].isdigit() and any(re.search(rf"(?<![\w-]){re.escape(w)}(?![\w-])", r[1].lower()) for w in words)]
    claims = [r[1:4] for r in rows if len(r) >= 4 and r[0] == name and re.match("holds|does not hold|undecided", r[3])]
    return figures, claims


def results():
    """The folder of the last committed results, from the project's root."""
    return os.path.relpath(max(glob.glob(os.path.join(ROOT, "bench", "results", "*", ""))), ROOT)


def bench_rows(name):
    """Rows of the last bench.json: input, time forward and with backward, share of the machine's limit, memory at most."""
    with open(os.path.join(ROOT, results(), "bench.json")) as f:
        of = [b for b in json.load(f)["benchmarks"] if b["component"] == name]
    scale = {"ns": 1e-6, "us": 1e-3, "ms": 1}
    rows = {}
    for b in of:
        row = rows.setdefault(b["size"], {})
        row[b["mode"]] = f"{b['real_time'] * scale[b['time_unit']]:.4g} ms" + (f" ({100 * b['share_of_limit']:.0f} %)" if b.get("share_of_limit", 0) >= 0.01 else "")
        row["memory"] = max(row.get("memory", 0), b.get("peak_MB", 0))
    modes = [m for m in dict.fromkeys(b["mode"] for b in of)]
    return modes, [(size, *(row.get(m, "") for m in modes), f"{row['memory']:.3g} MB") for size, row in rows.items()]


def pictures(name):
    """Plots of the last results that show the component: (title, path)."""
    for path in sorted(glob.glob(os.path.join(ROOT, results(), "*.svg"))):
        with open(path) as f:
            texts = re.findall(r"<text[^>]*>([^<]*)<", f.read())
        if name in texts:
            yield texts[0], os.path.relpath(path, ROOT)


def page(info, doc):
    name, kind = info["name"], info["kind"]
    header, words, declaration = doc.get(name) or doc.get(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()) or ("", "", "")
    out = [f"# {name}", "", info["summary"][:1].upper() + info["summary"][1:] + ".", ""]
    facts = [("family", info["family"])]
    if info.get("replaces"):
        facts.append(("replaces", f"[{info['replaces']}]({info['replaces']}.md)"))
    if info.get("call"):
        facts.append(("call", f"`{info['call']}`"))
    facts.append(("devices", info["devices"]))
    if header:
        facts.append(("header", f"`#include <{header}>`"))
    if info.get("paper"):
        facts.append(("paper", re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", info["paper"])))
    out += [table(["", ""], [(f"**{k}**", v) for k, v in facts]).replace("&lt;", "<"), ""]
    if words:
        out += ["> " + re.sub(r"\n", "\n> ", words.replace("<", "&lt;").replace("*", "\\*")), ""]
    if kind == "module":
        sample = json.dumps(info.get("sample_options") or {})
        made = f'Box<Module> layer = make("{name}", Json::parse(R"({sample})"));' if sample != "{}" else f'Box<Module> layer = make("{name}");'
        out += ["## Make and call", "", "```cpp", made, 'NamedTensors result = layer->call({{"x", x}});' if re.match(r"x \[", info["call"] or "") else f"// {info['call']}", "```", ""]
    if info.get("replaces") and kind == "module":
        out += ["## Swap", "", "```cpp", f'swap(model, "{info["replaces"]}", "{name}");', "```", "", "```", f"dropin train --task {task(info)} --swap {info['replaces']}={name}", "```", ""]
    elif info.get("replaces") and kind == "optimizer":
        out += ["## Swap", "", "```cpp", f"{name} optimizer(model.parameters(), {{.lr = 1e-3}});   // was {info['replaces']}", "```", "", "```", f"dropin train --task text --swap {info['replaces']}={name}", "```", ""]
    elif kind == "function":
        if declaration:
            out += ["## Call", "", "```cpp", declaration, "```", ""]
    out += ["## Options", "", table(["name", "type", "default", "meaning"], [(f"`{o['name']}`", o["type"], f"`{json.dumps(o['default'])}`", o["doc"]) for o in info["options"]]) if info["options"] else "None.\n"]
    parameters = info.get("parameters")
    if parameters:
        sample = info.get("sample_options") or {}
        out += ["## Parameters", "", f"Names in a checkpoint, and shapes with `{json.dumps(sample)}`:" if sample else "Names in a checkpoint:", "",
                table(["name", "shape"], [(f"`{n}`", shape) for n, shape in parameters.items()])]
    figures, claims = measured(name)
    if claims:
        out += ["## The paper's claim, here", "", "By `dropin claims " + name + "`.", "", table(["claim", "the paper's figure", "here"], claims)]
    modes, rows = bench_rows(name)
    plots = list(pictures(name))
    if figures or rows or plots:
        out += ["## Measured", ""]
    if rows:
        out += ["By `dropin bench " + name + "`; in brackets the share of what the machine's arithmetic or memory allows. [Machine and method](bench/results/README.md).", "",
                table(["input", *modes, "memory at most"], rows)]
    out += [f"![{title}]({path})\n" for title, path in plots]
    if figures:
        out += ["Against others. Ratios from one run each; commands, machine and limits: [results](bench/results/README.md).", "", table(["row", "wanted", "measured"], figures)]
    return "\n".join(out)


def task(info):
    return {"ImageMixer": "images", "SequenceMixer": "recall"}.get(info["family"], "text")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    program, output = sys.argv[1:]
    source = os.path.join(output, "src")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(os.path.join(HERE, "pages"), source)
    with open(os.path.join(ROOT, "README.md")) as f, open(os.path.join(source, "readme.md"), "w") as g:
        g.write(f.read().replace("](docs/pages/", "](").replace("](CHANGELOG.md)", "](changelog.md)"))
    for name in ["README.md"] + glob.glob("results/**/*.*", root_dir=os.path.join(ROOT, "bench"), recursive=True):
        if name.endswith((".md", ".svg")):
            os.makedirs(os.path.dirname(os.path.join(source, "bench", name)), exist_ok=True)
            shutil.copy(os.path.join(ROOT, "bench", name), os.path.join(source, "bench", name))
    shutil.copy(os.path.join(ROOT, "CHANGELOG.md"), os.path.join(source, "changelog.md"))
    doc, families = docstrings(), {}
    for c in ask(program, "list"):
        info = ask(program, "describe", c["name"])
        families.setdefault(c["family"], []).append(c)
        with open(os.path.join(source, c["name"] + ".md"), "w") as f:
            f.write(page(info, doc))
    with open(os.path.join(source, "components.md"), "w") as f:
        f.write("# Components\n\nMembers of a family take the same call and replace each other.\n")
        for family, members in families.items():
            f.write(f"\n## {family}\n\n" + table(["name", "replaces", "what"], [(f"[{c['name']}]({c['name']}.md)", c["replaces"] or "", c["summary"]) for c in members]))
    nav = ["nav:", "  - Start: index.md"]
    for title, pages in SECTIONS.items():
        nav += [f"  - {title}:"] + [f"      - {name}: {page}" for name, page in pages.items()]
    nav += ["  - Components:", "      - All: components.md"]
    for family, members in families.items():
        nav.append(f"      - {family}:")
        nav += [f"          - {c['name']}: {c['name']}.md" for c in members]
    missing = [p for p in os.listdir(os.path.join(HERE, "pages")) if not any(line.endswith(f" {p}") for line in nav)]
    if missing:
        sys.exit(f"docs: not in SECTIONS of generate.py: {', '.join(missing)}")
    with open(os.path.join(HERE, "mkdocs.yml")) as f, open(os.path.join(output, "mkdocs.yml"), "w") as g:
        g.write(f.read() + "\n".join(nav) + "\n")


main()
