"""Which image files lie under a folder: one rule for data, samples and references."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def image_files(root: Path) -> list[str]:
    """Sorted image files under ``root``, hidden files left out; links are followed.

    Raises UserError for a link to a folder that is listed anyway or holds this one, and for a folder that cannot be
    listed.
    """
    found = []
    for folder, inside, names in os.walk(root, followlinks=True, onerror=_unlisted):
        _check_links(Path(root), Path(folder), inside)
        found += [os.path.join(folder, x) for x in names if os.path.splitext(x)[1].lower() in SUFFIXES and x[0] != "."]
    return sorted(found)


def class_folders(root: Path) -> list[Path]:
    """Sorted sub-folders of a data folder, one a class. Raises UserError for one that cannot be listed."""
    try:
        return sorted(path for path in root.iterdir() if path.name[0] != "." and path.is_dir())
    except OSError as error:
        _unlisted(error)


def check_listable(root: Path) -> None:
    """Raises UserError if a data folder, or a class's in it, cannot be listed; reads no more than that."""
    for folder in class_folders(root):
        try:
            os.scandir(folder).close()
        except OSError as error:
            _unlisted(error)


def _unlisted(error: OSError) -> NoReturn:
    raise UserError(f"cannot list the folder {error.filename}: {error.strerror}") from None


def _check_links(root: Path, folder: Path, inside: Sequence[str]) -> None:
    for path in (folder / name for name in inside):
        if path.is_symlink():
            target = path.resolve()
            above = [one.resolve() for one in (folder, *folder.parents) if one == root or root in one.parents]
            if target.is_relative_to(root.resolve()) or any(one.is_relative_to(target) for one in above):
                raise UserError(f"{path} is a link to a folder that is listed anyway, or that it lies in; remove it")
