"""One process at a time in a folder. The lock ends with the process that holds it, however that ends."""

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
    path = folder / LOCK
    try:
        handle = _open(path)
    except OSError as error:
        raise UserError(f"cannot write the output folder {folder}: {error.strerror}") from None
    if handle is None:
        raise UserError(busy)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # where the folder was moved meanwhile, with its lock
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                path.unlink()  # before it is released: who has opened it finds it gone, and tries again
        os.close(handle)
        with contextlib.suppress(OSError):
            folder.rmdir()  # nothing was put in


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
