"""Scores of a folder of samples, original or erased, under one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import processes
from .classifier import Instrument, Reading
from .data.images import ImageSet, read_image
from .files import cache_folder, digest, once
from .metrics import accuracy
from .metrics.extractor import register
from .metrics.fid import Statistics, fid
from .sampling import image_path
from .signals import check

READ_BATCH = 200
WIDE = 1024  # features beyond which a resampled Frechet distance takes minutes: no interval


def real_features(instrument: Instrument, images: ImageSet) -> np.ndarray:
    """Features of all real images, n x d, cached by content."""

    def read(parts: Sequence[range]) -> dict[str, torch.Tensor]:
        batches = (next(images.batches(part, len(part))) for part in parts)
        return {"features": torch.from_numpy(instrument.read(batches).features)}

    def make() -> dict[str, torch.Tensor]:
        return processes.by_parts(read, len(images), READ_BATCH)

    name = digest(images.key, instrument.key)
    features: np.ndarray = once(cache_folder("features") / f"{name}.safetensors", make)["features"].numpy()
    return features


def nearest_classes(features: np.ndarray, labels: np.ndarray, forget: Sequence[int]) -> list[int]:
    """All other classes, nearest first by the smallest distance of their mean real feature to a forgotten class's."""
    means = {int(label): features[labels == label].mean(0) for label in np.unique(labels)}
    others = [label for label in means if label not in forget]
    return sorted(others, key=lambda c: min(float(np.linalg.norm(means[c] - means[f])) for f in forget if f in means))


def read_folder(
    instrument: Instrument,
    folder: Path,
    classes: Sequence[int],
    per_class: int | Sequence[int],
    cache: str | None = None,
) -> Reading:
    """What the instrument reads in ``folder/CCCC/IIIII.png``; kept in the cache under the content key ``cache``.

    ``per_class``: images of each class, one number or one a class.
    """

    counts = dict(zip(classes, np.broadcast_to(per_class, len(classes)).tolist(), strict=True))
    paths = [image_path(folder, label, number) for label, count in counts.items() for number in range(count)]

    def read(parts: Sequence[range]) -> dict[str, torch.Tensor]:
        reading = instrument.read(_images(paths, part) for part in parts)
        return {name: torch.from_numpy(value) for name, value in vars(reading).items()}

    def make() -> dict[str, torch.Tensor]:
        return processes.by_parts(read, len(paths), READ_BATCH)

    if cache is None:
        values = make()
    else:
        values = once(cache_folder("readings") / f"{digest(cache, instrument.key)}.safetensors", make)
    return Reading(**{name: value.numpy() for name, value in values.items()})


def folder_features(
    features: Callable[[torch.Tensor], torch.Tensor], folder: Path, counts: Mapping[int, int]
) -> np.ndarray:
    """``features`` of the uint8 images ``folder/CCCC/IIIII.png``, n x d float32, in the order of ``counts``."""
    paths = [image_path(folder, label, number) for label, count in counts.items() for number in range(count)]

    def read(parts: Sequence[range]) -> dict[str, torch.Tensor]:
        return {"features": torch.cat([features(_images(paths, part)).float().cpu() for part in parts])}

    found: np.ndarray = processes.by_parts(read, len(paths), READ_BATCH)["features"].numpy()
    return found


def _images(paths: Sequence[Path], part: range) -> torch.Tensor:
    check()
    return torch.stack([read_image(paths[number]) for number in part])


def score_reading(
    reading: Reading,
    classes: Sequence[int],
    forget: Sequence[int],
    per_class: int | Sequence[int],
    reference: Statistics | None,
    bootstrap: int,
    features: np.ndarray | None = None,
) -> dict[str, Any]:
    """The scores of ``per_class`` images of each class in order (one number, or one a class): the row of one model in
    results.json. ``features``: those of the Frechet distance, if not the reading's own (n x d); it is null without a
    ``reference``."""
    asked = np.repeat(np.array(list(classes)), per_class)
    readings = accuracy.Readings(asked, reading.answered, reading.passed)
    retain = [label for label in classes if label not in forget]
    features = reading.features if features is None else features
    bootstrap = bootstrap if features.shape[1] <= WIDE else 0
    metrics = {
        "fa": accuracy.forget_accuracy(readings, forget),
        "fa_top1": accuracy.forget_accuracy_top1(readings, forget),
        "not_an_image": accuracy.not_an_image(readings, forget),
        "ra": accuracy.retain_accuracy(readings, retain),
    }
    if reference is not None:
        metrics["fid"] = fid(features[np.isin(asked, retain)], reference, bootstrap)
    return {
        **{name: metric["value"] for name, metric in metrics.items()},
        **({} if reference is not None else {"fid": None}),
        "per_class_accuracy": {str(k): v for k, v in accuracy.per_class_accuracy(readings).items()},
        "metrics": metrics,
    }


def describe(instrument: Instrument, reference: str) -> dict[str, str]:
    """The instruments' names for results.json. ``reference``: the key of the real images compared with."""
    return {
        "classifier": instrument.name,
        "gate": f"3 nearest neighbours, threshold {instrument.gate.threshold:.4g}",
        "extractor": register(instrument),
        "reference": reference,
    }
