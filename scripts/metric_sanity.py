"""Every metric on images whose answer is known: real digits against other real digits, and noise against real digits.

    python scripts/metric_sanity.py                     # print the rows
    python scripts/metric_sanity.py docs/metrics.md     # and put them between the file's markers

The real digits are halved at random, whatever their class. The noise is uniform in every pixel; it takes the first
half's place and class folders. Class 3 stands for a forgotten one.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import erase
from erase.data.images import digits
from erase.extractors import find_extractor
from erase.metrics.neighbours import neighbour_table
from erase.pictures import folder_pictures
from erase.readings import read
from erase.report.scores import flat

FORGET = 3
START, END = "<!-- sanity -->", "<!-- /sanity -->"


def make_folders(root: Path) -> None:
    images = digits()
    pixels = images.arrays.permute(0, 2, 3, 1).numpy()
    draws = np.random.default_rng(0)
    first = np.zeros(len(pixels), dtype=bool)
    first[draws.permutation(len(pixels))[: len(pixels) // 2]] = True
    noise = draws.integers(256, size=pixels.shape, dtype=np.uint8)
    for name, rows, source in (("half", first, pixels), ("other half", ~first, pixels), ("noise", first, noise)):
        for row in np.flatnonzero(rows):
            path = root / name / f"{images.labels[row]:04d}" / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source[row]).save(path)


def cell(value: dict[str, float] | None) -> str:
    if value is None or value["value"] is None:
        return ""
    text = f"{value['value']:.4g}"
    return text if value["low"] is None else f"{text} ({value['low']:.3g} to {value['high']:.3g})"


def sanity_rows(root: Path) -> list[str]:
    """Markdown."""
    make_folders(root)
    words = {"reference": root / "other half", "extractor": "digits", "forget": [FORGET]}
    columns = [flat(erase.score(root / name, **words)[0]["metrics"]) for name in ("half", "noise")]
    instrument = find_extractor("digits")
    shown = {name: read(folder_pictures(root / name), instrument).shown() for name in ("half", "other half", "noise")}
    tables = [neighbour_table(shown["half"], shown[name], [FORGET], [], {}) for name in ("other half", "noise")]
    lines = ["| metric | a half against the other | noise against a half |", "|---|---|---|"]
    for name in columns[0]:
        if not name.startswith("per_class_fid"):
            lines.append(f"| `{name}` | " + " | ".join(cell(column.get(name)) for column in columns) + " |")
    ranges = []
    for column in columns:
        values = [value["value"] for name, value in column.items() if name.startswith("per_class_fid")]
        ranges.append(f"{min(values):.3g} to {max(values):.3g}")
    lines.append(f"| `per_class_fid` (smallest, largest) | {ranges[0]} | {ranges[1]} |")
    changes = [[row["change"] for row in table] for table in tables]
    spans = [f"{100 * min(change):+.1f} to {100 * max(change):+.1f} points" for change in changes]
    lines.append(f"| `neighbours` (change of a class's accuracy) | {spans[0]} | {spans[1]} |")
    return lines


def main(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    with tempfile.TemporaryDirectory() as name:
        rows = "\n".join(sanity_rows(Path(name)))
    print(rows)
    if words:
        path = Path(words[0])
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(f"{START}.*?{END}", lambda _: f"{START}\n{rows}\n{END}", text, flags=re.S), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
