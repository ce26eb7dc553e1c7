"""The ``erase`` command, each of whose processes says at the end how many they were, and which threads remain."""

import sys
from pathlib import Path

from erase import cli, processes

leave = cli.leave


def counted():
    size = processes.count()
    leave()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print(f"one of {size}, {sum('gloo' in name for name in threads)} left", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.leave = counted
    cli.main()
