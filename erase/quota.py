"""How many images of each class a run draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import rng
from .config import SampleConfig
from .errors import UserError
from .labels import find_class


def image_counts(
    sample: SampleConfig, labels: Mapping[int, str], forget: Sequence[int], at_hand: Sequence[int] | None = None
) -> dict[int, int]:
    """Images to draw, by class id in order: ``per_class`` of each forgotten class, of the retained ones as asked.

    ``at_hand``: the classes that the retained ones default to; default: all. Raises UserError for a class in
    ``sample.retain_classes`` that is unknown or to be forgotten.
    """
    if sample.retain_classes is None:
        retained = sorted(set(labels if at_hand is None else at_hand) - set(forget))
    else:
        retained = sorted({find_class(text, labels) for text in sample.retain_classes})
        both = [label for label in retained if label in forget]
        if both:
            raise UserError(f"class {both[0]} ({labels[both[0]]}) is to be forgotten and in sample.retain_classes")
    if not retained:
        raise UserError("no retained class is left to draw")
    counts = dict.fromkeys(forget, sample.per_class) | spread(retained, sample.retain_total, sample.per_class)
    return {label: counts[label] for label in sorted(counts) if counts[label]}


def spread(classes: Sequence[int], total: int | None, most: int) -> dict[int, int]:
    """``total`` images over these classes, as many of each as can be but at most ``most``; None: ``most`` of each.

    Which classes get one more does not depend on anything but their ids.
    """
    if total is None:
        return dict.fromkeys(classes, most)
    each, left = divmod(total, len(classes))
    order = rng.generator(0, "spread").permutation(max(classes) + 1)
    first = sorted(classes, key=lambda label: int(order[label]))[:left]
    return {label: min(most, each + (label in first)) for label in classes}
