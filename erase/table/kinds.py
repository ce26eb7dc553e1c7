"""What each kind of table says of its cells, as plain data; :mod:`erase.table.render` writes it down."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .cells import SCORES, Standing
from .config import dotted
from .numbers import (
    Measure,
    choose,
    counts,
    excess,
    floors,
    over_classes,
    peak,
    ratio,
    score,
    spread,
    trial_numbers,
    unlearning,
)
from .plan import Line

Lines = Sequence[tuple[Line, list[Standing]]]
Content = dict[str, Any]


def compare(lines: Lines) -> Content:
    """For each line, and for the original model, every measure over classes and class by class."""
    every = [cell for _, cells in lines for cell in cells]
    floor = floors(every)
    erased = _measures("erased", floor) | {"fid_ratio": ratio}
    first: dict[str, Standing] = {}
    for cell in every:
        if cell.state == "done":
            first.setdefault(cell.cell.classes, cell)
    originals = [  # the original model has no seed of unlearning: one cell a class tells all
        dataclasses.replace(cell, cell=dataclasses.replace(cell.cell, seed=0)) for cell in first.values()
    ]
    rows = [{"row": "original", "optimizer": "", **_row(originals, _measures("original", floor)), "name": "original"}]
    for line, cells in lines:
        done = [cell for cell in cells if cell.state == "done"]
        spent = [value for value in map(unlearning, done) if value is not None]
        about = {"counts": counts(cells, floor), "seconds": statistics.median(spent) if spent else None}
        about["seconds_beforehand"] = done[0].beforehand if done else None
        about["peak_memory"] = max(filter(None, map(peak, done)), default=None)
        rows.append({**_about(line), **about, **_row(cells, erased)})
    return {"rows": rows}


def _measures(side: str, floor: dict[tuple[int, ...], float]) -> dict[str, Measure]:
    return {**{name: score(side, name) for name in SCORES}, "fid_excess": excess(side, floor)}


def _row(cells: Sequence[Standing], measures: Mapping[str, Measure]) -> Content:
    classes: dict[str, Content] = {}
    for label in dict.fromkeys(cell.cell.classes for cell in cells):
        mine = [cell for cell in cells if cell.cell.classes == label]
        classes[label] = {name: over_classes(mine, measure) for name, measure in measures.items()}
    return {"over_classes": {name: over_classes(cells, m) for name, m in measures.items()}, "classes": classes}


def search(lines: Lines) -> Content:
    """For each row its trials, and the one that the rule chooses."""
    rows = []
    for key in dict.fromkeys((line.row, line.policy) for line, _ in lines):
        mine = [(line, trial_numbers(cells)) for line, cells in lines if (line.row, line.policy) == key]
        best = choose([numbers for _, numbers in mine])
        trials = [{"trial": dotted(line.trial), **numbers} for line, numbers in mine]
        chosen = None if best is None else dotted(mine[best][0].settings)
        row = {"row": key[0], "method": mine[0][0].method, "optimizer": key[1]}
        rows.append({**row, "chosen": best, "settings": chosen, "trials": trials})
    return {"rows": rows}


def sensitivity(lines: Lines) -> Content:
    """For each row and value of the swept setting the mean over cells, the least and the greatest."""
    rows = []
    for line, cells in lines:
        done = [cell for cell in cells if cell.state == "done"]
        (value,) = line.trial.values()
        row = {**_about(line), "value": value, "cells": len(cells), "done": len(done)}
        row["failed"] = sum(cell.state == "failed" for cell in cells)
        for name in SCORES:
            values = [v for v in (score("erased", name)(cell) for cell in done) if v is not None]
            mean = spread(values)
            row[name] = mean and {"mean": mean["mean"], "low": min(values), "high": max(values), "n": mean["n"]}
        rows.append(row)
    original = spread(score("original", "fid")(c) for _, cells in lines for c in cells if c.state == "done")
    return {"axis": next(iter(lines[0][0].trial)), "original_fid": original and original["mean"], "rows": rows}


def _about(line: Line) -> Content:
    about = {"row": line.row, "name": line.called, "method": line.method, "optimizer": line.policy}
    return {**about, "forget_lr": line.forget_lr, "trial": dotted(line.trial), "settings": dotted(line.settings)}


KINDS = {"compare": compare, "search": search, "sensitivity": sensitivity}
