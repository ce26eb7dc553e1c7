"""Inception score (Salimans et al. 2016): exp of the mean divergence of an image's answer from the mean answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import intervals

SPLITS = 10


def inception_score(logits: np.ndarray, bootstrap: int = 0) -> dict[str, Any]:
    """1 (all answers alike) to k, of n x k logits: torch-fidelity's mean over 10 parts, and the ``std`` over them.

    The interval is normal, as wide as the deviation over resampled images.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    splits = min(SPLITS, len(logits))
    found = isc_features_to_metric(torch.from_numpy(np.ascontiguousarray(logits)), splits)
    value, std = found["inception_score_mean"], found["inception_score_std"]

    def again(rows: np.ndarray) -> float:
        return float(isc_features_to_metric(torch.from_numpy(logits[rows]), splits)["inception_score_mean"])

    low, high = intervals.normal(value, again, len(logits), bootstrap, "isc/bootstrap")
    return {"value": value, "n": len(logits), "low": low, "high": high, "std": std, "splits": splits}
