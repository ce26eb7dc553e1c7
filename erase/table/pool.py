"""Processes, a fresh one for each piece of work: memory is measured from nothing, and a killed one costs one cell."""

from __future__ import annotations

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from .. import signals
from ..signals import Interrupted, check, graceful


class Task(Protocol):
    @property
    def log(self) -> Path | None: ...


Work = Callable[[Any], dict[str, Any]]
PATIENCE = 60.0  # seconds that a process has to finish its step and save after it was told to end
POLL = 0.5  # seconds between two looks at whether a signal has arrived
Results = Generator[tuple[Any, dict[str, Any]], None, None]
Runner = Callable[[Work, Sequence[Any], int, int], Results]


def processes(work: Work, tasks: Sequence[Any], jobs: int, threads: int) -> Results:
    """Each task with what ``work`` gave for it, or with ``{"error": text}``, as they end.

    Each of the ``jobs`` places has one of the GPUs, in turn, and its processes see that one alone.
    """
    context = _context()
    waiting, running = list(tasks), dict[Any, tuple[Any, Any, str | None]]()
    free = deque(gpu for gpu, _ in zip(itertools.cycle(gpus()), range(jobs), strict=False))
    try:
        while waiting or running:
            check()
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                gpu = free.popleft() if free else None
                process = context.Process(target=_child, args=(theirs, work, task, gpu), daemon=True)
                with environment(TQDM_DISABLE="1", OMP_NUM_THREADS=str(threads)):  # read when its imports run
                    try:
                        process.start()
                    except (EOFError, OSError):
                        check()  # the process to be copied has had the signal while it was starting
                        raise
                theirs.close()
                running[ours] = task, process, gpu
            while not (found := wait(list(running), POLL)):
                check()
            for ready in found:
                task, process, gpu = running[ready]
                try:
                    result = cast(Connection, ready).recv()
                except EOFError:
                    process.join()
                    check()  # a signal to all of them is no fault of the cell's
                    result = {"error": f"the process ended with code {process.exitcode}"}
                process.join()
                del running[ready]
                if gpu is not None:
                    free.append(gpu)
                yield task, result
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join(PATIENCE)
            process.kill()
            process.join()


def gpus() -> list[str]:
    """The GPUs that this process sees, by the names that CUDA_VISIBLE_DEVICES gives them."""
    if not torch.cuda.is_available():
        return []
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[: torch.cuda.device_count()] or [str(number) for number in range(torch.cuda.device_count())]


def _context() -> Any:
    """How to make a fresh process. On Linux a copy of one that has done the imports, which cost seconds each time."""
    if sys.platform != "linux" or gpus():  # CUDA does not live through a fork
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["erase.table.warm"])
    return context


def inline(work: Work, tasks: Sequence[Any], jobs: int, threads: int) -> Results:
    """As :func:`processes`, one after the other in this process."""
    for task in tasks:
        yield task, attempt(work, task)


def attempt(work: Work, task: Any) -> dict[str, Any]:
    """What ``work`` gives, or its error in one line; the traceback goes to stderr."""
    try:
        return work(task)
    except Exception as error:  # whatever it is, it is recorded and shown, and the other cells go on
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}


def _child(connection: Connection, work: Work, task: Any, gpu: str | None) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us, after it has heard of it
    signals.TOGETHER = math.inf  # a signal to all at once comes here twice: the parent, which has it too, passes it on
    threading.Thread(target=_follow_parent, daemon=True).start()
    if task.log is not None:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("w") as file:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(file.fileno(), stream.fileno())
    with graceful():
        try:
            connection.send(attempt(work, task))
        except Interrupted as stop:
            sys.exit(stop.code)


def _follow_parent() -> None:
    """Ends this process with its parent, even a killed one: the next start may run the same cell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
