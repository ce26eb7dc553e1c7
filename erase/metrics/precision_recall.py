"""Improved precision and recall (Kynkäänniemi et al. 2019), neighbourhoods of 3."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import UserError
from . import intervals

NEIGHBOURS = 3
BATCH = 5000


def precision_recall(features: np.ndarray, real: np.ndarray) -> dict[str, dict[str, Any]]:
    """``precision``: the share of generated images (n x d) inside the neighbourhood of a real one; ``recall``: the
    share of real images (m x d) inside the neighbourhood of a generated one; ``f_score``: their harmonic mean.

    0 to 1, each with a Wilson interval over its own n (which takes the other side as given). Raises UserError for fewer
    than four images on either side.
    """
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    if min(len(features), len(real)) <= NEIGHBOURS:
        raise UserError(f"precision and recall need 4 images on either side, not {len(features)}, {len(real)}")
    generated, true = (torch.from_numpy(np.ascontiguousarray(side)) for side in (features, real))
    precision, recall = calculate_precision_recall_part(generated, true, NEIGHBOURS, BATCH)
    both = 2 * precision * recall / max(1e-5, precision + recall)
    return {
        "precision": intervals.share(round(precision * len(features)), len(features)),
        "recall": intervals.share(round(recall * len(real)), len(real)),
        "f_score": {"value": both, "n": min(len(features), len(real)), "low": None, "high": None},
    }
