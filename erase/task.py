"""What a method may ask: the training loss, the error of the predicted noise, a prediction, another class's label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .data.latents import Batch
from .diffusion import Schedule, dit_loss, noise_mse


@dataclass
class DiffusionTask:
    """Diffusion under class labels. ``module`` is the transformer, or its wrapper for many processes.

    ``classes`` are the ids in use and ``forget`` those to be forgotten.
    """

    module: Any
    schedule: Schedule
    classes: Sequence[int]
    forget: Sequence[int]
    null_label: int

    def predict(self, batch: Batch, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The model's output on the noised batch, under the batch's labels or others: n x out_channels x h x w."""
        xt = self.schedule.add_noise(batch.x0, batch.noise, batch.t)
        labels = batch.labels if labels is None else labels
        return self.module(xt, timestep=batch.t, class_labels=labels, return_dict=False)[0]

    def mse(self, batch: Batch) -> torch.Tensor:
        """Per-sample mean squared error of the predicted noise, fp32, n; 1.0 is the level of predicting nothing."""
        return noise_mse(self.predict(batch), batch.noise)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Per-sample DiT training loss, variance term included, fp32, n."""
        xt = self.schedule.add_noise(batch.x0, batch.noise, batch.t)
        return dit_loss(self.schedule, self.predict(batch), batch.x0, xt, batch.noise, batch.t)
