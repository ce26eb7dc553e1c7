"""Scales of a picture's axes, and ticks at round numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """From values ``low`` to ``high`` to the pixels ``start`` to ``end``; ``log``: equal factors are equal lengths."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        return log_ticks(self.low, self.high, most) if self.log else round_ticks(self.low, self.high, most)


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    while len(found := _multiples(low, high, step)) > most:
        step *= 2.5 if f"{step:e}".startswith("2") else 2.0
    return found


def _multiples(low: float, high: float, step: float) -> list[float]:
    slack = 1e-9 * step
    first, last = math.ceil((low - slack) / step), math.floor((high + slack) / step)
    return [float(f"{step * i:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Powers of ten within [low, high], also 2 and 5 times them where they are few, thinned out where they are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in range(first, last + 1) for f in factors if low <= f * 10.0**p * (1 + 1e-9)]
        found = [value for value in found if value <= high * (1 + 1e-9)]
        if len(found) <= most:
            break
    if len(found) < 2:
        return round_ticks(low, high, most)
    return found[:: math.ceil(len(found) / most)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Short; with equally many digits where they are evenly spaced."""
    texts = [f"{value:g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−") for value in values]
    steps = [after - before for before, after in itertools.pairwise(values)]
    if any("e" in text for text in texts) or (steps and max(steps) > 1.01 * min(steps)):
        return texts
    digits = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [f"{value:.{digits}f}".replace("-", "−") for value in values]


def spans_decades(values: Iterable[float], factor: float = 30.0) -> bool:
    """Whether a log scale shows these better: all above 0, and the largest over ``factor`` times the smallest."""
    values = list(values)
    return bool(values) and min(values) > 0 and max(values) > factor * min(values)


def limits(values: Iterable[float], log: bool = False, margin: float = 0.05) -> tuple[float, float]:
    """The ends of an axis that shows all values with some room; never of no length."""
    values = list(values)
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** margin if high > low else 2.0
        return low / room, high * room
    room = margin * (high - low) if high > low else (abs(high) * 0.1 or 1.0)
    return low - room, high + room


def spread_apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places moved as little as it takes to be ``gap`` apart within [low, high], in their order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = [0.0] * len(places)
    last = low - gap
    for i in order:
        found[i] = last = max(places[i], last + gap)
    last = high + gap
    for i in reversed(order):
        found[i] = last = min(found[i], last - gap)
    return found
