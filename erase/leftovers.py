"""What killed processes leave of a file that they were writing, told apart from what living ones write."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is held, and nothing removed
    fcntl = None  # type: ignore[assignment]


NEW = ".new"  # ends what has no ending of its own, lest a user's hidden file be taken for it


@contextlib.contextmanager
def owned(temporary: Path) -> Iterator[None]:
    """Holds a temporary file or folder inside, with a lock that ends with this process."""
    handle = None if fcntl is None else os.open(temporary, os.O_RDONLY)
    try:
        if handle is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def clear(path: Path, suffix: str) -> None:
    """Removes the temporary files or folders of earlier attempts at ``path`` that nobody holds any more.

    Their names are ``path``'s, eight characters of tempfile and ``suffix``.
    """
    mine = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(suffix)}")
    with contextlib.suppress(OSError):
        for left in [Path(entry) for entry in os.scandir(path.parent) if mine.fullmatch(entry.name)]:
            _remove(left)


def _remove(left: Path) -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError):  # it is held, has gone, or nothing can be held here
        handle = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        finally:
            os.close(handle)
