"""``scores.json`` of a run folder: what ``erase score`` found there, for the page and for other programs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import digest, read_json, write_json

NAME = "scores.json"
SAME = ("extractor", "layer", "preprocessing", "reference")  # values of one set may stand in one table


def keep_scores(run: Path, rows: Sequence[Mapping[str, Any]], reference: str | None) -> None:
    """Lays the values over those of earlier calls with the same extractor and reference.

    Values of another run that had this folder are dropped. A folder that cannot be written keeps none.
    """
    sets = read_scores(run)
    for row in rows:
        about = {"reference": reference or "the run's own data", **{key: row[key] for key in SAME[:3]}}
        found = next((one for one in sets if all(one[key] == about[key] for key in SAME)), None)
        if found is None:
            found = {**about, "sides": {}}
            sets.append(found)
        side = "erased" if row["name"].endswith("(erased)") else "original"
        old = found["sides"].get(side, {"metrics": {}, "missing": {}, "notes": []})
        found["sides"][side] = {
            "metrics": {**old["metrics"], **row["metrics"]},
            "missing": {**{k: why for k, why in old["missing"].items() if k not in row["metrics"]}, **row["missing"]},
            "notes": list(dict.fromkeys([*old["notes"], *row["notes"]])),
        }
    with contextlib.suppress(OSError):
        write_json(run / NAME, {"version": 1, "results": digest(run / "results.json"), "sets": sets})


def read_scores(run: Path) -> list[dict[str, Any]]:
    """What is kept of the run as it is now: for each extractor and reference the values of both sides."""
    try:
        content = read_json(run / NAME)
        whole = isinstance(content, dict) and content.get("results") == digest(run / "results.json")
    except (UserError, OSError):
        return []
    return list(content["sets"]) if whole else []
