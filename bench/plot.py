"""Pictures as PNG: python bench/plot.py FOLDER... turns every .svg there (dropin bench --plot) into a .png of the same name.

The drawing is the program's own; this only needs something that reads SVG: rsvg-convert (librsvg2-bin) or the Python package cairosvg.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys


def main():
    a = argparse.ArgumentParser()
    a.add_argument("folder", nargs="+", type=pathlib.Path)
    a.add_argument("--zoom", type=float, default=2)
    args = a.parse_args()
    rsvg = shutil.which("rsvg-convert")
    if not rsvg:
        try:
            import cairosvg
        except (ImportError, OSError):
            sys.exit("plot.py: neither rsvg-convert (librsvg2-bin) nor cairosvg is here; the .svg files are complete without them")
    for folder in args.folder:
        pictures = sorted(folder.glob("*.svg"))
        if not pictures:
            sys.exit(f"plot.py: {folder} holds no .svg; dropin bench --plot {folder} draws some")
        for svg in pictures:
            png = svg.with_suffix(".png")
            if rsvg:
                subprocess.run([rsvg, "--zoom", str(args.zoom), "-o", str(png), str(svg)], check=True)
            else:
                cairosvg.svg2png(url=str(svg), write_to=str(png), scale=args.zoom)
            print(png)


main()
