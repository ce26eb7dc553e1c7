"""The table, and every cell behind it, as CSV. Shares are 0 to 1, times seconds, memory bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..text import csv_cell
from .cells import SCORES, Standing
from .config import shown
from .kinds import Content

MEASURES = (*SCORES, "fid_excess", "fid_ratio")
TIMES = ("precompute", "unlearn", "sample", "score", "total")
SIDES = [(side, name) for side in ("original", "erased") for name in SCORES]


def sheet(content: Content) -> str:
    """The table, a line a row and class (and one over classes), a trial or a value of the sweep."""
    return _text({"compare": _compare, "search": _search, "sensitivity": _sensitivity}[content["kind"]](content))


def _compare(content: Content) -> Iterable[Sequence[Any]]:
    ends = [(name, end) for name in MEASURES for end in ("mean", "std", "n")]
    costs = ("seconds_beforehand", "seconds", "peak_memory")
    head = ["row", "method", "optimizer", "forget_lr", "classes", *("_".join(pair) for pair in ends)]
    yield [*head, *costs, "done", "cells"]
    for row in content["rows"]:
        about = [row["name"], row.get("method"), row["optimizer"], row.get("forget_lr")]
        for label, values in row["classes"].items():
            yield [*about, label, *(_of(values, name).get(end) for name, end in ends), *[None] * (len(costs) + 2)]
        means, kept = row["over_classes"], row.get("counts", {})
        line = [*about, "all", *(_of(means, name).get(end) for name, end in ends)]
        yield [*line, *(row.get(cost) for cost in costs), kept.get("done"), kept.get("cells")]


def _search(content: Content) -> Iterable[Sequence[Any]]:
    marks = ("worst_fa", "mean_fa", "worst_ra_drop", "mean_fid", "done", "cells", "good")
    yield ["row", "method", "optimizer", "trial", *marks, "chosen"]
    for row in content["rows"]:
        for index, trial in enumerate(row["trials"]):
            line = [row["row"], row["method"], row["optimizer"], shown(trial["trial"])]
            yield [*line, *(trial[mark] for mark in marks), index == row["chosen"]]


def _sensitivity(content: Content) -> Iterable[Sequence[Any]]:
    ends = [(name, end) for name in SCORES for end in ("mean", "low", "high")]
    yield ["row", "method", "optimizer", content["axis"], *("_".join(pair) for pair in ends), "done", "failed", "cells"]
    for row in content["rows"]:
        line = [row["row"], row["method"], row["optimizer"], row["value"]]
        line += [_of(row, name).get(end) for name, end in ends]
        yield [*line, row["done"], row["failed"], row["cells"]]


def cell_sheet(cells: Sequence[Standing]) -> str:
    """Every cell, whatever became of it."""
    return _text(_cells(cells))


def _cells(cells: Sequence[Standing]) -> Iterable[Sequence[Any]]:
    head = ["row", "method", "optimizer", "trial", "forget", "seed", "state", *("_".join(pair) for pair in SIDES)]
    yield [*head, *(f"{time}_seconds" for time in TIMES), "peak_memory", "error", "key"]
    for cell in cells:
        line, entry = cell.line, cell.entry if cell.state in ("done", "failed") else {}
        row = [line.row, line.method, line.policy, shown(line.trial), cell.cell.classes, cell.cell.seed, cell.state]
        row += [_of(entry, side).get(name) for side, name in SIDES]
        row += [_of(entry, "seconds").get(time) for time in TIMES]
        yield [*row, entry.get("peak_memory"), entry.get("error"), cell.cell.key]


def _of(entry: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    return entry.get(part) or {}


def _text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()
