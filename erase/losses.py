"""Forget losses, each the scalar that a forget step minimises."""

from __future__ import annotations

import torch

ASCENTS = ("ga", "adaga", "bounded")


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
