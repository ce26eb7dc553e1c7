"""SalUn: saliency unlearning (ICLR 2024, arXiv 2310.12508)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from ..config import setting
from ..saliency import apply_mask, fisher_diagonal, mean_gradient, top_share_mask, with_masks
from . import base, random_label


@dataclass(frozen=True)
class Options(random_label.Options):
    form: str = setting(
        "distill",
        "distill: the paper's, the forgotten label's prediction goes to the other's; relabel: the published DiT code's",
        choices=random_label.FORMS,
    )
    saliency: str = setting(
        "forget",
        "what ranks the weights. forget: |gradient of the forget loss|; denoise: |gradient of the noise error|, as in "
        "SalUn's code (there with guidance); fisher: the Fisher diagonal, as in DualOptim's DiT code",
        choices=("forget", "denoise", "fisher"),
    )
    share: float = setting(0.5, "share of all weights that the saliency mask selects", low=0.0, high=1.0)
    saliency_samples: int = setting(1024, "forget samples that the saliency is taken over", low=1, high=10**7)
    mask_retain: bool = setting(True, "retain steps move salient weights alone too")


class SalUn(random_label.RandomLabel):
    """Random label on salient weights: l_f = E mean_d (eps(x_t, t, c_f) - sg[eps(x_t, t, c')])^2, c' the next class.

    The mask selects the ``share`` of all weights with the largest saliency at the original weights, by default
    |grad l_f|. The published code ranks by other quantities, see the option.
    """

    name = "salun"
    summary = "another class's label, on the weights of the largest forget gradient"
    needs = ("forget images", "retain images", "saliency mask")
    memory = 0.25
    precomputed_from = ("form", "saliency", "share", "saliency_samples")
    quick: ClassVar[dict[str, Any]] = {"saliency_samples": 16}
    Options = Options

    def other(self, batch: Any) -> torch.Tensor:
        labels: torch.Tensor = self.task.next_class(batch.labels)
        return labels

    def precompute(self, beforehand: base.Beforehand) -> base.Tensors:
        module, batches = beforehand.module, beforehand.batches("forget", self.options.saliency_samples)
        if self.options.saliency == "fisher":
            return top_share_mask(fisher_diagonal(module, self.task.loss, batches), self.options.share)
        loss = partial(self.loss, "forget") if self.options.saliency == "forget" else self.noise_error
        gradient = mean_gradient(module, loss, batches)
        return top_share_mask({name: g.abs() for name, g in gradient.items()}, self.options.share)

    def noise_error(self, batch: Any) -> torch.Tensor:
        error: torch.Tensor = self.task.mse(batch).mean()
        return error

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        self.masked = with_masks(parameters, precomputed)

    def edit_gradients(self, objective: str, weight: float = 1.0) -> None:
        if objective == "forget" or self.options.mask_retain:
            apply_mask(self.masked)
