"""What killed processes leave of a file that they were writing, told from what living ones write by its name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
from functools import cache
from pathlib import Path

NEW = ".new"  # ends what has no ending of its own


def prefix(path: Path) -> str:
    """How the names of this process's temporary files for ``path`` begin."""
    return f".{path.name}.{_here()}-{os.getpid()}."


def clear(path: Path, suffix: str) -> None:
    """Removes the temporary files or folders of ``path`` whose processes have ended; those of other machines stay."""
    if os.name != "posix":  # elsewhere asking for a process may end it
        return
    mine = re.compile(rf"\.{re.escape(path.name)}\.{_here()}-(\d+)\.[a-z0-9_]{{8}}{re.escape(suffix)}")
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            found = mine.fullmatch(entry.name)
            if found and not _lives(int(found[1])):
                _remove(Path(entry))


@cache
def _here() -> str:
    """This machine, and on Linux the set of process numbers that counts here."""
    about = platform.node()
    with contextlib.suppress(OSError):
        about += f" {os.stat('/proc/self/ns/pid').st_ino}"
    return hashlib.sha256(about.encode()).hexdigest()[:8]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)
