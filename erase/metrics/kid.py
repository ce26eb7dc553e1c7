"""Kernel distance (Binkowski et al. 2018): the unbiased squared MMD under the kernel (x.y / d + 1)^3."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import rng
from ..errors import UserError

SUBSETS, SUBSET = 100, 1000  # torch-fidelity's
MOST = 10_000  # images a side; more are drawn from at random
ROWS = 1000


def kid(features: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """The distance of n x d generated to m x d real features, which may be slightly negative; and its error.

    ``value`` is the U-statistic over all pairs, which is what the mean over random subsets estimates. ``stderr``: the
    delete-one jackknife over both sides; ``low`` and ``high`` are 1.96 of it away. ``mean`` and ``std`` are
    torch-fidelity's over 100 subsets of ``subset`` = min(1000, n, m) images, to the draw: of those subsets, not of the
    value. Raises UserError for fewer than two images on either side.
    """
    if min(len(features), len(real)) < 2:
        raise UserError(f"a kernel distance needs at least 2 images on either side, not {len(features)}, {len(real)}")
    x, y = _at_most(features, "generated"), _at_most(real, "real")
    size = min(SUBSET, len(x), len(y))
    draws = np.random.RandomState(2020)  # torch-fidelity's own
    pairs = [
        (draws.choice(len(x), size, replace=False), draws.choice(len(y), size, replace=False)) for _ in range(SUBSETS)
    ]
    chosen = [np.zeros((SUBSETS, len(side))) for side in (x, y)]
    for subset, (left, right) in enumerate(pairs):
        chosen[0][subset, left] = chosen[1][subset, right] = 1
    inner = [_within(side, picked) for side, picked in ((x, chosen[0]), (y, chosen[1]))]
    across, crossed, across_y = _between(x, y, *chosen)
    (sums_x, subset_x), (sums_y, subset_y) = inner
    value, stderr = _jackknife(sums_x, sums_y, across, across_y)
    of_subsets = (subset_x + subset_y) / (size * (size - 1)) - 2 * crossed / size**2
    half = None if stderr is None else 1.96 * stderr
    return {
        "value": value,
        "n": len(x),
        "low": None if half is None else value - half,
        "high": None if half is None else value + half,
        "stderr": stderr,
        "mean": float(of_subsets.mean()),
        "std": float(of_subsets.std()),
        "subset": size,
        "subsets": SUBSETS,
    }


def _at_most(features: np.ndarray, side: str) -> torch.Tensor:
    if len(features) > MOST:
        rows = rng.generator(0, f"kid/{side}").choice(len(features), MOST, replace=False)
        features = features[np.sort(rows)]
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))


def _kernel(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    base = (x @ y.T).double() / x.shape[1] + 1
    cubed: np.ndarray = (base * base * base).numpy()
    return cubed


def _within(x: torch.Tensor, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the kernel of a side with itself, its diagonal left out: the sum of every row, and of every subset."""
    sums, products = np.zeros(len(x)), np.zeros_like(chosen)
    for start in range(0, len(x), ROWS):
        kernel = _kernel(x[start : start + ROWS], x)
        kernel[np.arange(len(kernel)), start + np.arange(len(kernel))] = 0
        sums[start : start + ROWS] = kernel.sum(1)
        products += chosen[:, start : start + ROWS] @ kernel
    return sums, (products * chosen).sum(1)


def _between(
    x: torch.Tensor, y: torch.Tensor, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the kernel between the sides: the sum of every row, of every subset, of every column."""
    rows, columns, products = np.zeros(len(x)), np.zeros(len(y)), np.zeros_like(right)
    for start in range(0, len(x), ROWS):
        kernel = _kernel(x[start : start + ROWS], y)
        rows[start : start + ROWS] = kernel.sum(1)
        columns += kernel.sum(0)
        products += left[:, start : start + ROWS] @ kernel
    return rows, (products * right).sum(1), columns


def _jackknife(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, yx: np.ndarray) -> tuple[float, float | None]:
    """The U-statistic from sums over rows, and its standard error from those with one image left out."""
    n, m = len(xx), len(yy)
    a, b, c = xx.sum(), yy.sum(), xy.sum()
    value = a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * c / (n * m)
    if min(n, m) < 3:
        return float(value), None
    without_x = (a - 2 * xx) / ((n - 1) * (n - 2)) - 2 * (c - xy) / ((n - 1) * m)
    without_y = (b - 2 * yy) / ((m - 1) * (m - 2)) - 2 * (c - yx) / (n * (m - 1))
    variance = sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in (without_x, without_y))
    return float(value), float(np.sqrt(variance))
