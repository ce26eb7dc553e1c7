"""What a finished run should be told of: nothing forgotten, the rest harmed, steps left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

UNCHANGED = 0.95  # of the original FA: above it nothing was forgotten
HARMED = 0.1  # loss of RA
RUNAWAY = 2.0  # growth of the retain loss, from the first tenth of its steps to the last
RETAIN_LOSSES = {"retain": "loss", "joint": "retain_loss"}  # by the objective of the step
FEWEST = 10  # retain steps from which growth is judged


def warnings_of(results: Mapping[str, Any], metrics: Path) -> list[str]:
    """One sentence for each thing that went wrong without an error."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.exists() else []
    before, after = results["models"]["original"], results["models"]["erased"]
    found = []
    if before["fa"] and after["fa"] >= UNCHANGED * before["fa"]:
        found.append(
            f"nothing was forgotten: FA {_percent(before['fa'])} before, {_percent(after['fa'])} after; try a higher "
            "unlearn.forget.lr or more unlearn.rounds"
        )
    if before["ra"] and after["ra"] <= before["ra"] - HARMED:
        found.append(
            f"the other classes are harmed: RA {_percent(before['ra'])} before, {_percent(after['ra'])} after; try a "
            "lower unlearn.forget.lr or more retain steps"
        )
    growth = retain_growth(rows)
    if growth is not None and growth >= RUNAWAY:
        found.append(f"the retain loss ran away: it grew {growth:.1f}-fold; try a lower unlearn.forget.lr")
    skipped = sum(1 for row in rows if row.get("skipped"))
    if skipped:
        found.append(f"{skipped} steps were skipped: their loss or gradient was not finite (metrics.jsonl names them)")
    return found


def retain_growth(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The median retain loss of the last tenth of the retain steps over that of the first; None for too few steps."""
    names = [(row, RETAIN_LOSSES.get(row["objective"], "")) for row in rows]
    losses = [row.get(name, row.get("retain_before")) for row, name in names if name]
    losses = [loss for loss in losses if loss is not None]
    tenth = len(losses) // FEWEST
    if not tenth or median(losses[:tenth]) <= 0:
        return None
    return median(losses[-tenth:]) / median(losses[:tenth])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
