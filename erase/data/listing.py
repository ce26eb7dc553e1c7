"""Which image files lie under a folder: one rule for data, samples and references."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def image_files(root: Path) -> list[str]:
    """Sorted image files under ``root``, hidden ones left out; links are followed.

    Raises UserError for a link back to a folder above, and for a folder that cannot be listed.
    """
    found = []
    for folder, inside, names in os.walk(root, followlinks=True, onerror=_unlisted):
        _check_links(folder, inside)
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


def _check_links(folder: str, inside: Sequence[str]) -> None:
    here = os.path.join(os.path.realpath(folder), "")
    for name in inside:
        path = os.path.join(folder, name)
        if os.path.islink(path) and here.startswith(os.path.join(os.path.realpath(path), "")):
            raise UserError(f"{path} is a link to a folder that it lies in; remove it")
