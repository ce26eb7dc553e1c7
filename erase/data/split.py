"""The training images of a run: what is forgotten, what is retained, as cached latent moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import ResolvedConfig
from .images import ImageSet
from .latents import LatentSet, LatentStream, encode_moments


@dataclass(frozen=True)
class Split:
    """The sets of either side ("forget", "retain"). A method may put others in their place."""

    sets: dict[str, LatentSet]
    null_label: int

    def training(self, side: str, config: ResolvedConfig) -> LatentStream:
        """Training batches; labels are dropped on the retain side alone."""
        dropout = config.unlearn.label_dropout if side == "retain" else 0.0
        size = getattr(config.unlearn, side).batch_size
        return self.stream(self.sets[side], side, config.seed, size, dropout)

    def beforehand(self, side: str, seed: int, batch_size: int) -> LatentStream:
        """Batches for what is computed before training: no label dropout, and a stream of its own."""
        return self.stream(self.sets[side], f"precompute/{side}", seed, batch_size)

    def stream(self, images: LatentSet, name: str, seed: int, batch_size: int, dropout: float = 0.0) -> LatentStream:
        return LatentStream(
            images.moments, images.rows, images.labels, seed, name, batch_size, self.null_label, dropout
        )


def encode_split(
    vae: Any, key: str, images: ImageSet, classes: Sequence[int], forget: Sequence[int], null_label: int, flip: bool
) -> Split:
    """Encodes (or finds in the cache) the training images of ``classes``. ``key`` tells one VAE from another."""
    chosen = images.select(classes, held_out=False)
    moments = encode_moments(vae, images, chosen, key, flip)
    labels = images.labels[chosen]
    everything = np.arange(len(labels))
    if flip:  # a mirrored image follows after all others
        everything, labels = np.arange(2 * len(labels)), np.concatenate([labels, labels])
    gone = np.isin(labels, list(forget))
    whole = LatentSet(moments, everything, labels)
    return Split({"forget": whole.part(gone), "retain": whole.part(~gone)}, null_label)
