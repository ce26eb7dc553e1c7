"""VAE moments of images, encoded once and kept in shards that are mapped into memory, not read into it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from .. import processes
from ..ahead import ahead, cores
from ..errors import UserError
from ..files import cache_folder, digest, read_tensors, write_tensors
from ..signals import check
from .images import ImageSet

SHARD = 64  # images of one class in a file
BATCH = 64  # images encoded at once; always as many, so that an image's moments do not depend on its neighbours
BAD_SHARE = 1 / 1000

Tensors = dict[str, torch.Tensor]


class MomentStore(Protocol):
    """Mean and standard deviation of each image's latent posterior, before scaling: float32, C x h x w each.

    Row ``n + i`` of n images is image i mirrored, where mirrored images are kept.
    """

    @property
    def scaling_factor(self) -> float: ...

    @property
    def images(self) -> int:
        """n, mirrored ones not counted."""
        ...

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and deviations of these rows: len(rows) x C x h x w each."""
        ...


@dataclass(frozen=True)
class Moments:
    """Moments in memory: n x C x h x w each."""

    mean: torch.Tensor
    std: torch.Tensor
    scaling_factor: float

    @property
    def images(self) -> int:
        return len(self.mean)

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.from_numpy(rows)
        return self.mean[chosen], self.std[chosen]


@dataclass(frozen=True)
class CachedMoments:
    """Moments in shard files. ``places`` (int64, n x 2) gives the shard and the position in it of each image."""

    shards: list[Tensors]
    places: np.ndarray
    scaling_factor: float

    @property
    def images(self) -> int:
        return len(self.places)

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for row in rows.tolist():
            side = "" if row < len(self.places) else "_mirrored"
            shard, position = self.places[row % len(self.places)].tolist()
            for name, part in zip(("mean", "std"), found, strict=True):
                part.append(self.shards[shard][name + side][position])
        return torch.stack(found[0]), torch.stack(found[1])


@dataclass
class Shard:
    """A file of moments: ``positions`` are those of its images among all that were asked for."""

    path: Path
    positions: np.ndarray


def encode_moments(
    vae: Any, images: ImageSet, indices: Sequence[int] | np.ndarray, key: str, flip: bool
) -> tuple[CachedMoments, np.ndarray]:
    """Moments of these images (and their mirror images), and which of them could be read (bool, n).

    What is in the cache is not encoded again; it is found by the images' content, ``key`` (the VAE's) and ``flip``.
    An image that cannot be read is named on stderr. Raises UserError if they are more than one in a thousand.
    Several processes share the files that are missing.
    """
    indices = np.asarray(indices, dtype=np.int64)
    shards = _shards(images, indices, key, flip)
    missing = processes.on_main(lambda: [number for number, shard in enumerate(shards) if not _complete(shard)])
    own = [shards[number] for number in processes.mine(missing)]
    if own:
        _encode(vae, images, indices, own, flip)
    processes.barrier()
    stored = [read_tensors(shard.path) for shard in shards]
    places, good = np.zeros((len(indices), 2), dtype=np.int64), np.zeros(len(indices), dtype=bool)
    for number, (shard, tensors) in enumerate(zip(shards, stored, strict=True)):
        places[shard.positions] = np.stack([np.full(len(shard.positions), number), np.arange(len(shard.positions))], 1)
        good[shard.positions] = tensors["good"].numpy()
    _judge(images, indices, good)
    return CachedMoments(stored, places, float(vae.config.scaling_factor)), good


def _shards(images: ImageSet, indices: np.ndarray, key: str, flip: bool) -> list[Shard]:
    """Files of at most SHARD images of one class each, so that runs which forget other classes share them."""
    folder, labels = cache_folder("latents"), images.labels[indices]
    content = np.array(images.digests(indices))
    shards = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), SHARD):
            positions = members[start : start + SHARD]
            name = digest(key, images.size, flip, content[positions].tolist())
            shards.append(Shard(folder / name[:2] / f"{name}.safetensors", positions))
    return shards


def _complete(shard: Shard) -> bool:
    with contextlib.suppress(UserError):  # a damaged one is made anew
        return shard.path.is_file() and len(read_tensors(shard.path)["good"]) == len(shard.positions)
    return False


@torch.no_grad()
def _encode(vae: Any, images: ImageSet, indices: np.ndarray, shards: list[Shard], flip: bool) -> None:
    """Encodes the images of these shards, in batches that run across them, and writes each shard when it is whole."""
    device = next(vae.parameters()).device
    queue = np.concatenate([shard.positions for shard in shards])
    left = list(shards)
    pieces: list[Tensors] = []
    bad = 0
    with tqdm(total=len(queue), desc="encode", unit="image", disable=len(queue) < 2000) as bar:
        for positions, (pixels, good) in ahead(_reader(images, indices), _batches(queue), max(2, cores())):
            check()
            bad += int((~good).sum())
            if bad > BAD_SHARE * len(indices):
                break  # the shards that are whole stay
            moments = moments_of(vae, pixels, device)
            if flip:
                moments |= {f"{name}_mirrored": v for name, v in moments_of(vae, pixels.flip(-1), device).items()}
            pieces.append({"good": good, **{name: value[: len(positions)] for name, value in moments.items()}})
            bar.update(len(positions))
            while left and sum(len(piece["good"]) for piece in pieces) >= len(left[0].positions):
                shard = left.pop(0)
                whole = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
                write_tensors(shard.path, {name: value[: len(shard.positions)] for name, value in whole.items()})
                pieces = [{name: value[len(shard.positions) :] for name, value in whole.items()}]
    if left:
        unread = [images.files[int(index)] for index in indices[queue] if not _readable(images, int(index))]
        raise UserError(
            f"{len(unread)} of {len(indices)} images cannot be read, the first is {unread[0]}; mend or remove them "
            "(one in a thousand is let pass)"
        )


def _batches(queue: np.ndarray) -> Iterator[np.ndarray]:
    return (queue[start : start + BATCH] for start in range(0, len(queue), BATCH))


def _reader(images: ImageSet, indices: np.ndarray) -> Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor]]:
    """Reads a batch: BATCH images, the last repeated to fill it, and which could be read."""

    def read(positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.zeros(BATCH, 3, images.size, images.size, dtype=torch.uint8)
        good = torch.ones(len(positions), dtype=torch.bool)
        for number, position in enumerate(positions.tolist()):
            try:
                pixels[number] = images.pixels(int(indices[position]))
            except UserError:
                good[number] = False
        pixels[len(positions) :] = pixels[len(positions) - 1]
        return pixels, good

    return read


def moments_of(vae: Any, pixels: torch.Tensor, device: torch.device) -> Tensors:
    posterior = vae.encode(pixels.to(device).float() / 127.5 - 1).latent_dist
    return {"mean": posterior.mean.cpu(), "std": posterior.std.cpu()}


def _readable(images: ImageSet, index: int) -> bool:
    with contextlib.suppress(UserError):
        images.pixels(index)
        return True
    return False


def _judge(images: ImageSet, indices: np.ndarray, good: np.ndarray) -> None:
    bad = indices[~good]
    if len(bad) > BAD_SHARE * len(indices):
        raise UserError(f"{len(bad)} of {len(indices)} images cannot be read, the first is {images.files[bad[0]]}")
    for index in bad.tolist() if processes.is_main() else ():
        print(f"left out, cannot be read: {images.files[index]}", file=sys.stderr)
