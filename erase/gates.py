"""The image gate of a published classifier, fitted on the user's own real images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from . import processes
from .ahead import ahead, cores
from .classifier import NEIGHBOURS, Gate, Instrument, exact
from .data.images import ImageSet
from .data.split import balanced
from .errors import UserError
from .files import cache_folder, digest, once
from .published import Published, unit
from .signals import check

KEEP = 0.995  # of the held-out real images; 0.99 is promised
NEAR = 4  # nearest classes that add all their images, as the forgotten ones do
BAD_SHARE = 1 / 1000
BATCH = 100


def gate_rows(images: ImageSet, forget: Sequence[int], nearest: Sequence[int], count: int) -> np.ndarray:
    """Rows of the images that a gate is fitted on: ``count`` of all classes, and all of the forgotten and the nearest.

    All classes, because an image of any class is an image: the gate judges the retained classes' images too.
    Raises UserError if they are too few.
    """
    spread = balanced(images.labels, count)
    rows = np.union1d(spread, images.select([*forget, *nearest[:NEAR]]))
    held = int(images.held_out[rows].sum())
    if held < 1 or len(rows) - held < NEIGHBOURS:
        raise UserError(
            f"the image gate needs at least {NEIGHBOURS} real images and one held out (of each class a fifth is); the "
            f"data has {len(rows) - held} and {held}; give more, or score.allow_missing=true and no scores"
        )
    return rows


def with_gate(network: Published, images: ImageSet, rows: np.ndarray) -> Instrument:
    """The classifier with a gate over these images; the gate is kept in the cache by their content."""
    held_out = images.held_out[rows]
    key = digest(network.key, images.size, images.digests(rows), held_out.tolist(), KEEP)

    def make() -> dict[str, torch.Tensor]:
        features, good = published_features(network, images, rows)
        near = unit(features[good])
        held = torch.from_numpy(held_out)[good]
        gate = Gate.fit(near[~held], near[held], KEEP)
        return {"bank": gate.bank, "mean": gate.mean, "std": gate.std, "threshold": torch.tensor(gate.threshold)}

    held = once(cache_folder("gates") / f"{key}.safetensors", make)
    gate = Gate(held["bank"], held["mean"], held["std"], held["threshold"].item())
    both = digest(network.key, key)
    return Instrument(network, gate, list(range(network.classes)), f"{network.name}-{network.key[:8]}", both)


def published_features(network: Published, images: ImageSet, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`row_features` of a published classifier."""
    device = next(network.parameters()).device

    @torch.no_grad()
    def features(pixels: torch.Tensor) -> torch.Tensor:
        with exact(device):
            return network(pixels.to(device))[1]

    return row_features(features, network.key, images, rows)


def row_features(
    features: Callable[[torch.Tensor], torch.Tensor], key: str, images: ImageSet, rows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of these real images (n x d, float32) and which could be read (bool, n); kept in the cache by content.

    ``features`` maps uint8 images to theirs, ``key`` tells one such map from another.
    Raises UserError if more than one in a thousand cannot be read; each that cannot is named on stderr.
    """
    name = digest(key, images.size, images.digests(rows))
    held = once(cache_folder("features") / f"{name}.safetensors", lambda: _read(features, images, rows))
    good = held["good"].bool()
    bad = rows[~good.numpy()]
    if len(bad) > BAD_SHARE * len(rows):
        raise UserError(f"{len(bad)} of {len(rows)} images cannot be read, the first is {images.files[bad[0]]}")
    for row in bad.tolist() if processes.is_main() else ():
        print(f"left out, cannot be read: {images.files[row]}", file=sys.stderr)
    return held["features"], good


def _read(
    features: Callable[[torch.Tensor], torch.Tensor], images: ImageSet, rows: np.ndarray
) -> dict[str, torch.Tensor]:
    return processes.by_parts(partial(_read_parts, features, images, rows), len(rows), BATCH)


def _read_parts(
    features: Callable[[torch.Tensor], torch.Tensor], images: ImageSet, rows: np.ndarray, parts: Sequence[range]
) -> dict[str, torch.Tensor]:
    def read(part: range) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.zeros(len(part), 3, images.size, images.size, dtype=torch.uint8)
        good = torch.ones(len(part), dtype=torch.bool)
        for number, place in enumerate(part):
            try:
                pixels[number] = images.pixels(int(rows[place]))
            except UserError:
                good[number] = False
        return pixels, good

    found, good = [], []
    total = sum(map(len, parts))
    with tqdm(total=total, desc="read real images", unit="image", disable=total < 2000) as bar:
        for _, (pixels, fine) in ahead(read, parts, max(2, cores())):
            check()
            found.append(features(pixels).float().cpu())
            good.append(fine)
            bar.update(len(fine))
    return {"features": torch.cat(found), "good": torch.cat(good).to(torch.uint8)}
