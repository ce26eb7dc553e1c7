"""Which class of a model each sub-folder of a data folder is."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError
from ..imagenet import is_imagenet, wnids
from ..labels import names_of
from .listing import class_folders


def folder_ids(root: Path, labels: Mapping[int, str], slots: int) -> dict[str, int]:
    """Names of the sub-folders of ``root`` to class ids of a model with these class names and label slots.

    By the model's names. For ImageNet's classes by wnid or any name, and any part of them may be there. Folders that
    are no ImageNet classes, or whose model has no names but numbers, go by their own number where all are numbers, else
    by sorted order, and then must be as many as the model's classes. Raises UserError if they fit no such rule.
    """
    exact = {name: label for label, name in labels.items()}
    if not root.is_dir():
        return exact
    found = [path.name for path in class_folders(root)]
    if is_imagenet(labels):
        known = names_of(labels)
        named = [name for name in found if name.casefold() in known]
        if 2 * len(named) > len(found) or set(named) & set(wnids()):  # others' data also has an "ant" or a "crane"
            return {name: _one(root / name, known.get(name.casefold(), [])) for name in found}
    elif dict(labels) != {label: str(label) for label in range(slots)} or any(name in exact for name in found):
        return exact
    return _in_order(root, found, labels)


def _one(path: Path, candidates: Sequence[int]) -> int:
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        which = " and ".join(str(label) for label in candidates)
        raise UserError(f"the data folder {path} bears a name of the classes {which}; rename it to the class's wnid")
    raise UserError(f"the data folder {path} is no ImageNet class, and others beside it are; rename or move it")


def _in_order(root: Path, found: Sequence[str], labels: Mapping[int, str]) -> dict[str, int]:
    if found and all(re.fullmatch("[0-9]+", name) for name in found):
        wrong = [name for name in found if int(name) not in labels]
        if wrong:
            raise UserError(f"the data folder {root / wrong[0]} is no class of the model, which has {len(labels)}")
        return {name: int(name) for name in found}
    if len(found) != len(labels):
        inside = next((name for name in ("train", "val") if (root / name).is_dir()), None)
        hint = f"; did you mean {root / inside}?" if inside else ""
        raise UserError(
            f"the data folder {root} has {len(found)} sub-folders, not named as the model's classes; in sorted order "
            f"they must be as many as those, {len(labels)}{hint}"
        )
    print(f"{root}: the sub-folders are not named as the model's classes; taken in sorted order", file=sys.stderr)
    return dict(zip(found, sorted(labels), strict=True))
