"""The 1,000 classes of ImageNet: index, WordNet id and names (Russakovsky et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from .files import shipped

CLASSES = 1000
AGREEING = 0.9  # share of a model's names that must be ImageNet's; hub repositories spell a few their own way


@cache
def wnids() -> tuple[str, ...]:
    """The WordNet id of each class, by index."""
    return tuple(wnid for wnid, _ in _table())


@cache
def synonyms() -> tuple[tuple[str, ...], ...]:
    """The names of each class, by index; the first is the common one. 19 of them stand for two classes."""
    return tuple(tuple(names.split(", ")) for _, names in _table())


def class_names() -> dict[int, str]:
    """Index to all names, in one line."""
    return {index: ", ".join(names) for index, names in enumerate(synonyms())}


def is_imagenet(labels: Mapping[int, str]) -> bool:
    """Whether these class names, by id, are ImageNet's names or WordNet ids at the same indices."""
    if not labels or max(labels) >= CLASSES:
        return False
    return sum(_agrees(label, name) for label, name in labels.items()) >= AGREEING * len(labels)


def _agrees(label: int, name: str) -> bool:
    known = {wnids()[label], *(synonym.casefold() for synonym in synonyms()[label])}
    return any(part.strip().casefold() in known for part in name.split(","))


@cache
def _table() -> list[list[str]]:
    text = (shipped("assets") / "imagenet_classes.txt").read_text(encoding="utf-8")
    return [line.split(" ", 1) for line in text.splitlines()]
