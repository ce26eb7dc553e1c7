"""Forget accuracy, retain accuracy, and the share of images that are no image of any class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import intervals

Value = dict[str, float | int | None]


@dataclass(frozen=True)
class Readings:
    """What the instruments read: asked-for class, the classifier's answer and the gate's verdict, each of length n."""

    asked: np.ndarray
    answered: np.ndarray
    passed: np.ndarray

    def share_right(self, classes: Sequence[int], gated: bool = True) -> Value:
        """Share of the images asked for as these classes that are called so (and pass the gate)."""
        chosen = np.isin(self.asked, list(classes))
        right = (self.answered == self.asked) & chosen
        return intervals.share(int((right & self.passed if gated else right).sum()), int(chosen.sum()))


def forget_accuracy(readings: Readings, forget: Sequence[int]) -> Value:
    """``fa``: share of the forgotten classes' images that pass the gate and are called the forgotten class."""
    return readings.share_right(forget)


def forget_accuracy_top1(readings: Readings, forget: Sequence[int]) -> Value:
    """``fa_top1``: the papers' FA, the classifier's answer alone, which names a class even for a texture."""
    return readings.share_right(forget, gated=False)


def not_an_image(readings: Readings, forget: Sequence[int]) -> Value:
    """Share of the forgotten classes' images that fail the gate."""
    chosen = np.isin(readings.asked, list(forget))
    return intervals.share(int((chosen & ~readings.passed).sum()), int(chosen.sum()))


def per_class_accuracy(readings: Readings) -> dict[int, float]:
    """Share of each class's images that pass the gate and are called that class."""
    found = {int(c): readings.share_right([int(c)])["value"] for c in np.unique(readings.asked)}
    return {label: float(value) for label, value in found.items() if value is not None}


def retain_accuracy(readings: Readings, retain: Sequence[int]) -> Value:
    """``ra``: mean over the retained classes of the share that passes and is called right."""
    per_class = per_class_accuracy(readings)
    pooled = readings.share_right(retain)
    return {**pooled, "value": float(np.mean([per_class[label] for label in retain]))}
