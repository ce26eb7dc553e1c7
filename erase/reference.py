"""What a pack keeps of its real images: sums of their features, from which the statistics of any classes follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .errors import UserError
from .files import read_tensors, write_tensors
from .metrics.fid import Statistics

NAME = "reference.safetensors"


@dataclass(frozen=True)
class Reference:
    """Of each of k classes of real images, in float64 but for the integers: ``labels`` (k), ``count`` (k), the sum of
    the features ``total`` (k x d) and of their outer products ``outer`` (k x d x d)."""

    labels: np.ndarray
    count: np.ndarray
    total: np.ndarray
    outer: np.ndarray

    def statistics(self, classes: Sequence[int]) -> Statistics:
        """Mean and covariance over all images of these classes. Raises UserError for fewer than two."""
        chosen = np.isin(self.labels, list(classes))
        n = int(self.count[chosen].sum())
        if n < 2:
            raise UserError(f"a Frechet distance needs at least 2 images, not {n}")
        mean = self.total[chosen].sum(0) / n
        covariance = (self.outer[chosen].sum(0) - n * np.outer(mean, mean)) / (n - 1)
        return {"mu": mean.astype(np.float32), "sigma": covariance}  # float32 as torch-fidelity's own mean


def reference_of(features: np.ndarray, labels: np.ndarray) -> Reference:
    """The sums over n x d float32 features."""
    classes = np.unique(labels)
    parts = [features[labels == label].astype(np.float64) for label in classes]
    return Reference(
        classes,
        np.array([len(part) for part in parts]),
        np.stack([part.sum(0) for part in parts]),
        np.stack([part.T @ part for part in parts]),
    )


def write_reference(reference: Reference, pack: Path) -> None:
    write_tensors(pack / NAME, {name: torch.from_numpy(value) for name, value in vars(reference).items()})


def read_reference(pack: Path) -> Reference:
    """Raises UserError if the pack holds none."""
    held = read_tensors(pack / NAME)
    shapes = {name: tuple(value.shape) for name, value in held.items()}
    k, d = (shapes.get("total") or (0, 0))[:2] if len(shapes.get("total", ())) == 2 else (0, 0)
    if not k or shapes != {"labels": (k,), "count": (k,), "total": (k, d), "outer": (k, d, d)}:
        raise UserError(f"{pack / NAME} holds no sums of features by class")
    return Reference(**{name: value.numpy() for name, value in held.items()})
