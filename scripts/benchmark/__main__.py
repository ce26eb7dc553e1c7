"""Measures erase against floors, plain loops, stock pipelines and its own growth.

    python -m scripts.benchmark [--only step,published,...] [--device cpu|cuda] [--output docs/results] [--again]

Each section's figures go to ``benchmark-SECTION.json`` when it is done (``-cuda`` on a GPU), all that are there to
``benchmark.md``. Run it again to continue: a section that is there is not measured again unless ``--again`` says so,
and ``growth`` goes on with the points that are not there.
Everything is a ratio of two sides measured in turns in one run; on a CPU one thread is used. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from erase.files import read_json, write_json, write_text
from scripts.gpu_check import hardware, versions

from . import fid
from .bench import SIZES, Bench
from .table import markdown

SECTIONS = ("step", "published", "fisher", "sample", "compile", "fid", "growth")
QUICK = tuple(name for name in SECTIONS if name not in ("compile", "fid"))  # these take minutes at any size


def measured(
    section: str, kind: str, device: str, repeats: int | None = None, part: Path | None = None
) -> dict[str, Any]:
    """One section's figures and what they were measured on."""
    module = importlib.import_module(f".{section}", __package__)
    before = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as work:
        rows = module.run(Bench(kind, device, Path(work), repeats, part))
    load = [before, round(os.getloadavg()[0], 2)]
    return {
        "version": 1, "section": section, "size": SIZES[kind].name, "hardware": hardware(torch.device(device)),
        "versions": versions(), "threads": torch.get_num_threads(), "load": load,
        "notes": module.NOTES, "rows": rows,
    }  # fmt: skip


def files_in(folder: Path, ending: str = "") -> dict[str, Path]:
    return {name: folder / f"benchmark-{name}{ending}.json" for name in SECTIONS}


def contents(files: dict[str, Path]) -> list[dict[str, Any]]:
    """All sections that are there."""
    held = {name: read_json(path) for name, path in files.items() if path.is_file()}
    return [fid.content(found) if name == "fid" else found for name, found in held.items()]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help=f"of {','.join(SECTIONS)}; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: at XL size, bf16")
    parser.add_argument("--output", type=Path, default=Path("docs/results"), help="folder; default: docs/results")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--repeats", type=int, help="of each measurement; default: by section")
    parser.add_argument("--quick", action="store_true", help="a tiny model and one repeat: whether it runs, no figures")
    asked = parser.parse_args(words)
    wanted = asked.only.split(",") if asked.only else list(QUICK if asked.quick else SECTIONS)
    if set(wanted) - set(SECTIONS):
        parser.error(f"--only takes some of {','.join(SECTIONS)}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; leave --device out")
    if asked.device == "cpu":
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes started from here
        torch.set_num_threads(1)
    kind = "tiny" if asked.quick else "xl" if asked.device == "cuda" else "digits"
    ending = "" if asked.device == "cpu" else "-cuda"
    files = files_in(asked.output, ending)
    for name in wanted:
        write_text(asked.output / f"benchmark{ending}.md", markdown(contents(files)))
        if files[name].is_file() and not asked.again:
            print(f"{name}: there already; --again measures it anew", file=sys.stderr)
            continue
        if name == "fid":
            fid.measure(files[name])
            continue
        part = files[name].with_suffix(".part.json")
        write_json(files[name], measured(name, kind, asked.device, asked.repeats, part))
        part.unlink(missing_ok=True)
        for row in read_json(files[name])["rows"]:
            print(f"{name}: {row}", file=sys.stderr, flush=True)
    write_text(asked.output / f"benchmark{ending}.md", markdown(contents(files)))


if __name__ == "__main__":
    main()
