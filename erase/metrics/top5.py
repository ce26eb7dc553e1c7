"""Top-5 forget accuracy: how often the forgotten class is among a classifier's five likeliest answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import intervals
from .accuracy import Value

TOP = 5


def forget_accuracy_top5(logits: np.ndarray, ids: Sequence[int], asked: np.ndarray, forget: Sequence[int]) -> Value:
    """Of the images asked for as a forgotten class, the share with that class among the five highest of n x k logits.

    ``ids``: the k class ids. The gate is not asked, and by chance alone it is 5 / k.
    """
    rows = np.flatnonzero(np.isin(asked, list(forget)))
    best = np.array(list(ids))[np.argsort(-logits[rows], axis=1, kind="stable")[:, :TOP]]
    return intervals.share(int((best == asked[rows, None]).any(1).sum()), len(rows))
