"""EUPMU: forgetting under a bound on the retain loss, by implicit gradient surgery (NeurIPS 2025, arXiv 2510.22124)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..config import setting
from ..errors import UserError
from . import base, erasure


@dataclass(frozen=True)
class Options(erasure.Options):
    log: bool = setting(True, "take the logarithm of both losses, so that the weight is relative")
    tolerance: float = setting(
        0.0, "how much the retain loss may grow a step: of its logarithm, or (raw) per unit of learning rate", low=0.0
    )
    weight_lr: float = setting(1.0, "step size of the retain weight", low=0.0)
    weight_start: float = setting(1.0, "the retain weight at the start", low=0.0)

    def __post_init__(self) -> None:
        if self.log and self.erasure == "bounded":
            raise UserError("method.log needs positive losses, bounded ascent is negative; use method.erasure=distill")


class EUPMU(erasure.Erasure):
    """Steps on grad(l_f + lambda l_r), one backward pass, and then moves lambda by what the step did to l_r.

    delta = (l_r(before) - l_r(after)) / lr + tolerance and lambda <- max(0, lambda - weight_lr * delta); with ``log``:
    delta = log l_r(before) - log l_r(after) + tolerance. For raw losses and steps of plain gradient descent this is
    dual ascent of min |d - g_f|^2 s.t. <g_r, d> >= -tolerance; under an adaptive optimizer the bound is on what its
    steps do. Under bf16 delta without ``log`` holds the rounding of both losses over the rate: small where the rate is
    the largest, and little else at the end of a schedule; with ``log`` it is not divided by the rate, and
    runtime.precision=fp32 has none of it.
    That is the paper's rule; the released code hands delta to an Adam of its own, which steps by about its rate
    however small delta is. Both evaluations see the same images, timesteps, noise and dropped labels. lambda is
    the retain loss's factor and the forget loss's is 1; the step's rate, schedule and clip are the forget side's. Of
    the retain side's settings the batch size alone acts before the last rounds.
    """

    name = "eupmu"
    summary = "one backward pass of forget + weight x retain loss, the weight set by what happens to the retain loss"
    updates = ("joint",)
    single_backward = True
    Options = Options

    @classmethod
    def check(cls, config: Any) -> None:
        forget = config.unlearn.forget
        if (forget.weight, forget.weight_schedule) != (1.0, "constant"):
            raise UserError("eupmu weighs its two losses itself: no unlearn.forget.weight or weight_schedule")

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        device = next(iter(parameters.values())).device
        self.weight = torch.tensor(self.options.weight_start, device=device)

    def gradients(self, batches: Mapping[str, Any], take: base.TakeGradient) -> dict[str, base.Gradient]:
        return {"forget": take("forget", batches, self.joint)}

    def joint(self, values: base.Values) -> torch.Tensor:
        """l_f + lambda l_r, or the same of their logarithms."""
        forget, retain = (self.reduce(side, values[side]) for side in ("forget", "retain"))
        if self.options.log:
            return forget.log() + self.weight * retain.log()
        return forget + self.weight * retain

    def observe(self, values: base.Values) -> None:
        self.before = self.reduce("retain", values["retain"])

    def after_step(self, batches: Mapping[str, Any], lr: float, evaluate: Callable[[str, Any], torch.Tensor]) -> None:
        after = evaluate("retain", batches["retain"])
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
