"""Forget losses, each the scalar that a forget step minimises."""

from __future__ import annotations

from typing import Any

import torch

ASCENTS = ("ga", "adaga", "bounded")
ERASURES = ("distill", "bounded")


def ascent(mse: torch.Tensor, kind: str, bound: float, power: float) -> torch.Tensor:
    """Gradient ascent on per-sample noise errors ``mse`` (fp32, n).

    ``ga``: minus their mean. ``adaga``: minus their mean weighted by w_i proportional to 1 / sg[L_i]^power, summing to
    1 (SFRon, arXiv 2409.19732). ``bounded``: as ``ga``, but a sample whose error has reached ``bound`` is no longer
    pushed.
    """
    if kind == "adaga":
        weight = 1 / (mse.detach().pow(power) + 1e-8)
        return -(mse * weight / weight.sum()).sum()
    if kind == "bounded":
        mse = mse.clamp(max=bound)  # no gradient beyond the bound
    return -mse.mean()


def erasure(task: Any, batch: Any, kind: str, bound: float) -> torch.Tensor:
    """A loss that takes the class away: ``distill`` towards the next class's prediction (positive), or bounded ascent.

    For methods that say how two gradients are combined and leave the forget loss open.
    """
    if kind == "distill":
        distance: torch.Tensor = task.distance(batch, task.next_class(batch.labels)).mean()
        return distance
    return ascent(task.mse(batch), "bounded", bound, 0.0)
