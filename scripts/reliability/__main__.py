"""The command line of the trials."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from erase.files import read_json

from . import __doc__ as about
from .commands import LONG, OTHERS, SHORT, WRITERS
from .processes import Site
from .table import KINDS, rewrite, table_of
from .trials import Trials

ROOT = Path(__file__).parents[2]
OUTPUT, DOCUMENT = ROOT / "docs" / "results" / "reliability.json", ROOT / "docs" / "reliability.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true", help="run nothing; write the record's table into the document")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "erase-reliability")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--short", type=int, default=40, help="short trials")
    parser.add_argument("--long", type=int, default=10, help="trials at the digits preset")
    parser.add_argument("--writers", default=",".join(WRITERS), help="of writes: the commands, separated by commas")
    asked = parser.parse_args()
    if asked.table:
        rewrite(DOCUMENT, read_json(asked.output))
        return
    kinds, trials = asked.only.split(","), Trials(asked.output.resolve(), asked.scratch.resolve())
    names = [*SHORT, *OTHERS]
    for number in range(asked.short if "short" in kinds else 0):
        name = names[number % len(names)]
        trials.killed(f"short/{number:02d}-{name}", name, 1 if number % 3 else 2 + number % 2)
    for number in range(8 if "signals" in kinds else 0):
        name = [*SHORT[::5], *OTHERS][number]
        trials.killed(f"signals/{number}-{name}", name, 1, number=(signal.SIGTERM, signal.SIGINT)[number % 2])
    known: dict[str, set[Site]] = {}  # by where they write: several commands write a run
    for name in asked.writers.split(",") if "writes" in kinds else ():
        trials.writes(name, known.setdefault(name if name in ("pretrain", "sample", "fid") else "run", set()))
    for name in ("sfron-dual", "sample", "force") if "two" in kinds else ():
        trials.two(f"two/{name}", name)
    if "watch" in kinds:
        trials.watched("watch/sa-dual", "sa-dual")
    for number in range(asked.long if "long" in kinds else 0):
        name = LONG[number % len(LONG)]
        trials.killed(f"long/{number:02d}-{name}", name, 1 if number % 3 else 2, long=True)
    failed = [key for key, row in trials.record["trials"].items() if not (row["identical"] and row["as told"])]
    print(table_of(trials.record))
    if asked.output == OUTPUT:
        rewrite(DOCUMENT, trials.record)
    sys.exit(f"not as promised: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
