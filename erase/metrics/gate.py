"""What became of a forgotten class's images: still it, another class, or no image at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import intervals
from .accuracy import Readings, Value


def gate_shares(readings: Readings, forget: Sequence[int]) -> dict[str, Value]:
    """Shares of the forgotten classes' images that add up to 1: ``still`` passes the gate and is called the class,
    ``another`` passes and is called another one, ``not_an_image`` does not pass. ``retained``: the share of all other
    images that passes, so that a model that draws nothing any more is not taken for one that forgets."""
    mine = np.isin(readings.asked, list(forget))
    right, n = readings.answered == readings.asked, int(mine.sum())
    passed = mine & readings.passed
    return {
        "still": intervals.share(int((passed & right).sum()), n),
        "another": intervals.share(int((passed & ~right).sum()), n),
        "not_an_image": intervals.share(int((mine & ~readings.passed).sum()), n),
        "retained": intervals.share(int((readings.passed & ~mine).sum()), int((~mine).sum())),
    }
