"""Cached VAE moments and the stateless stream of noised training batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import rng
from ..files import cache_folder, digest, once
from .images import ImageSet


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each image's latent posterior, before scaling: float32, n x C x h x w each.

    Index ``n + i`` is image i mirrored, where mirrored images are kept.
    """

    mean: torch.Tensor
    std: torch.Tensor
    scaling_factor: float


@torch.no_grad()
def encode_moments(vae: Any, images: ImageSet, indices: Sequence[int] | np.ndarray, key: str, flip: bool) -> Moments:
    """Moments of these images (and of their mirror images), from the cache if they were made before."""

    def make() -> dict[str, torch.Tensor]:
        device = next(vae.parameters()).device
        means, stds = [], []
        total = len(indices) * (1 + flip)
        with tqdm(total=total, desc="encode", unit="image", disable=total < 5000) as bar:
            for mirrored in (False, True) if flip else (False,):
                for pixels in images.batches(indices):
                    pixels = pixels.flip(-1) if mirrored else pixels
                    posterior = vae.encode(pixels.to(device).float() / 127.5 - 1).latent_dist
                    means.append(posterior.mean.cpu())
                    stds.append(posterior.std.cpu())
                    bar.update(len(pixels))
        return {"mean": torch.cat(means), "std": torch.cat(stds)}

    name = digest(key, images.key, np.asarray(indices).tobytes(), flip)
    stored = once(cache_folder("latents") / f"{name}.safetensors", make)
    return Moments(stored["mean"], stored["std"], float(vae.config.scaling_factor))


@dataclass
class Batch:
    """Scaled latents ``x0`` (n x C x h x w), ``noise`` of that shape, ``t`` (int64, n), ``labels`` (int64, n).

    ``items`` (int64, n) number the images in their set, and ``draws`` (float64, n, in [0, 1)) are for the method's own
    use: a random choice for each sample that depends on (seed, step, index) alone.
    """

    x0: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    labels: torch.Tensor
    items: torch.Tensor
    draws: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(value.to(device, non_blocking=True) for value in vars(self).values()))

    def part(self, chosen: torch.Tensor | slice) -> Batch:
        """The samples at these positions (int64, bool or a slice)."""
        return Batch(*(value[chosen] for value in vars(self).values()))

    def parts(self, size: int) -> Iterator[Batch]:
        """Consecutive parts of at most ``size`` samples."""
        return (self.part(slice(start, start + size)) for start in range(0, len(self), size))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class LatentSet:
    """Images of one side: ``rows`` of ``moments`` (int64, n) and the class id of each (int64, n)."""

    moments: Moments
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

    moments: Moments
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
        rows = torch.from_numpy(self.rows[chosen])
        mean, std = self.moments.mean[rows], self.moments.std[rows]
        shape = tuple(mean.shape)
        x0 = (mean + std * rng.normal(self.seed, f"{self.name}/latent", step, shape)) * self.moments.scaling_factor
        labels = torch.from_numpy(self.labels[chosen])
        if self.label_dropout > 0:
            drop = rng.uniform(self.seed, f"{self.name}/drop", step, self.batch_size) < self.label_dropout
            labels = torch.where(drop, self.null_label, labels)
        noise = rng.normal(self.seed, f"{self.name}/noise", step, shape)
        t = rng.stratified(self.seed, f"{self.name}/t", step, self.batch_size, self.timesteps)
        draws = rng.uniform(self.seed, f"{self.name}/draw", step, self.batch_size)
        return Batch(x0, noise, t, labels, torch.from_numpy(chosen), draws)
