"""The Frechet distance of each class's images to the real images of that class."""

from __future__ import annotations

from typing import Any

import numpy as np

from .fid import fid, statistics


def per_class_fid(
    features: np.ndarray, asked: np.ndarray, real: np.ndarray, labels: np.ndarray, bootstrap: int = 0
) -> dict[int, dict[str, Any]]:
    """Of each class with two images or more on both sides. ``asked`` (n) and ``labels`` (m) are class ids."""
    found = {}
    for label in np.unique(asked):
        mine, true = features[asked == label], real[labels == label]
        if min(len(mine), len(true)) >= 2:
            found[int(label)] = fid(mine, statistics(true), bootstrap)
    return found
