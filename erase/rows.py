"""An output file of rows, one JSON line each, that several processes may fill together."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import UserError
from .faults import writing
from .files import cache_folder, digest

try:
    import fcntl
except ImportError:  # Windows: one process at a time
    fcntl = None  # type: ignore[assignment]

ROW_START = b'{"name": "'
PLACES = 1 << 40  # of the claims in their file: bytes that are locked and never written


class Rows:
    """Finished rows by key, in the file ``path``; with None, nothing is kept.

    Each key is claimed by the process that makes its row, until the row is there or the process has ended. Raises
    UserError for a file that holds anything else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.held: dict[str, dict[str, Any]] = {}
        self._size = -1
        self._claims: IO[bytes] | None = None
        self.find("")

    def __enter__(self) -> Rows:
        if self.path is not None and fcntl is not None:
            name = digest(str(self.path.resolve()))
            self._claims = (cache_folder("claims") / name).open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        if self._claims is not None:
            self._claims.close()  # with it every claim

    def find(self, key: str) -> dict[str, Any] | None:
        """A row that this or another process has finished."""
        if self.path is not None and self.path.exists() and self.path.stat().st_size != self._size:
            self._size = self.path.stat().st_size
            self.held = read_rows(self.path)
        return self.held.get(key)

    def claim(self, key: str, wait: bool = False) -> bool:
        """Whether the row of this key is now this process's to make. ``wait``: until another one has let go of it."""
        if self._claims is None:
            return True
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, int(key, 16) % PLACES)
        except OSError:
            return False
        return True

    def put(self, row: dict[str, Any], write: bool = True) -> None:
        """Adds a finished row, which this process is to ``write`` or another one does, and lets go of its key."""
        key = row["key"]
        self.held[key] = row
        if self.path is not None and write:
            append_row(self.path, row)
        self.release(key)

    def release(self, key: str) -> None:
        if self._claims is not None:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, int(key, 16) % PLACES)


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Finished rows by key. A last line that a stop cut short is left out. Raises UserError for any other content."""
    if not path.exists():
        return {}
    rows = {}
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            rows[str(row["key"])] = row
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number + 1}, is no row of erase fid; give another --output") from None
    if not tail.startswith(ROW_START[: len(tail)]):
        raise UserError(f"{path}, line {len(lines) + 1}, is no row of erase fid; give another --output")
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """One line in one write, in the place of what a stop cut short, and never beside another process's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, path), path.open("ab+") as file, _alone(file):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """Holds a file against the other processes that write to it; closing it lets go."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    yield
