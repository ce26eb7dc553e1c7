"""What a launcher (torchrun, accelerate launch) says of the processes that it started. Light: no torch."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from .errors import UserError

SHARED = ("run", "pretrain", "sample", "score", "fid")  # commands whose work is dealt out


def launched() -> int:
    """How many processes the launcher started; 1 without one."""
    return max(1, number("WORLD_SIZE", 1))


def launched_rank() -> int:
    """This process's number among them, from 0."""
    return number("RANK", 0) if launched() > 1 else 0


def number(name: str, otherwise: int) -> int:
    """What the launcher wrote into the environment. Raises UserError for what is no number."""
    text = os.environ.get(name) or str(otherwise)
    if not text.isdecimal():
        raise UserError(f"the environment's {name} must be a number, not {text!r}; unset it")
    return int(text)


def be_quiet() -> None:
    """All but the main process give no result and show no progress; they still can say what went wrong."""
    if launched_rank():
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def admit(command: str | None) -> None:
    """Ends all but the main process of a command that cannot be shared.

    Says so where a launcher was asked for several processes and started one. Raises UserError for ``table``.
    """
    if command in SHARED and _asked_in_vain():
        print(
            "erase: this is one process: accelerate launch --cpu starts no more, whatever its --num_processes says; "
            "for several use torchrun --nproc_per_node N, or --multi_gpu --num_processes N and runtime.device=cpu",
            file=sys.stderr,
        )
    if launched() == 1 or command in SHARED:
        return
    if command == "table":
        raise UserError("erase table starts processes of its own, one a GPU or --jobs N; start it without torchrun")
    if launched_rank():
        sys.exit(0)


def _asked_in_vain() -> bool:
    """accelerate's launcher for one process names a place to meet where it was asked for several, or a cluster does."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return on_cpu and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ


def may_speak() -> bool:
    """Whether this process is the one to say why all end: the first that asks, where that can be known."""
    processes = sys.modules.get("erase.processes")
    try:
        return bool(processes.first_to_end()) if processes is not None else launched_rank() == 0
    except UserError:  # which is then what there is to say
        return True


def lost() -> bool:
    """Whether another process was found to have ended: the launcher now sends SIGTERM to the rest, which is no news."""
    processes = sys.modules.get("erase.processes")
    return processes is not None and bool(processes.lost())


def end(code: int) -> NoReturn:
    """Ends this process, which has failed: at once where threads that wait for others would abort Python's own end."""
    processes = sys.modules.get("erase.processes")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # as on a full disk: Python's own end would fail at it again, with another code
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (AttributeError, ValueError):  # it is closed
            pass
    if processes is not None and processes.joined():
        os._exit(code)
    sys.exit(code)


def leave() -> None:
    """Takes leave of the other processes, after all is done."""
    processes = sys.modules.get("erase.processes")
    if processes is not None:
        processes.stop()
