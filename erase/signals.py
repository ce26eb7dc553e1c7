"""SIGINT and SIGTERM: what is under way is finished and saved, then the command ends. A second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .launched import launched_rank

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER = 0.5  # seconds within which a second signal is the first one's echo: from a launcher and from the terminal
_asked: tuple[int, float] | None = None


class Interrupted(BaseException):
    """A signal has asked for the end, and all that was done is saved. ``code``: the exit code, 130 or 143."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


@contextmanager
def graceful() -> Iterator[None]:
    """Inside, a first signal is only noted: :func:`check` raises it where nothing is half done."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = None


def check() -> None:
    """Raises :class:`Interrupted` if a signal has arrived. Loops ask it between their steps."""
    if _asked is not None:
        raise Interrupted(_asked[0])


def check_together() -> None:
    """As :func:`check`, of several processes in all at the same place, whichever of them the signal came to."""
    from . import processes  # imports torch, which the command line must not

    number = processes.largest(0 if _asked is None else _asked[0])
    if number:
        raise Interrupted(number)


def stopping() -> bool:
    """Whether a signal has arrived."""
    return _asked is not None


def _note(number: int, frame: Any) -> None:
    global _asked
    now = time.monotonic()
    if _asked is None:
        _asked = number, now
        if not launched_rank():
            os.write(2, b"\nerase: finishing this step, then saving; once more stops at once\n")
    elif now - _asked[1] > TOGETHER:
        if not launched_rank():
            os.write(2, b"\nerase: stopped at once; the same command continues from the last saved state\n")
        os._exit(128 + number)
