"""Retraining from scratch without the class: the reference that unlearning is measured against."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from . import base, finetune


class Retrain(finetune.Finetune):
    """Fresh weights, trained on the retain set alone by the recipe of the preset; kept in the cache."""

    name = "retrain"
    summary = "train from scratch on the retain set: the gold reference"
    needs = ("retain images", "the time of a training")
    keeps_weights = True

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        with torch.no_grad():
            for name, value in self.task.fresh_weights(seed).items():
                parameters[name].copy_(value)
