"""The ``erase`` command, but the second of its processes is killed at its sixth step.

The launcher ends the first then; here its signal comes just when that is about to say why it ends.
"""

import os
import signal

from erase import processes
from erase.cli import main
from erase.trainer import Trainer

step, taken, ask = Trainer.step, [], processes.first_to_end


def last(self, *words):
    taken.append(1)
    if len(taken) == 6 and not processes.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *words)


def first_to_end():
    os.kill(os.getpid(), signal.SIGTERM)
    return ask()


if __name__ == "__main__":
    Trainer.step, processes.first_to_end = last, first_to_end
    main()
