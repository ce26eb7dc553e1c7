"""The training images of a run: what is forgotten, what is retained, as cached latent moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import rng
from ..config import ResolvedConfig
from ..files import digest
from .images import ImageSet
from .latents import LatentSet, LatentStream
from .moments import encode_moments


@dataclass(frozen=True)
class Split:
    """The sets of either side ("forget", "retain"). A method may put others in their place.

    ``key`` changes with the content of any image, its class, the VAE, or what is forgotten.
    """

    sets: dict[str, LatentSet]
    null_label: int
    key: str = ""

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
    vae: Any,
    key: str,
    images: ImageSet,
    classes: Sequence[int],
    forget: Sequence[int],
    null_label: int,
    flip: bool,
    retain_images: int | None = None,
) -> Split:
    """Encodes (or finds in the cache) the training images that a run needs. ``key`` tells one VAE from another.

    All of the forgotten classes; of the others all, or ``retain_images`` in all, as many of each class as can be.
    """
    gone = images.select(forget, held_out=False)
    kept = images.select([label for label in classes if label not in forget], held_out=False)
    if retain_images is not None:
        kept = kept[balanced(images.labels[kept], retain_images)]
    chosen = np.sort(np.concatenate([gone, kept]))
    moments, good = encode_moments(vae, images, chosen, key, flip)
    readable, labels = np.flatnonzero(good), images.labels[chosen]
    everything = np.concatenate([readable, len(chosen) + readable]) if flip else readable
    whole = LatentSet(moments, everything, labels[everything % len(chosen)])
    forgotten = np.isin(whole.labels, list(forget))
    identity = digest(key, flip, list(zip(images.digests(chosen), labels.tolist(), strict=True)), sorted(forget))
    return Split({"forget": whole.part(forgotten), "retain": whole.part(~forgotten)}, null_label, identity)


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of ``count`` of these, in order, as many of each class as can be; the same whatever the run's seed."""
    ranks = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = rng.generator(0, f"balanced/{label}").permutation(len(members))
    among = rng.generator(0, "balanced").permutation(int(labels.max(initial=0)) + 1)[labels]
    return np.sort(np.lexsort((among, ranks))[:count])
