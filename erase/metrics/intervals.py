"""Intervals for what is measured on few images."""

from __future__ import annotations

import math


def share(hits: int, n: int) -> dict[str, float | int | None]:
    """A share with its 95 % Wilson score interval (Wilson 1927)."""
    if n == 0:
        return {"value": None, "n": 0, "low": None, "high": None}
    z, p = 1.959964, hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": p, "n": n, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}
