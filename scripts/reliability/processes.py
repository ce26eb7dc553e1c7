"""Processes that run a command, and what ends them."""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import erase.cli
import erase.evaluation
import erase.fidelity
import erase.pretraining
import erase.samples
import erase.table.run
import erase.table.warm


def start(words: Sequence[str], home: Path, cache: Path, prepare: Callable[[], None] | None = None) -> int:
    """A process that runs ``erase`` with these words in ``home``; its id. What it says goes to ``home``/log."""
    home.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        os.chdir(home)
        os.environ |= {"ERASE_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["erase", *words]
        if prepare is not None:
            prepare()
        erase.cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def ended(process: int) -> tuple[int, float]:
    """Exit code (minus the signal that ended it) and seconds waited."""
    begin = time.monotonic()
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begin


def signalled(process: int, after: float, number: int) -> int | None:
    """Sends the signal after so many seconds; the exit code if the process ended before."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, number)
    return None


def _patched(change: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    os.replace = change(os.replace)  # type: ignore[assignment]


def record_sites(path: Path) -> None:
    """Writes down who calls each replacement, in this process."""

    def change(real: Callable[..., None]) -> Callable[..., None]:
        def replace(source: Any, target: Any) -> None:
            frames = [f for f in traceback.extract_stack() if "/erase/" in f.filename and "files.py" not in f.filename]
            with path.open("a") as file:
                file.write(f"{Path(frames[-1].filename).stem}.{frames[-1].name}\n")
            real(source, target)

        return replace

    _patched(change)


def kill_at(number: int, moment: str) -> None:
    """This process kills itself just before or after its replacement of this number."""
    count = iter(range(1 << 30))

    def change(real: Callable[..., None]) -> Callable[..., None]:
        def replace(source: Any, target: Any) -> None:
            mine = next(count) == number
            if mine and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)

        return replace

    _patched(change)
