"""How sure a classifier still is of the forgotten class, and how sure of anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import intervals


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    raised = np.exp(shifted)
    shares: np.ndarray = raised / raised.sum(1, keepdims=True)
    return shares


def forgotten_probability(
    logits: np.ndarray, ids: Sequence[int], asked: np.ndarray, forget: Sequence[int]
) -> dict[str, Any]:
    """Mean probability (0 to 1) that the classifier gives the forgotten class an image was asked for as."""
    rows = np.flatnonzero(np.isin(asked, list(forget)))
    column = {label: place for place, label in enumerate(ids)}
    places = np.array([column[int(label)] for label in asked[rows]], dtype=np.int64)
    return intervals.mean(probabilities(logits[rows])[np.arange(len(rows)), places], "probability/bootstrap")


def forgotten_entropy(logits: np.ndarray, asked: np.ndarray, forget: Sequence[int]) -> dict[str, Any]:
    """Mean entropy in nats (0 to ``most`` = ln k) of the answers to the forgotten classes' images."""
    chosen = probabilities(logits[np.isin(asked, list(forget))])
    entropy = -(chosen * np.log(np.maximum(chosen, 1e-300))).sum(1)
    return {**intervals.mean(entropy, "entropy/bootstrap"), "most": float(np.log(logits.shape[1]))}
