"""What an extractor says of a set of images, kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from . import processes
from .errors import UserError
from .extractors import Extractor
from .files import cache_folder, digest, once
from .metrics import accuracy
from .pictures import Pictures
from .streaming import batch_size, extract
from .targets import preprocessing

VERSION = 1  # of what a reading is; another one is another key


@dataclass(frozen=True)
class Readings:
    """What the extractor says of n images: ``features`` (n x d), ``logits`` (n x k) and gate verdicts ``passed`` (n)
    where it has them, and the class ids asked for, where they are known. ``ids``: the k classes of the logits."""

    key: str
    features: np.ndarray
    logits: np.ndarray | None
    passed: np.ndarray | None
    asked: np.ndarray | None
    ids: tuple[int, ...]

    def shown(self) -> accuracy.Readings:
        """As the accuracies want it. Raises MissingError without a classifier, a gate, or known classes."""
        if self.logits is None or self.passed is None:
            raise MissingError("it needs an extractor with a classifier and an image gate; give --extractor PACK")
        if self.asked is None:
            raise MissingError("it needs a sub-folder a class, named by its index")
        return accuracy.Readings(self.asked, np.array(self.ids)[self.logits.argmax(1)], self.passed)


class MissingError(UserError):
    """Something that a metric needs is not there."""


def read(one: Pictures, instrument: Extractor, batch: int | None = None, size: int | None = None) -> Readings:
    """What the extractor says of these images, kept in the cache under a key of their content and of it."""
    key = digest(VERSION, one.key, instrument.key, instrument.layer, instrument.device.type, preprocessing(size))

    def take(parts: Sequence[range]) -> dict[str, torch.Tensor]:
        taken: dict[str, list[torch.Tensor]] = {}
        with tqdm(total=sum(map(len, parts)), desc="read", unit="image") as bar:
            for _, found, _ in extract([one], instrument, batch, size, bar, gate=True, parts=parts):
                for name in ("features", "logits", "passed"):
                    value = getattr(found, name)
                    if value is not None:
                        taken.setdefault(name, []).append(value.cpu())
        return {name: torch.cat(values) for name, values in taken.items()}

    def make() -> dict[str, torch.Tensor]:
        return processes.by_parts(take, len(one), batch_size(instrument, batch))

    held = {name: value.numpy() for name, value in once(cache_folder("read") / f"{key}.safetensors", make).items()}
    return Readings(key, held["features"], held.get("logits"), held.get("passed"), one.labels, instrument.classes)
