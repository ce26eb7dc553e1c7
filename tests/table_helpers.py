"""Stand-ins for the work of a table's cells. Light: worker processes import it."""

import os
import time

from erase import signals

VERSIONS = {"erase": "0", "torch": "0"}


def scores(fa=0.0, ra=0.98, fid=2.0):
    return {"fa": fa, "fa_top1": fa, "not_an_image": 1 - fa, "ra": ra, "fid": fid}


def entry(erased=None, original=None, seconds=30.0, peak=2**30):
    return {
        "original": original or scores(1.0, 0.98, 2.0),
        "erased": erased or scores(),
        "seconds": {"precompute": seconds / 3, "unlearn": 2 * seconds / 3, "total": 2 * seconds},
        "peak_memory": peak,
        "error": None,
        "versions": VERSIONS,
    }


class Stub:
    """A runner that runs nothing: ``outcome(task)`` stands for a cell's result, ``numbers`` for every golden run's."""

    def __init__(self, outcome=lambda task: entry(), numbers=None, stop_after=None):
        self.outcome, self.numbers, self.stop_after = outcome, numbers or {"loss": 0.5}, stop_after
        self.cells, self.golden = [], []

    def __call__(self, work, tasks, jobs, threads):
        for task in tasks:
            if work.__name__ == "do_golden":
                self.golden += task.tasks
                one = self.numbers if "error" in self.numbers else {"numbers": self.numbers}
                yield task, {golden.key: one for golden in task.tasks}
                continue
            if self.stop_after is not None and len(self.cells) == self.stop_after:
                raise KeyboardInterrupt
            self.cells.append(task)
            yield task, self.outcome(task)


class Piece:
    """A task of the tests' own."""

    log = None

    def __init__(self, value):
        self.value = value


def square(task):
    if task.value == 13:
        raise ValueError("no\nluck")
    if task.value == 99:
        os._exit(7)
    return {"square": task.value**2, "bars": os.environ.get("TQDM_DISABLE"), "threads": os.environ["OMP_NUM_THREADS"]}


def sleep(task):
    task.value.write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def looks(task):
    """Work that looks whether it should end, and saves before it does."""
    task.value.write_text(f"{os.getpid()}")
    try:
        while True:
            signals.check()
            time.sleep(0.05)
    finally:
        task.value.with_name("saved").write_text("")


def seen_gpu(task):
    start = time.monotonic()
    time.sleep(0.2)
    return {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "from": start, "to": time.monotonic()}
