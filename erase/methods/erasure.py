"""For methods that say how two gradients are combined and leave the forget loss open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .. import losses
from ..config import setting
from . import base


@dataclass(frozen=True)
class Options(base.Options):
    erasure: str = setting(
        "distill",
        "the forget loss: distill, the distance to the next class's prediction; or bounded ascent, which is negative",
        choices=("distill", "bounded"),
    )
    bound: float = setting(1.0, "bounded: the noise MSE at which a sample is no longer pushed", above=0.0)


class Erasure(base.Method):
    """A forget loss that takes the class away."""

    def forget_values(self, batch: Any) -> torch.Tensor:
        distill = self.options.erasure == "distill"
        values: torch.Tensor
        values = self.task.distance(batch, self.task.next_class(batch.labels)) if distill else self.task.mse(batch)
        return values

    def reduce(self, objective: str, values: torch.Tensor) -> torch.Tensor:
        if objective == "forget" and self.options.erasure == "bounded":
            return losses.ascent(values, "bounded", self.options.bound, 0.0)
        return values.mean()
