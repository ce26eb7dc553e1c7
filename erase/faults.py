"""What went wrong, as one line and an exit code: full disks and vanished files in any library's words."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .errors import StoppedError, UserError
from .text import plain

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ)  # the name itself is at fault, whatever the machine does
HINTS = {
    **dict.fromkeys(FULL, "make space, then the same command continues"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, then the same command continues"),
    **dict.fromkeys((errno.ENOENT, errno.ESTALE, errno.EIO), "once it is back the same command continues"),
}
LINE = 2000  # characters of an error line


def ending(error: BaseException) -> tuple[str, int]:
    """The line to print and the exit code: 2 for the user's faults, 1 for the machine's and ours."""
    text = plain(" ".join(str(error).split()))
    text = text if len(text) <= LINE else f"{text[:LINE]}..."
    number = error_number(error)
    if isinstance(error, UserError):
        return text, 2
    if isinstance(error, StoppedError):
        return text, 1
    if number is not None:
        name = getattr(error, "filename2", None) or getattr(error, "filename", None)
        where = "" if name is None else f"{plain(name)}: "
        hint = f"; {HINTS[number]}" if number in HINTS else ""
        return f"{where}{os.strerror(number)}{hint}", 2 if number in NAMES else 1
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({text})' if text else ''}; a smaller runtime.micro_batch or batch needs less", 1
    return f"{type(error).__name__}: {text} (--debug shows the traceback)", 1


def error_number(error: BaseException) -> int | None:
    """The operating system's error number behind an exception of Python's own or a library's; None for any other."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":  # shutil.Error: a list of texts
        found = re.search(r"(?:os error |Errno )([0-9]+)", str(error))
        return int(found[1]) if found else None
    cause = error.__cause__ or error.__context__
    if isinstance(error, RuntimeError) and "inline_container" in str(error) and isinstance(cause, OSError):
        return cause.errno  # torch.save into an open file
    return None


@contextlib.contextmanager
def writing(path: Path, inside: Path) -> Iterator[None]:
    """Turns what a library makes of a failed write to ``inside`` into an OSError that names ``path``.

    Errors of other files, such as one that was to be copied, pass as they are.
    """
    try:
        yield
    except Exception as error:
        number = error_number(error)
        if number is None or isinstance(error, UserError):
            raise
        if number not in FULL and not str(getattr(error, "filename", None) or inside).startswith(str(inside)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextlib.contextmanager
def under_way() -> Iterator[None]:
    """After the first check: a file that can no longer be read is the machine's fault, not wrong use."""
    try:
        yield
    except UserError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise StoppedError(str(error)) from cause
        raise
