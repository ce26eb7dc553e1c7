"""Which classes paid: accuracy of each before and after, the neighbours of the forgotten ones marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .accuracy import Readings

MARKED = 3


def neighbour_table(
    before: Readings, after: Readings, forget: Sequence[int], nearest: Sequence[int], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """A row a class, the largest loss first. ``before`` and ``after`` are shares that pass the gate and are called
    right, with Wilson intervals; ``rank`` is the place in ``nearest`` (1 for the class closest to a forgotten one in
    the features of real images), ``near`` whether it is among the first three."""
    rank = {label: place for place, label in enumerate(nearest, 1)}
    rows = []
    for label in sorted({int(c) for c in before.asked} & {int(c) for c in after.asked}):
        old, new = (side.share_right([label]) for side in (before, after))
        change = float(new["value"] or 0) - float(old["value"] or 0)
        rows.append(
            {
                "index": label,
                "name": names.get(label, str(label)),
                "before": old,
                "after": new,
                "change": change,
                "forgotten": label in forget,
                "rank": rank.get(label),
                "near": label in nearest[:MARKED],
            }
        )
    return sorted(rows, key=lambda row: (row["change"], row["index"]))
