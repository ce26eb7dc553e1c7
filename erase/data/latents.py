"""Sets of latents, and the stateless stream of noised training batches drawn from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .. import rng
from .moments import Moments, MomentStore


@dataclass
class Batch:
    """Scaled latents ``x0`` (n x C x h x w), ``noise`` of that shape, ``t`` (int64, n), ``labels`` (int64, n).

    ``classes`` (int64, n) are the labels before any was dropped, ``items`` (int64, n) number the images (a mirrored one
    has its original's number), and ``draws`` (float64, n, in [0, 1)) are for the method's own use: a random choice for
    each sample that depends on (seed, step, index) alone.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    labels: torch.Tensor
    classes: torch.Tensor
    items: torch.Tensor
    draws: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """There, but for ``classes`` and ``items``, by which a method chooses samples: so that nothing waits for it."""
        here = ("classes", "items")
        return Batch(**{k: v if k in here else v.to(device, non_blocking=True) for k, v in vars(self).items()})

    def pinned(self) -> Batch:
        """The same in page-locked memory."""
        return Batch(*(value.pin_memory() for value in vars(self).values()))

    def part(self, chosen: torch.Tensor | slice) -> Batch:
        """The samples at these positions (int64, bool or a slice)."""
        if isinstance(chosen, slice):
            return Batch(*(value[chosen] for value in vars(self).values()))
        here = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        there = here.to(self.x0.device, non_blocking=True)
        return Batch(*(value[here if value.device == here.device else there] for value in vars(self).values()))

    def parts(self, size: int) -> Iterator[Batch]:
        """Consecutive parts of at most ``size`` samples."""
        return (self.part(slice(start, start + size)) for start in range(0, len(self), size))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LatentSet:
    """Images of one side: ``rows`` of ``moments`` (int64, n) and the class id of each (int64, n)."""

    moments: MomentStore
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: np.ndarray) -> LatentSet:
        """The images at these positions (int64 or bool)."""
        return LatentSet(self.moments, self.rows[chosen], self.labels[chosen])


def fixed_latents(latents: torch.Tensor, labels: np.ndarray, scaling_factor: float, spread: float = 0.0) -> LatentSet:
    """A set of given scaled ``latents`` (n x C x h x w); every use adds noise of deviation ``spread``."""
    mean = latents / scaling_factor
    std = torch.full_like(mean, spread / scaling_factor)
    return LatentSet(Moments(mean, std, scaling_factor), np.arange(len(latents)), labels)


@dataclass(frozen=True)
class LatentStream:
    """Batch number ``step`` of a set, a function of (seed, name, step) alone.

    ``rows`` are the set's rows in ``moments`` and ``labels`` their class ids. A share ``label_dropout`` of the labels
    is replaced by ``null_label``, drawn once a sample.
    """

    moments: MomentStore
    rows: np.ndarray
    labels: np.ndarray
    seed: int
    name: str
    batch_size: int
    null_label: int
    label_dropout: float = 0.0
    timesteps: int = 1000

    def batch(self, step: int) -> Batch:
        chosen = rng.epoch_indices(self.seed, f"{self.name}/batch", step, self.batch_size, len(self.rows))
        mean, std = self.moments.take(self.rows[chosen])
        shape = tuple(mean.shape)
        x0 = (mean + std * rng.normal(self.seed, f"{self.name}/latent", step, shape)) * self.moments.scaling_factor
        classes = labels = torch.from_numpy(self.labels[chosen])
        if self.label_dropout > 0:
            drop = rng.uniform(self.seed, f"{self.name}/drop", step, self.batch_size) < self.label_dropout
            labels = torch.where(drop, self.null_label, labels)
        noise = rng.normal(self.seed, f"{self.name}/noise", step, shape)
        t = rng.stratified(self.seed, f"{self.name}/t", step, self.batch_size, self.timesteps)
        draws = rng.uniform(self.seed, f"{self.name}/draw", step, self.batch_size)
        items = torch.from_numpy(self.rows[chosen] % self.moments.images)
        return Batch(x0, noise, t, labels, classes, items, draws)
