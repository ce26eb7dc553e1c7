"""What a method may ask: the training loss, the error of the predicted noise, a prediction, another class's label."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from . import rng
from .data.latents import Batch
from .diffusion import Schedule, dit_loss, noise_mse
from .model import new_like


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

    @property
    def retained(self) -> list[int]:
        """Sorted ids of the classes to be kept."""
        return sorted(set(self.classes) - set(self.forget))

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

    def distance(self, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
        """Per-sample mean squared distance from the noise predicted under the batch's labels to that under ``labels``.

        The latter is the model's own, without gradient: fp32, n. It comes second: under autocast the weights that the
        first pass cast to bf16 serve both, while casts made without gradient would cut the other pass's gradient off.
        """
        output = self.predict(batch)
        with torch.no_grad():
            target = self.predict(batch, labels)[:, : batch.x0.shape[1]].float()
        return noise_mse(output, target)

    def relabelled(self, batch: Batch, labels: torch.Tensor) -> Batch:
        """The same images, noise and timesteps under other labels."""
        return dataclasses.replace(batch, labels=labels)

    def next_class(self, labels: torch.Tensor) -> torch.Tensor:
        """For each label the retained class that follows it, around the end; the null label stays."""
        return self._on(labels.device)[0][labels]

    def random_class(self, batch: Batch) -> torch.Tensor:
        """For each sample a retained class, drawn anew at each step."""
        retained = self._on(batch.labels.device)[1]
        return retained[(batch.draws * len(retained)).long()]

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each label the class that follows it, and the retained classes; copied to a device once."""
        if device not in self._tables:
            first = self._tables[torch.device("cpu")]
            self._tables[device] = (first[0].to(device), first[1].to(device))
        return self._tables[device]

    @cached_property
    def _tables(self) -> dict[torch.device, tuple[torch.Tensor, torch.Tensor]]:
        retained, following = self.retained, list(range(self.null_label + 1))
        for label in self.classes:
            following[label] = retained[bisect_right(retained, label) % len(retained)]
        return {torch.device("cpu"): (torch.tensor(following), torch.tensor(retained))}

    def over_timesteps(self, batch: Batch, chunk: int = 100) -> Iterator[Batch]:
        """The first image of ``batch`` at every timestep once, with noise of its own at each."""
        item, total = int(batch.items[0]), self.schedule.timesteps
        for start in range(0, total, chunk):
            t = torch.arange(start, min(start + chunk, total), device=batch.t.device)
            many = batch.part(torch.zeros(len(t), dtype=torch.long))
            noise = rng.normal(item, "timesteps/noise", start, tuple(many.noise.shape)).to(t.device)
            yield dataclasses.replace(many, t=t, noise=noise)

    def fresh_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """Weights of a DiT of the same shape before any training, by name."""
        return dict(new_like(self.module, seed).named_parameters())
