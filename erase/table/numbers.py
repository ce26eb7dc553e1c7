"""Means and deviations, counts, and the choice of a search."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .cells import Standing

FORGOTTEN, RA_DROP, FID_RATIO, SLACK = 0.02, 0.02, 1.2, 1e-9
Measure = Callable[[Standing], float | None]
Floors = dict[tuple[int, ...], float]


def spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Mean, the sample's standard deviation (None for one value) and number of what is known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.mean(known), "std": deviation, "n": len(known)}


def over_classes(cells: Sequence[Standing], measure: Measure) -> dict[str, Any] | None:
    """The average over classes for each seed, then mean and deviation over seeds.

    Seeds that lack a class, or its value, are left out: an average over other classes is another number. While a table
    is being run and no seed has every class, all of them count as they are; not where a cell has failed, which may be
    the worst.
    """
    seeds = {cell.cell.seed for cell in cells if cell.state == "done"}
    whole = seeds - {cell.cell.seed for cell in cells if cell.state != "done"}
    if not whole and any(cell.state == "failed" for cell in cells):
        return None
    means = []
    for seed in sorted(whole or seeds):
        values = [measure(cell) for cell in cells if cell.state == "done" and cell.cell.seed == seed]
        means.append(None if None in values else statistics.mean(value for value in values if value is not None))
    return spread(means)


def score(side: str, name: str) -> Measure:
    return lambda cell: cell.entry[side][name]


def ratio(cell: Standing) -> float | None:
    erased, original = cell.entry["erased"]["fid"], cell.entry["original"]["fid"]
    return erased / original if erased is not None and original else None


def ra_drop(cell: Standing) -> float | None:
    erased, original = cell.entry["erased"]["ra"], cell.entry["original"]["ra"]
    return None if erased is None or original is None else original - erased


def unlearning(cell: Standing) -> float | None:
    """Seconds of unlearning; None for a cell that was stopped and continued, of which the last part alone is known."""
    known = None if cell.entry.get("continued") else cell.entry["seconds"].get("unlearn")
    return None if known is None else float(known)


def peak(cell: Standing) -> float | None:
    return cell.entry["peak_memory"]


def floors(cells: Sequence[Standing]) -> Floors:
    """FID of the model retrained without the class, for each class, where the table has such a row."""
    done = [cell for cell in cells if cell.line.method == "retrain" and cell.state == "done"]
    groups = {cell.cell.forget for cell in done}
    means = {group: spread(c.entry["erased"]["fid"] for c in done if c.cell.forget == group) for group in groups}
    return {group: mean["mean"] for group, mean in means.items() if mean}


def excess(side: str, floor: Floors) -> Measure:
    """FID above the retrained model's of the same class."""

    def measure(cell: Standing) -> float | None:
        fid, least = cell.entry[side]["fid"], floor.get(cell.cell.forget)
        return None if fid is None or least is None else fid - least

    return measure


def forgotten(cell: Standing) -> bool:
    fa = cell.entry["erased"]["fa"]
    return fa is not None and fa <= FORGOTTEN + SLACK


def retained(cell: Standing) -> bool:
    drop = ra_drop(cell)
    return drop is not None and drop <= RA_DROP + SLACK


def counts(cells: Sequence[Standing], floor: Floors) -> dict[str, int]:
    """In how many cells each bound is kept; that of the FID only over the classes whose retrained model is known."""
    done = [cell for cell in cells if cell.state == "done"]
    known = [c for c in done if c.cell.forget in floor and c.entry["erased"]["fid"] is not None]
    return {
        "cells": len(cells),
        "done": len(done),
        "forgotten": sum(map(forgotten, done)),
        "retained": sum(map(retained, done)),
        "near_retrained": sum(c.entry["erased"]["fid"] <= FID_RATIO * floor[c.cell.forget] + SLACK for c in known),
        "with_retrained": len(known),
    }


def trial_numbers(cells: Sequence[Standing]) -> dict[str, Any]:
    """What a search judges a trial by. ``good``: every cell is there and keeps both bounds."""
    done = [cell for cell in cells if cell.state == "done"]
    fa, fid = ([v for v in (cell.entry["erased"][name] for cell in done) if v is not None] for name in ("fa", "fid"))
    drops = [drop for drop in map(ra_drop, done) if drop is not None]
    return {
        "cells": len(cells),
        "done": len(done),
        "worst_fa": max(fa, default=None),
        "mean_fa": statistics.mean(fa) if fa else None,
        "worst_ra_drop": max(drops, default=None),
        "mean_fid": statistics.mean(fid) if fid else None,
        "good": len(done) == len(cells) and all(forgotten(c) and retained(c) for c in done),
    }


def choose(trials: Sequence[dict[str, Any]]) -> int | None:
    """The trial of the lowest mean FID among the good ones; if none is good, of the lowest mean FA (ties: lower FID).

    Only whole trials are chosen from: what has failed or is not done yet may be the worst.
    """
    whole = [n for n, trial in enumerate(trials) if trial["done"] == trial["cells"] and None not in _marks(trial)]
    good = [n for n in whole if trials[n]["good"]]
    if good:
        return min(good, key=lambda n: trials[n]["mean_fid"])
    return min(whole, key=lambda n: _marks(trials[n]), default=None)


def _marks(trial: dict[str, Any]) -> tuple[float, float]:
    return trial["mean_fa"], trial["mean_fid"]
