"""The training images of a run: what is forgotten, what is retained, as cached latent moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import ResolvedConfig
from .images import ImageSet
from .latents import LatentStream, Moments, encode_moments


@dataclass(frozen=True)
class Split:
    """Moments of the training images, with the rows of either side ("forget", "retain") and each image's class id."""

    moments: Moments
    rows: dict[str, np.ndarray]
    labels: np.ndarray
    null_label: int

    def training(self, side: str, config: ResolvedConfig) -> LatentStream:
        """Training batches; labels are dropped on the retain side alone."""
        dropout = config.unlearn.label_dropout if side == "retain" else 0.0
        return self._stream(side, side, config.seed, getattr(config.unlearn, side).batch_size, dropout)

    def beforehand(self, side: str, seed: int, batch_size: int) -> LatentStream:
        """Batches for what is computed before training: no label dropout, and a stream of its own."""
        return self._stream(side, f"precompute/{side}", seed, batch_size, 0.0)

    def _stream(self, side: str, name: str, seed: int, batch_size: int, dropout: float) -> LatentStream:
        rows = self.rows[side]
        labels = self.labels[rows % len(self.labels)]  # a mirrored image follows after all others
        return LatentStream(self.moments, rows, labels, seed, name, batch_size, self.null_label, dropout)


def encode_split(
    vae: Any, key: str, images: ImageSet, classes: Sequence[int], forget: Sequence[int], null_label: int, flip: bool
) -> Split:
    """Encodes (or finds in the cache) the training images of ``classes``. ``key`` tells one VAE from another."""
    chosen = images.select(classes, held_out=False)
    moments = encode_moments(vae, images, chosen, key, flip)
    labels = images.labels[chosen]
    gone = np.isin(labels, list(forget))
    rows = {"forget": np.flatnonzero(gone), "retain": np.flatnonzero(~gone)}
    if flip:
        rows = {side: np.concatenate([r, r + len(labels)]) for side, r in rows.items()}
    return Split(moments, rows, labels, null_label)
