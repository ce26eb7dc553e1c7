"""The table a run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROWS = (
    ("FA", "fa", "images of the forgotten class that still show it"),
    ("RA", "ra", "images of the other classes that show theirs"),
    ("FID", "fid", "distance of the other classes to real images"),
)


def result_table(results: Mapping[str, Any]) -> str:
    """Original and erased side by side; shares in percent."""
    models = results["models"]
    lines = [f"{'':6}{'original':>10}{'erased':>10}"]
    for title, key, meaning in ROWS:
        cells = "".join(f"{_cell(key, models[side][key]):>10}" for side in ("original", "erased"))
        lines.append(f"{title:6}{cells}   {meaning}")
    return "\n".join(lines)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if key == "fid" else f"{100 * value:.1f} %"
