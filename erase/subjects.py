"""The metrics of ``erase score`` by name, and the set of images that each is asked of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import UserError
from .metrics import accuracy, confidence
from .metrics.fid import distance, statistics, wide_fid
from .metrics.fid import fid as feature_fid
from .metrics.gate import gate_shares
from .metrics.inception_score import inception_score
from .metrics.kid import kid
from .metrics.neighbours import neighbour_table
from .metrics.per_class_fid import per_class_fid
from .metrics.precision_recall import precision_recall
from .metrics.top5 import forget_accuracy_top5
from .readings import MissingError, Readings
from .scoring import nearest_classes

NARROW, SMALL, FEW = 256, 5000, 1000  # features and images up to which resampling a Frechet distance takes seconds


@dataclass(frozen=True)
class Subject:
    """A set of images with all that a metric may ask for."""

    side: str | None
    readings: Readings
    forget: tuple[int, ...]
    before: Readings | None
    names: dict[int, str]
    bootstrap: int
    find_real: Callable[[], Readings]
    find_statistics: Callable[[], Any]

    @property
    def retained(self) -> np.ndarray:
        """Features of the images that should be right: all but the forgotten classes'."""
        return self.readings.features[self.kept]

    @property
    def kept(self) -> np.ndarray:
        if self.readings.asked is None or not self.forget:
            return np.ones(len(self.readings.features), dtype=bool)
        return ~np.isin(self.readings.asked, list(self.forget))

    def forgotten(self) -> list[int]:
        if not self.forget:
            raise MissingError("it needs the forgotten class; give --forget CLASS")
        return list(self.forget)

    def logits(self) -> np.ndarray:
        if self.readings.logits is None:
            raise MissingError("it needs an extractor that classifies")
        return self.readings.logits

    def of_classes(self) -> tuple[np.ndarray, tuple[int, ...], np.ndarray, list[int]]:
        """Logits, their ids, the classes asked for, the forgotten ones: of a classifier that knows these classes."""
        shown, forget = self.readings.shown(), self.forgotten()
        unknown = [label for label in forget if label not in self.readings.ids]
        if unknown:
            raise MissingError(f"the classifier does not know class {unknown[0]}")
        return self.logits(), self.readings.ids, shown.asked, forget


def _fid(subject: Subject) -> Any:
    n, width = subject.retained.shape
    reference = subject.find_statistics()
    if len(reference["mu"]) != width:
        raise UserError(f"the reference has {len(reference['mu'])} features and the extractor gives {width}")
    if width <= NARROW and n <= SMALL:
        return feature_fid(subject.retained, reference, subject.bootstrap)
    if n <= min(width, FEW):
        return wide_fid(subject.retained, reference, subject.bootstrap)
    return {"value": distance(statistics(subject.retained), reference), "n": n, "low": None, "high": None}


def _per_class_fid(subject: Subject) -> Any:
    real, mine = subject.find_real(), subject.readings
    if mine.asked is None or real.asked is None:
        raise MissingError("it needs a sub-folder a class, named by its index, on both sides")
    return per_class_fid(mine.features, mine.asked, real.features, real.asked)


def _ra(subject: Subject) -> Any:
    shown = subject.readings.shown()
    return accuracy.retain_accuracy(shown, [int(c) for c in np.unique(shown.asked) if c not in subject.forget])


def _neighbours(subject: Subject) -> Any:
    if subject.before is None:
        raise MissingError("it compares the two sides of a run")
    forget, real = subject.forgotten(), subject.find_real()
    near = [] if real.asked is None else nearest_classes(real.features, real.asked, forget)
    return neighbour_table(subject.before.shown(), subject.readings.shown(), forget, near, subject.names)


METRICS: dict[str, Callable[[Subject], Any]] = {
    "fid": _fid,
    "kid": lambda s: kid(s.retained, _real_retained(s)),
    "isc": lambda s: inception_score(s.logits()[s.kept], s.bootstrap),
    "prc": lambda s: precision_recall(s.retained, _real_retained(s)),
    "per_class_fid": _per_class_fid,
    "fa": lambda s: accuracy.forget_accuracy(s.readings.shown(), s.forgotten()),
    "fa_top1": lambda s: accuracy.forget_accuracy_top1(s.readings.shown(), s.forgotten()),
    "fa_top5": lambda s: forget_accuracy_top5(*s.of_classes()),
    "not_an_image": lambda s: accuracy.not_an_image(s.readings.shown(), s.forgotten()),
    "ra": _ra,
    "gate": lambda s: gate_shares(s.readings.shown(), s.forgotten()),
    "probability": lambda s: confidence.forgotten_probability(*s.of_classes()),
    "entropy": lambda s: confidence.forgotten_entropy(*_pick(s.of_classes(), 0, 2, 3)),
    "neighbours": _neighbours,
}
NEEDS_REAL = {"fid", "kid", "prc", "per_class_fid", "neighbours"}


def _pick(values: Sequence[Any], *places: int) -> list[Any]:
    return [values[place] for place in places]


def _real_retained(subject: Subject) -> np.ndarray:
    real = subject.find_real()
    if real.asked is None or not subject.forget:
        return real.features
    return real.features[~np.isin(real.asked, list(subject.forget))]
