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


def ask(program, *words):
    return json.loads(subprocess.run([program, *words, "--json"], capture_output=True, text=True, check=True).stdout)


def headers():
    for folder, _, names in sorted(os.walk(os.path.join(ROOT, "include", "dropin"))):
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path) as f:
                yield os.path.relpath(path, os.path.join(ROOT, "include")), f.read()


def docstrings():
    """name -> (header, comment) of every class, struct and function that has one."""
    found = {}
    pattern = re.compile(r"((?:^///[^\n]*\n)+)(?:template[^\n]*\n)?^(?:class|struct|[A-Za-z:<>]+ )\s*(\w+)", re.M)
    for path, text in headers():
        for m in pattern.finditer(text):
            words = "\n".join(line[3:].removeprefix(" ") for line in m.group(1).strip().split("\n"))
            found.setdefault(m.group(2), (path, words))
        for m in re.finditer(r"^(?:class|struct)\s+(\w+)[^;\n]*\{", text, re.M):
            found.setdefault(m.group(1), (path, ""))
    return found


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


def page(info, doc):
    header, words = doc.get(info["name"], ("", ""))
    name, kind = info["name"], info["kind"]
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
        facts.append(("paper", info["paper"]))
    out += [table(["", ""], [(f"**{k}**", v) for k, v in facts]).replace("&lt;", "<"), ""]
    if words:
        out += ["> " + re.sub(r"\n", "\n> ", words.replace("<", "&lt;").replace("*", "\\*")), ""]
    if info.get("replaces") and kind == "module":
        out += ["## Swap", "", "```cpp", f'swap(model, "{info["replaces"]}", "{name}");', "```", "", "```", f"dropin train --task {task(info)} --swap {info['replaces']}={name}", "```", ""]
    elif info.get("replaces") and kind == "optimizer":
        out += ["## Swap", "", "```cpp", f"{name} optimizer(model.parameters(), {{.lr = 1e-3}});   // was {info['replaces']}", "```", "", "```", f"dropin train --task text --swap {info['replaces']}={name}", "```", ""]
    elif kind == "function":
        out += ["## Use", "", "By its declaration in the header" + (f", in place of `{info['replaces']}`." if info.get("replaces") else "."), ""]
    out += ["## Options", "", table(["name", "type", "default", "meaning"], [(f"`{o['name']}`", o["type"], f"`{json.dumps(o['default'])}`", o["doc"]) for o in info["options"]]) if info["options"] else "None.\n"]
    parameters = info.get("parameters")
    if parameters:
        sample = info.get("sample_options") or {}
        out += ["## Parameters", "", f"Names in a checkpoint, and shapes with `{json.dumps(sample)}`:" if sample else "Names in a checkpoint:", "",
                table(["name", "shape"], [(f"`{n}`", shape) for n, shape in parameters.items()])]
    figures, claims = measured(name)
    if claims:
        out += ["## The paper's claim, here", "", "By `dropin claims " + name + "`.", "", table(["claim", "the paper's figure", "here"], claims)]
    if figures:
        out += ["## Measured", "", "Ratios from one run each; commands, machine and limits: [results](bench/results/README.md).", "", table(["row", "wanted", "measured"], figures)]
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
    nav = ["nav:", "  - Start: index.md", "  - Components: components.md"]
    for family, members in families.items():
        nav.append(f"  - {family}:")
        nav += [f"      - {c['name']}: {c['name']}.md" for c in members]
    nav += ["  - Architecture: architecture.md", "  - Adding a component: adding.md", "  - Measured: bench/README.md", "  - How it was measured: bench/results/README.md", "  - Contributing: contributing.md", "  - Readme: readme.md", "  - Changelog: changelog.md"]
    with open(os.path.join(HERE, "mkdocs.yml")) as f, open(os.path.join(output, "mkdocs.yml"), "w") as g:
        g.write(f.read() + "\n".join(nav) + "\n")


main()
