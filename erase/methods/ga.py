"""Gradient ascent on the forget set, and training on the retain set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .. import losses
from ..config import setting
from . import base


@dataclass(frozen=True)
class Options(base.Options):
    ascent: str = setting("bounded", "how the forget loss grows", choices=losses.ASCENTS)
    adaga_power: float = setting(0.5, "adaga divides each sample's loss by its own size to this power", low=0.0)
    bound: float = setting(1.0, "bounded: the noise MSE at which a sample is no longer pushed", above=0.0)


class GradientAscent(base.Method):
    """Ascends the noise MSE of the forget set.

    The variance term is neither ascended nor bounded: pushed without limit it blows up the sampler's noise, which looks
    like forgetting.
    """

    name = "ga"
    summary = "gradient ascent on the forget set, bounded by default"
    Options = Options

    def forget_values(self, batch: Any) -> torch.Tensor:
        mse: torch.Tensor = self.task.mse(batch)
        return mse

    def reduce(self, objective: str, values: torch.Tensor) -> torch.Tensor:
        if objective != "forget":
            return super().reduce(objective, values)
        return losses.ascent(values, self.options.ascent, self.options.bound, self.options.adaga_power)

    def additive(self, objective: str) -> bool:
        return objective != "forget" or self.options.ascent != "adaga"

    def observe(self, values: base.Values) -> None:
        if "forget" in values:
            self.mse = values["forget"].mean()

    def report(self, objective: str) -> dict[str, torch.Tensor]:
        return {"forget_mse": self.mse} if objective != "retain" else {}
