"""The ``erase`` command, but the second of its processes is killed at its sixth step."""

import os
import signal

from erase import processes
from erase.cli import main
from erase.trainer import Trainer

step, taken = Trainer.step, []


def last(self, *words):
    taken.append(1)
    if len(taken) == 6 and not processes.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *words)


if __name__ == "__main__":
    Trainer.step = last
    main()
