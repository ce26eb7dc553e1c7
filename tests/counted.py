"""The ``erase`` command, each of whose processes says at the end how many they were."""

import sys

from erase import cli, processes

leave = cli.leave


def counted():
    print(f"one of {processes.count()}", file=sys.stderr, flush=True)
    leave()


if __name__ == "__main__":
    cli.leave = counted
    cli.main()
