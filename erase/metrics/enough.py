"""The number of images from which on a metric means something."""

from __future__ import annotations

PER_FEATURE = 5  # a covariance of fewer images is mostly its sampling error, and the distance is biased upwards
PER_CLASS = 50  # the 50,000 images of Salimans et al. over 1,000 classes
SHARES = 100  # half a Wilson interval is about 10 points
PAIRS = 1000  # neighbourhoods of fewer images are too wide to tell sets apart


def enough(metric: str, width: int, classes: int) -> int:
    """Images for ``metric``, with features ``width`` wide and answers in ``classes`` classes."""
    if metric in ("fid", "per_class_fid"):
        return PER_FEATURE * width
    if metric == "isc":
        return PER_CLASS * classes
    return PAIRS if metric in ("precision", "recall", "f_score") else SHARES
