"""What the page of a table's folder holds: each table with its means, every cell, its trials or its sweep."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from ..table.config import KINDS, shown
from ..table.render import BOUNDS, HEADS, PERCENT, SHORT, bound, kept_bounds
from .table_figures import Dot, Strip, strips, sweep

Values = dict[str, Any]
Cells = list[dict[str, str]]


def find_tables(path: Path) -> list[Path]:
    """The JSON files of the tables in a folder, or that of one table: DIR/NAME, with or without its suffix."""
    if path.is_dir():
        return [file for file in sorted(path.glob("*.json")) if _is_table(file)]
    file = path.with_name(path.name.removesuffix("-cells.csv"))
    file = file.with_suffix(".json") if file.suffix in (".md", ".csv", ".png") else file
    file = file if file.suffix == ".json" else file.with_name(f"{file.name}.json")
    return [file] if file.is_file() and _is_table(file) else []


def _is_table(file: Path) -> bool:
    content = read_json(file)
    return isinstance(content, dict) and content.get("kind") in KINDS and {"rows", "config", "done"} <= content.keys()


def table_sections(file: Path) -> Values:
    """One table. Raises UserError, naming the file, for one that ``erase table`` has not written."""
    content = read_json(file)
    try:
        cells = _cells(file.with_name(f"{file.stem}-cells.csv"))
        parts = {"compare": _compare, "search": _search, "sensitivity": _sensitivity}[content["kind"]](content, cells)
        config = content["config"]
        facts = {
            "Kind": content["kind"],
            "Model": config["model"],
            "Classes": ", ".join("+".join(map(str, c)) if isinstance(c, list) else str(c) for c in config["classes"]),
            "Seeds": ", ".join(str(seed) for seed in config["seeds"]),
            "Settings": shown(config["set"]) or "the presets’",
            "Cells": f"{content['done']} done, {len(content['failed'])} failed, "
            f"{content['missing']} missing, {content['stale']} stale",
        }
        return {
            "id": "".join(letter if letter.isalnum() else "-" for letter in file.stem),
            "name": file.stem,
            "title": content["title"] or file.stem,
            "kind": content["kind"],
            "facts": facts,
            "command": shlex.join(
                ["erase", "table", str(content.get("called", file.stem)), "--output", str(file.parent)]
            ),
            "failed": content["failed"],
            "left_out": content["left_out"],
            "notes": config.get("notes", []),
            **parts,
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"{file} is not what erase table has written ({error!r}); erase table --render makes it"
        ) from None


def _cells(file: Path) -> Cells:
    if not file.is_file():
        raise UserError(f"no {file}; erase table --render makes it")
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _compare(content: Mapping[str, Any], cells: Cells) -> Values:
    rows = content["rows"]
    heads = [key for key in SHORT if any(row["over_classes"].get(key) for row in rows)]
    bounds = kept_bounds(rows)
    short = []
    for row in rows:
        kept = row.get("counts")
        memory = row.get("peak_memory")
        short.append(
            {
                "name": row["name"],
                "policy": row["optimizer"],
                "values": [_spread(key, row["over_classes"].get(key)) for key in heads],
                "rate": f"{row['forget_lr']:g}" if row.get("forget_lr") else "",
                "before": f"{row['seconds_beforehand']:.0f}" if row.get("seconds_beforehand") is not None else "",
                "seconds": f"{row['seconds']:.0f}" if row.get("seconds") is not None else "",
                "memory": f"{memory / 2**30:.2f}" if memory else "",
                "cells": f"{kept['done']} of {kept['cells']}" if kept else "",
                "bounds": [bound(kept, key) if kept else "" for key in bounds],
            }
        )
    long_heads = [key for key in HEADS if any(row["over_classes"].get(key) for row in rows)]
    long = [
        {
            "name": row["name"],
            "policy": row["optimizer"],
            "class": label,
            "values": [_spread(key, values.get(key)) for key in long_heads],
        }
        for row in rows
        for label, values in row["classes"].items()
    ]
    return {
        "heads": [HEADS[key] for key in heads],
        "rows": short,
        "bounds": [BOUNDS[key].replace("≤ ", "≤\u00a0").replace(" %", "\u00a0%") for key in bounds],
        "long_heads": [HEADS[key] for key in long_heads],
        "long": long,
        "pictures": _dots(rows, cells),
    }


def _dots(rows: Sequence[Mapping[str, Any]], cells: Cells) -> list[Any]:
    """Every cell's FA and FID, by row and policy."""
    found = []
    for key, title, ends, factor in (("fa", "FA, %", (0.0, 100.0), 100.0), ("fid", "FID", None, 1.0)):
        lines = []
        for row in rows:
            if row["row"] == "original" and not row["optimizer"]:
                continue
            mine = [
                c
                for c in cells
                if (c["row"], c["optimizer"], c["trial"]) == (row["row"], row["optimizer"], shown(row["trial"]))
            ]
            dots = []
            for cell in mine:
                value = _float(cell[f"erased_{key}"]) if cell["state"] == "done" else None
                if value is not None:
                    text = f"{row['name']} {row['optimizer']}, class {cell['forget']}, seed {cell['seed']}"
                    dots.append(Dot(factor * value, f"{text}: {factor * value:.4g}"))
            note = _spread(key, row["over_classes"].get(key))
            lines.append(Strip(f"{row['name']} · {row['optimizer']}", note, dots))
        first = rows[0]["over_classes"].get(key) if rows and rows[0]["row"] == "original" else None
        mark = (factor * first["mean"], "original") if first else None
        found.append(strips(lines, title, ends, mark))
    return [picture for picture in found if picture is not None]


def _search(content: Mapping[str, Any], cells: Cells) -> Values:
    rows, pictures, waiting = [], [], []
    for row in content["rows"]:
        if not any(trial["done"] for trial in row["trials"]):
            waiting.append(f"{row['row']} {row['optimizer']}")
            continue
        for index, trial in enumerate(row["trials"]):
            rows.append(
                {
                    "name": row["row"],
                    "policy": row["optimizer"],
                    "first": index == 0,
                    "trial": shown(trial["trial"]) or "preset",
                    "values": [
                        _one(100, trial["worst_fa"]),
                        _one(100, trial["mean_fa"]),
                        _one(100, trial["worst_ra_drop"], 2),
                        _one(1, trial["mean_fid"], 2),
                    ],
                    "cells": f"{trial['done']} of {trial['cells']}",
                    "chosen": index == row["chosen"],
                    "good": trial["good"],
                }
            )
    marks = (("worst_fa", "worst FA, %", (0.0, 100.0), 100.0), ("mean_fid", "mean FID", None, 1.0))
    for key, title, ends, factor in marks:
        lines = []
        for row in content["rows"]:
            dots = [
                Dot(
                    factor * trial[key],
                    f"{shown(trial['trial']) or 'preset'}: {factor * trial[key]:.4g}",
                    _kind(trial, index == row["chosen"]),
                )
                for index, trial in enumerate(row["trials"])
                if trial[key] is not None
            ]
            if dots:
                lines.append(Strip(f"{row['row']} · {row['optimizer']}", "", dots))
        pictures.append(strips(lines, title, ends))
    pictures = [picture for picture in pictures if picture is not None]
    return {"rows": rows, "pictures": pictures, "waiting": ", ".join(waiting)}


def _kind(trial: Mapping[str, Any], chosen: bool) -> str:
    if chosen:
        return "chosen" if trial["good"] else "chosen-bad"
    return "good" if trial["good"] else "tried"


def _sensitivity(content: Mapping[str, Any], cells: Cells) -> Values:
    rows = [
        {
            "name": row["row"],
            "policy": row["optimizer"],
            "value": f"{row['value']:g}",
            "values": [_spread(key, row[key]) for key in ("fa", "ra", "fid")],
            "cells": f"{row['done']} of {row['cells']}",
        }
        for row in content["rows"]
    ]
    pictures = [sweep(content, "fa", "FA, %", 100.0), sweep(content, "fid", "FID")]
    return {"rows": rows, "axis": content["axis"], "pictures": [picture for picture in pictures if picture is not None]}


def _spread(key: str, value: Mapping[str, Any] | None) -> str:
    """A mean with its standard deviation, or with its least and greatest."""
    if value is None:
        return "–"
    factor, digits = (100.0, 1) if key in PERCENT else (1.0, 2)
    mean = _one(factor, value["mean"], digits)
    if "low" in value:
        return f"{mean} ({_one(factor, value['low'], digits)} to {_one(factor, value['high'], digits)})"
    return mean if value["std"] is None else f"{mean} ± {_one(factor, value['std'], digits)}"


def _one(factor: float, value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{factor * value:.{digits}f}".replace("-", "−")


def _float(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
