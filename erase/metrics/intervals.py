"""Intervals for what is measured on few images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import rng


def share(hits: int, n: int) -> dict[str, float | int | None]:
    """A share with its 95 % Wilson score interval (Wilson 1927)."""
    if n == 0:
        return {"value": None, "n": 0, "low": None, "high": None}
    z, p = 1.959964, hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": p, "n": n, "low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def normal(
    value: float, again: Callable[[np.ndarray], float], n: int, draws: int, stream: str
) -> tuple[float | None, float | None]:
    """A normal 95 % interval as wide as the deviation of ``again(rows)`` over resampled rows; none for < 2 draws."""
    if draws < 2:
        return None, None
    found = [again(rng.generator(0, stream, i).integers(n, size=n)) for i in range(draws)]
    half = 1.96 * float(np.std(found, ddof=1))
    return value - half, value + half


def mean(values: np.ndarray, stream: str, draws: int = 1000) -> dict[str, Any]:
    """A mean with its 95 % bootstrap percentile interval (Efron 1979)."""
    n = len(values)
    if n == 0:
        return {"value": None, "n": 0, "low": None, "high": None}
    means = [values[rng.generator(0, stream, i).integers(n, size=n)].mean() for i in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "n": n, "low": float(low), "high": float(high)}
