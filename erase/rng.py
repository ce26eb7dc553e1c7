"""Randomness as a function of (seed, stream, step, sample index) alone.

Philox is counter based, so a stream needs no state to resume, and NumPy fills arrays in order, so row i of a draw
depends on i and not on how many rows are asked for: a process may draw only the rows up to its own. Timesteps alone
(:func:`stratified`) are drawn for a step's whole batch at once, and depend on its size.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import torch


def generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """The generator of one step of one named stream."""
    key = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


def normal(seed: int, stream: str, step: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal float32 draws of ``shape``; the first axis is the global sample index."""
    return torch.from_numpy(generator(seed, stream, step).standard_normal(shape, dtype=np.float32))


def integers(seed: int, stream: str, step: int, count: int, high: int) -> torch.Tensor:
    """``count`` int64 draws from 0 .. high - 1."""
    return torch.from_numpy(generator(seed, stream, step).integers(high, size=count))


def stratified(seed: int, stream: str, step: int, count: int, high: int) -> torch.Tensor:
    """``count`` int64 draws from 0 .. high - 1, each uniform, one in each of ``count`` equal slices, in random order.

    A batch of timesteps that covers all noise levels has a gradient of much smaller variance than independent draws.
    """
    draws = generator(seed, stream, step)
    slices = draws.permutation(count)
    values = np.floor((slices + draws.random(count)) * (high / count)).astype(np.int64)
    return torch.from_numpy(np.minimum(values, high - 1))  # rounding may reach high


def uniform(seed: int, stream: str, step: int, count: int) -> torch.Tensor:
    """``count`` float64 draws from [0, 1)."""
    return torch.from_numpy(generator(seed, stream, step).random(count))


def epoch_indices(seed: int, stream: str, step: int, count: int, size: int) -> np.ndarray:
    """Indices of batch number ``step``: a fresh permutation of ``size`` items each epoch, none skipped at its end."""
    position = np.arange(step * count, (step + 1) * count)
    epochs, offsets = position // size, position % size
    order = {int(e): _order(seed, stream, int(e), size) for e in np.unique(epochs)}
    return np.array([order[int(e)][o] for e, o in zip(epochs, offsets, strict=True)], dtype=np.int64)


@lru_cache(maxsize=4)  # either side's current epoch and the next: a batch costs no more from a larger set
def _order(seed: int, stream: str, epoch: int, size: int) -> np.ndarray:
    order = generator(seed, stream, epoch).permutation(size)
    order.setflags(write=False)
    return order


def image_seed(sample_seed: int, label: int, number: int) -> int:
    """The seed of image ``number`` of class ``label``: 63 bits, the same for the original and the erased model."""
    key = hashlib.blake2b(f"{sample_seed}/image/{label}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(key, "little") >> 1
