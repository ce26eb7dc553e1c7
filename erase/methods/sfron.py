"""SFRon: saliency forgetting in the remain-preserving manifold, online (NeurIPS 2024, arXiv 2409.19732)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..config import setting
from ..saliency import apply_mask, fisher_diagonal, ratio_mask, with_masks
from . import base, ga


@dataclass(frozen=True)
class Options(ga.Options):
    gamma: float = setting(1.0, "a weight is salient where its forget Fisher is gamma times its retain Fisher", low=0.0)
    fisher_samples: int = setting(1024, "samples of each set for its Fisher diagonal", low=1, high=10**7)


class SFRon(ga.GradientAscent):
    """Gradient ascent on the weights that matter more to the forget set than to the retain set.

    Without the paper's slow averaging of the weights, which the released code switches off (b = 1).
    """

    name = "sfron"
    summary = "gradient ascent on weights salient by the ratio of two Fisher diagonals"
    needs = ("forget images", "retain images", "Fisher diagonals of both sets")
    memory = 0.25
    precomputed_from = ("fisher_samples",)
    quick: ClassVar[dict[str, Any]] = {"fisher_samples": 16}
    Options = Options

    def precompute(self, beforehand: base.Beforehand) -> base.Tensors:
        samples = self.options.fisher_samples
        fisher = {
            side: fisher_diagonal(beforehand.module, self.task.loss, beforehand.batches(side, samples))
            for side in ("forget", "retain")
        }
        return {f"{side}/{name}": value for side, values in fisher.items() for name, value in values.items()}

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        forget = {name: precomputed[f"forget/{name}"] for name in parameters}
        retain = {name: precomputed[f"retain/{name}"] for name in parameters}
        mask = ratio_mask(forget, retain, self.options.gamma)  # S = 1(F_f >= gamma F_r)
        self.masked = with_masks(parameters, mask)

    def edit_gradients(self, objective: str, weight: float = 1.0) -> None:
        if objective == "forget":
            apply_mask(self.masked)
