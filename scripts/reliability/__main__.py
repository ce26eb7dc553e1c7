"""The command line of the trials."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from . import __doc__ as about
from .commands import LONG, OTHERS, SHORT
from .trials import KINDS, Trials, table_of


def main() -> None:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/results/reliability.json"))
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "erase-reliability")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--short", type=int, default=40, help="short trials")
    parser.add_argument("--long", type=int, default=10, help="trials at the digits preset")
    asked = parser.parse_args()
    kinds, trials = asked.only.split(","), Trials(asked.output.resolve(), asked.scratch.resolve())
    names = [*SHORT, *OTHERS]
    for number in range(asked.short if "short" in kinds else 0):
        name = names[number % len(names)]
        trials.killed(f"short/{number:02d}-{name}", name, 1 if number % 3 else 2 + number % 2)
    for number in range(8 if "signals" in kinds else 0):
        name = [*SHORT[::5], *OTHERS][number]
        trials.killed(f"signals/{number}-{name}", name, 1, number=(signal.SIGTERM, signal.SIGINT)[number % 2])
    if "writes" in kinds:
        for name in ("sfron-dual", "retrain-shared", "pretrain"):
            trials.writes(name)
    if "two" in kinds:
        trials.two("two/sfron-dual", "sfron-dual")
    if "watch" in kinds:
        trials.watched("watch/sa-dual", "sa-dual")
    for number in range(asked.long if "long" in kinds else 0):
        name = LONG[number % len(LONG)]
        trials.killed(f"long/{number:02d}-{name}", name, 1 if number % 3 else 2, long=True)
    failed = [key for key, row in trials.record["trials"].items() if not (row["identical"] and row["as told"])]
    print(table_of(trials.record))
    sys.exit(f"not as promised: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
