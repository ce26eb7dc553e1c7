"""Explicit unilateral gradient surgery; EUPMU is its implicit form (NeurIPS 2025, arXiv 2510.22124)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..config import setting
from . import base, erasure


@dataclass(frozen=True)
class Options(erasure.Options):
    tolerance: float = setting(0.0, "how fast the retain loss may grow, per unit of learning rate", low=0.0)


def conflict_weight(forget: base.Gradient, retain: base.Gradient, tolerance: float) -> torch.Tensor:
    """lambda* = max(0, (-<g_f, g_r> - eps) / |g_r|^2): the multiplier of <g_r, d> >= -eps."""
    return ((-base.inner(forget, retain) - tolerance) / base.inner(retain, retain).clamp(min=1e-30)).clamp(min=0)


class Surgery(erasure.Erasure):
    """The forget gradient is edited, and only on conflict: d = g_f + lambda* g_r, so that <g_r, d> >= -tolerance.

    d solves min |d - g_f|^2 under that constraint. The retain gradient itself is stepped on as well, by its weight;
    ``unlearn.retain.weight=0`` under ``shared`` gives d alone, the exact oracle of ``eupmu``. With an adaptive
    optimizer the bound holds for the gradients, not for the step.
    """

    name = "surgery"
    summary = "forget gradient with its conflict with the retain gradient removed"
    memory = 1
    updates = ("joint",)
    Options = Options

    def gradients(self, batches: Mapping[str, Any], take: base.TakeGradient) -> dict[str, base.Gradient]:
        gradients = super().gradients(batches, take)
        forget, retain = gradients["forget"], gradients["retain"]
        self.weight = conflict_weight(forget, retain, self.options.tolerance)
        edited = list(torch._foreach_add(forget, torch._foreach_mul(retain, self.weight)))  # d = g_f + lambda* g_r
        return {"forget": edited, "retain": retain}

    def report(self, objective: str) -> dict[str, torch.Tensor]:
        return {"conflict_weight": self.weight} if objective == "joint" else {}
