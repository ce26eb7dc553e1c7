"""EUPMU: forgetting under a bound on the retain loss, by implicit gradient surgery (NeurIPS 2025, arXiv 2510.22124)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .. import losses
from ..config import setting
from ..errors import UserError
from . import base


@dataclass(frozen=True)
class Options(base.Options):
    erasure: str = setting("distill", "the forget loss", choices=losses.ERASURES)
    bound: float = setting(1.0, "bounded: the noise MSE at which a sample is no longer pushed", above=0.0)
    log: bool = setting(True, "take the logarithm of both losses, so that the weight is relative")
    tolerance: float = setting(
        0.0, "how much the retain loss may grow a step: of its logarithm, or (raw) per unit of learning rate", low=0.0
    )
    weight_lr: float = setting(1.0, "step size of the retain weight", low=0.0)
    weight_start: float = setting(1.0, "the retain weight at the start", low=0.0)

    def __post_init__(self) -> None:
        if self.log and self.erasure == "bounded":
            raise UserError("method.log needs positive losses, bounded ascent is negative; use method.erasure=distill")


class EUPMU(base.Method):
    """Steps on grad(l_f + lambda l_r), one backward pass, and then moves lambda by what the step did to l_r.

    delta = (l_r(before) - l_r(after)) / lr + tolerance and lambda <- max(0, lambda - weight_lr * delta), the dual
    ascent of min |d - g_f|^2 s.t. <g_r, d> >= -tolerance; with ``log``: delta = log l_r(before) - log l_r(after) +
    tolerance.
    Both evaluations see the same images, timesteps, noise and dropped labels.
    """

    name = "eupmu"
    summary = "one backward pass of forget + weight x retain loss, the weight set by what happens to the retain loss"
    updates = ("joint",)
    single_backward = True
    Options = Options

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        device = next(iter(parameters.values())).device
        self.weight = torch.tensor(self.options.weight_start, device=device)

    def forget_loss(self, batch: Any) -> torch.Tensor:
        return losses.erasure(self.task, batch, self.options.erasure, self.options.bound)

    def gradients(self, batches: Mapping[str, Any], take: base.TakeGradient) -> dict[str, base.Gradient]:
        def joint() -> torch.Tensor:
            forget, retain = self.forget_loss(batches["forget"]), self.retain_loss(batches["retain"])
            self.before = retain.detach()
            if self.options.log:
                return forget.log() + self.weight * retain.log()
            return forget + self.weight * retain

        return {"forget": take("forget", joint)}

    @torch.no_grad()
    def after_step(self, batches: Mapping[str, Any], lr: float) -> None:
        after = self.retain_loss(batches["retain"])
        if self.options.log:
            delta = self.before.log() - after.log() + self.options.tolerance
        else:
            delta = (self.before - after) / max(lr, 1e-30) + self.options.tolerance
        self.weight.sub_(self.options.weight_lr * delta).clamp_(min=0)
        self.after = after

    def state(self) -> base.Tensors:
        return {"weight": self.weight}

    def report(self, objective: str) -> dict[str, torch.Tensor]:
        if objective != "joint":
            return {}
        return {"retain_weight": self.weight.clone(), "retain_before": self.before, "retain_after": self.after}
