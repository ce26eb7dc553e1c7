"""One process at a time in a folder, or in its place. A lock ends with the process that holds it, however that ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError
from .launched import launched_rank

LOCK = ".lock"


@contextlib.contextmanager
def held(folder: Path, busy: str) -> Iterator[None]:
    """Makes ``folder`` and holds it. Raises UserError with the line ``busy`` if another process does.

    Of the processes of one run, the main one holds it for all.
    """
    if launched_rank():
        yield
        return
    try:
        handle = _open(folder / LOCK)
    except OSError as error:
        raise UserError(f"cannot write the output folder {folder}: {error.strerror}") from None
    if handle is None:
        raise UserError(busy)
    try:
        yield
    finally:
        _release(folder / LOCK, handle)
        with contextlib.suppress(OSError):
            folder.rmdir()  # nothing was put in


@contextlib.contextmanager
def held_place(folder: Path, busy: str) -> Iterator[None]:
    """Holds the place of ``folder``, whatever lies there: for one that is moved away and another put in its place.

    Raises UserError with the line ``busy`` if another process does. Who can write nothing beside ``folder`` cannot move
    it either, and holds nothing.
    """
    path, handle = beside(folder), None
    with contextlib.suppress(OSError):
        handle = None if launched_rank() else _open(path)
        if handle is None and not launched_rank():
            raise UserError(busy)
    try:
        yield
    finally:
        if handle is not None:
            _release(path, handle)


def beside(folder: Path) -> Path:
    """The lock of a folder's place."""
    whole = folder.absolute()
    return whole.parent / f".{whole.name}{LOCK}"


def _release(path: Path, handle: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # where the folder was moved meanwhile, with its lock
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            path.unlink()  # before it is released: who has opened it finds it gone, and tries again
    os.close(handle)


def _open(path: Path) -> int | None:
    """The locked file, or None if another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such lock on Windows
            return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            print(f"{path}: this file system has no locks ({error.strerror}); start one run only", file=sys.stderr)
            return handle
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)
