"""Class names to class ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .errors import UserError, nearest


def find_class(text: str | int, labels: Mapping[int, str]) -> int:
    """The id of a class given by index or name. Raises UserError with the nearest names if there is none.

    Text that is one class's index and another's name is refused; a number that is no text is an index.
    """
    word = str(text).strip()
    found = [label for label, name in labels.items() if word.casefold() in _names(name)]
    if re.fullmatch(r"-?[0-9]+", word):
        index = int(word)
        other = [label for label in found if label != index]
        if index in labels and other and isinstance(text, str):
            name = labels[index]
            raise UserError(
                f"{word!r} is the index of class {index} ({name}) and the name of class {other[0]}; "
                f"give {name!r} or {other[0]}"
            )
        if index in labels:
            return index
        if not found:
            raise UserError(f"class {word} is not in the model; it has {_span(labels)}")
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(f"{label} ({labels[label]})" for label in found)
        raise UserError(f"the class name {word!r} is ambiguous; give the index: {which}")
    known = {name for label in labels.values() for name in label.split(", ")}
    raise UserError(f"unknown class {word!r}{nearest(word, known)}")


def find_forget(texts: Sequence[str | int], labels: Mapping[int, str]) -> list[int]:
    """The sorted ids of the classes to forget. Raises UserError for none, an unknown one, one twice, or all."""
    if isinstance(texts, str):
        texts = [texts]
    if not texts:
        raise UserError("no class to forget; give --forget CLASS (an index or a name)")
    ids = [find_class(text, labels) for text in texts]
    twice = [label for label in ids if ids.count(label) > 1]
    if twice:
        raise UserError(f"class {twice[0]} ({labels[twice[0]]}) is given twice")
    if len(ids) == len(labels):
        raise UserError("all classes are to be forgotten; at least one must be retained")
    return sorted(ids)


def _names(name: str) -> set[str]:
    return {name.casefold(), *(part.strip().casefold() for part in name.split(","))}


def _span(labels: Mapping[int, str]) -> str:
    ids = sorted(labels)
    if ids == list(range(ids[0], ids[-1] + 1)):
        return f"{ids[0]} to {ids[-1]}"
    return ", ".join(str(label) for label in ids[:20]) + (", ..." if len(ids) > 20 else "")
