"""Class names to class ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .errors import UserError, nearest
from .imagenet import is_imagenet, synonyms, wnids


def find_class(text: str | int, labels: Mapping[int, str]) -> int:
    """The id of a class given by index or name; of ImageNet's also by WordNet id, and by any of its synonyms.

    Text that is one class's index and another's name is refused, and so is a name of two classes; a number that is no
    text is an index. Raises UserError with the candidates, or the nearest names.
    """
    word = str(text).strip()
    known = names_of(labels)
    found = known.get(word.casefold(), [])
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
        raise UserError(f"the class name {word!r} is ambiguous; give the {_candidates(found, labels)}")
    raise UserError(f"unknown class {word!r}{_hint(word, labels)}")


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


def names_of(labels: Mapping[int, str]) -> dict[str, list[int]]:
    """All names of the classes, case-folded, to the ids that bear them: a name's comma-separated parts count each.

    ImageNet's classes also bear their WordNet ids and synonyms, however the model spells them.
    """
    imagenet = is_imagenet(labels)
    found: dict[str, list[int]] = {}
    for label, name in labels.items():
        names = {name, *(part.strip() for part in name.split(","))}
        if imagenet:
            names |= {wnids()[label], *synonyms()[label], ", ".join(synonyms()[label])}
        for each in {name.casefold() for name in names}:
            found.setdefault(each, []).append(label)
    return found


def _candidates(found: Sequence[int], labels: Mapping[int, str]) -> str:
    if is_imagenet(labels):
        which = ", ".join(f"{label} ({wnids()[label]}: {', '.join(synonyms()[label])})" for label in found)
        return f"index or wnid: {which}"
    return "index: " + ", ".join(f"{label} ({labels[label]})" for label in found)


def _hint(word: str, labels: Mapping[int, str]) -> str:
    known = {name for label in labels.values() for name in label.split(", ")}
    if not is_imagenet(labels):
        return nearest(word, known)
    if re.fullmatch("n[0-9]+", word):
        return "; no class of the model has this wnid"
    known |= {name for label in labels for name in synonyms()[label]}
    return nearest(word, known, listed=False) or "; give an index, a wnid or a name of an ImageNet class"


def _span(labels: Mapping[int, str]) -> str:
    ids = sorted(labels)
    if ids == list(range(ids[0], ids[-1] + 1)):
        return f"{ids[0]} to {ids[-1]}"
    return ", ".join(str(label) for label in ids[:20]) + (", ..." if len(ids) > 20 else "")
