"""SFRon: saliency forgetting in the remain-preserving manifold, online (NeurIPS 2024, arXiv 2409.19732)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..config import setting
from ..saliency import fisher_diagonal, ratio_mask
from . import base


@dataclass(frozen=True)
class Options(base.Options):
    ascent: str = setting("bounded", "how the forget loss grows", choices=("ga", "adaga", "bounded"))
    gamma: float = setting(1.0, "a weight is salient where its forget Fisher is gamma times its retain Fisher", low=0.0)
    fisher_samples: int = setting(1024, "samples of each set for its Fisher diagonal", low=1)
    adaga_power: float = setting(0.5, "adaga divides each sample's loss by its own size to this power", low=0.0)
    bound: float = setting(1.0, "bounded: the noise MSE at which a sample is no longer pushed", above=0.0)


class SFRon(base.Method):
    """Ascends the noise MSE of the forget set on the weights that matter more to it than to the retain set.

    The variance term is neither ascended nor bounded: pushed without limit it blows up the sampler's noise, which looks
    like forgetting.
    """

    name = "sfron"
    summary = "gradient ascent on weights salient by the ratio of two Fisher diagonals"
    needs = ("forget images", "retain images", "Fisher diagonals of both sets")
    Options = Options

    def precompute(self, beforehand: base.Beforehand) -> base.Tensors:
        samples = self.options.fisher_samples
        fisher = {
            side: fisher_diagonal(beforehand.module, self.task.loss, beforehand.batches(side, samples))
            for side in ("forget", "retain")
        }
        return {f"{side}/{name}": value for side, values in fisher.items() for name, value in values.items()}

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        forget = {name: precomputed[f"forget/{name}"] for name in parameters}
        retain = {name: precomputed[f"retain/{name}"] for name in parameters}
        mask = ratio_mask(forget, retain, self.options.gamma)  # S = 1(F_f >= gamma F_r)
        self.masked = [(p, mask[name].to(p.device)) for name, p in parameters.items()]
        self.mse: torch.Tensor | None = None

    def forget_loss(self, batch: Any) -> torch.Tensor:
        mse = self.task.mse(batch)
        self.mse = mse.detach().mean()
        if self.options.ascent == "adaga":  # w_i proportional to 1 / sg[L_i]^lambda, summing to 1
            weight = 1 / (mse.detach().pow(self.options.adaga_power) + 1e-8)
            return -(mse * weight / weight.sum()).sum()
        if self.options.ascent == "bounded":
            mse = mse.clamp(max=self.options.bound)  # no gradient beyond the bound
        return -mse.mean()

    def edit_gradients(self, objective: str) -> None:
        if objective == "forget":
            for parameter, mask in self.masked:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)

    def report(self, objective: str) -> dict[str, torch.Tensor]:
        return {"forget_mse": self.mse} if objective == "forget" and self.mse is not None else {}
