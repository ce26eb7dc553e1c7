"""Frechet distance between Gaussian fits of two feature sets (Heusel et al. 2017), by torch-fidelity's own formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .. import rng
from ..errors import UserError
from . import intervals

Statistics = dict[str, Any]


def statistics(features: np.ndarray) -> Statistics:
    """Mean and covariance of n x d float32 features. Raises UserError for n < 2."""
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if len(features) < 2:
        raise UserError(f"a Frechet distance needs at least 2 images, not {len(features)}")
    result: Statistics = fid_features_to_statistics(torch.from_numpy(np.ascontiguousarray(features)))
    return result


def distance(first: Statistics, second: Statistics) -> float:
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    if first["mu"].dtype != second["mu"].dtype:  # it refuses to mix them
        first, second = ({**one, "mu": one["mu"].astype(np.float64)} for one in (first, second))
    result = fid_statistics_to_metric(first, second, verbose=False)
    return float(next(iter(result.values())))


def root_of(statistics: Statistics) -> np.ndarray:
    """The symmetric root of a covariance, to be taken once where many sets are compared to one reference."""
    values, vectors = np.linalg.eigh(statistics["sigma"])
    root: np.ndarray = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def distance_to(statistics: Statistics, reference: Statistics, root: np.ndarray) -> float:
    """As :func:`distance`; with R = S_2^(1/2) the last trace is that of the symmetric (R S_1 R)^(1/2)."""
    step = statistics["mu"] - reference["mu"]
    crossed = np.sqrt(np.clip(np.linalg.eigvalsh(root @ statistics["sigma"] @ root), 0, None)).sum()
    return float(step @ step + np.trace(statistics["sigma"]) + np.trace(reference["sigma"]) - 2 * crossed)


def fid(features: np.ndarray, reference: Statistics, bootstrap: int = 0) -> dict[str, float | int | None]:
    """The distance with a normal 95 % interval whose width is the bootstrap deviation over resampled images."""
    value = distance(statistics(features), reference)
    result: dict[str, float | int | None] = {"value": value, "n": len(features), "low": None, "high": None}
    if bootstrap > 1:
        draws = [
            rng.generator(0, "fid/bootstrap", i).integers(len(features), size=len(features)) for i in range(bootstrap)
        ]
        half = 1.96 * float(np.std([distance(statistics(features[rows]), reference) for rows in draws], ddof=1))
        result |= {"low": max(0.0, value - half), "high": value + half}
    return result


def wide_fid(features: np.ndarray, reference: Statistics, draws: int) -> dict[str, float | int | None]:
    """As :func:`fid`, for fewer images than features: a resampled S_1 is never formed.

    With X the centred features, tr (S_1 S_2)^(1/2) is that of the n x n matrix (X S_2 X^T / (n - 1))^(1/2), of which
    resampling takes rows and columns.
    """
    x = features.astype(np.float64) - reference["mu"]
    n = len(x)
    crossed, norms = x @ reference["sigma"] @ x.T, (x * x).sum(1)

    def value(rows: np.ndarray) -> float:
        mean = x[rows].mean(0)
        part = crossed[np.ix_(rows, rows)]
        part = part - part.mean(0) - part.mean(1)[:, None] + part.mean()
        root = np.sqrt(np.clip(np.linalg.eigvalsh(part / (n - 1)), 0, None)).sum()
        spread = (norms[rows].sum() - n * (mean @ mean)) / (n - 1)
        return float(mean @ mean + spread + np.trace(reference["sigma"]) - 2 * root)

    if n < 2:
        raise UserError(f"a Frechet distance needs at least 2 images, not {n}")
    whole = value(np.arange(n))
    low, high = intervals.normal(whole, value, n, draws, "fid/bootstrap")
    return {"value": whole, "n": n, "low": None if low is None else max(0.0, low), "high": high}
