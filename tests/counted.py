"""The ``erase`` command, each of whose processes says at the end how many they were, and which threads remain."""

import contextlib
import sys
import time
from pathlib import Path

from erase import cli, processes

leave = cli.leave


def counted():
    size, spoke = processes.count(), gloo() > 0
    leave()
    for _ in range(100):  # the system lists a thread for a moment after it has ended
        if not (left := gloo()):
            break
        time.sleep(0.05)
    print(f"one of {size}, {left if spoke else 'none seen and none'} left", file=sys.stderr, flush=True)


def gloo():
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            names.append(path.read_text())
    return sum("gloo" in name for name in names)


if __name__ == "__main__":
    cli.leave = counted
    cli.main()
