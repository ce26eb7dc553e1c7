"""Processes that run a command, and what ends them."""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import itertools
import json
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
import erase.report.command
import erase.report.compare
import erase.report.page
import erase.samples
import erase.table.pool
import erase.table.run
import erase.table.warm

PACKAGE = os.path.join(os.path.dirname(erase.cli.__file__), "")
ORDERS = "ERASE_TRIAL"  # what a process of a table is to do at its replacements
Site = tuple[str, str]  # module and function, and the lines that tell two replacements of one function apart
_child = erase.table.pool._child


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


def record_sites(path: Path) -> None:
    """Writes down who calls each replacement, in this process and in those that a table starts."""

    _record(path, "")
    _order({"record": str(path)})


def _record(path: Path, who: str) -> None:
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        with path.open("a") as file:
            file.write(who + "\t".join(_site()) + "\n")
        real(source, target)

    os.replace = replace  # type: ignore[assignment]


def kill_at(site: Site, moment: str, number: int = 0, mark: Path | None = None) -> None:
    """This process kills itself just ``before`` or ``after`` its replacement of this number at this site.

    Of a table's site that begins with ``cell`` or ``golden``, the first process of this kind that it starts does.
    ``mark``: the file that says that one has.
    """
    name, lines = site
    kind, _, bare = name.rpartition(" ")
    if kind:
        _order({"kill": [bare, lines], "of": kind, "moment": moment, "mark": os.path.abspath("killed")})
        return
    real, count = os.replace, itertools.count()

    def replace(source: Any, target: Any) -> None:
        found, at = _site()
        mine = found == name and lines in ("", at) and next(count) == number and not (mark and mark.exists())
        if mine and mark:
            mark.touch()
        if mine and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def child(*given: Any) -> None:
    """A table's process, under the orders that its parent was given."""
    orders, kind = json.loads(os.environ[ORDERS]), given[1].__name__.removeprefix("do_")
    if "record" in orders:
        _record(Path(orders["record"]), f"{kind} ")
    elif orders["of"] == kind:
        kill_at(tuple(orders["kill"]), orders["moment"], mark=Path(orders["mark"]))
    _child(*given)


def _order(orders: dict[str, Any]) -> None:
    os.environ[ORDERS] = json.dumps(orders)
    erase.table.pool._child = child


def _site() -> Site:
    frames = [
        (frame.f_code.co_filename, frame.f_code.co_name, line)
        for frame, line in traceback.walk_stack(None)
        if frame.f_code.co_filename.startswith(PACKAGE)
    ]
    path, name, line = next(frame for frame in frames if frame[0] != os.path.join(PACKAGE, "files.py"))
    return f"{Path(path).stem}.{name}", f"{line}:{frames[0][2]}"
