"""Hands `erase` generated bad input of every kind and counts what it does with it.

    python scripts/fuzz.py --each 38 --processes 4 --output docs/results/fuzz.json

Every case must end with exit code 2 (1 for the machine's faults) and one line, without a traceback, without a file
outside the output folder, without a results.json. Exit code 0 is right only for damage that leaves the input readable.
"""

import argparse
import collections
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"], os.environ["TQDM_DISABLE"] = "1", "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from erase.files import write_json  # noqa: E402
from tests.bad_input import KINDS  # noqa: E402
from tests.fuzzing import call, call_process, make_world, run_case  # noqa: E402

CODES = {0: "taken", 1: "refused_1", 2: "refused_2"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--each", type=int, default=38, help="cases of each kind, in this process")
    parser.add_argument("--processes", type=int, default=0, help="further cases of all kinds, each in one of its own")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only these kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    kinds, faults, begin = asked.kind or list(KINDS), [], time.monotonic()
    counts = {kind: collections.Counter() for kind in kinds}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["ERASE_CACHE"] = str(Path(scratch) / "cache")
        world = make_world(Path(scratch) / "world")
        for kind in kinds:
            go(kind, asked.each, asked.seed, world, call, counts[kind], faults)
            print(f"{kind}: {dict(counts[kind])}", flush=True)
        alone = collections.Counter()
        for index, kind in enumerate(kinds):
            share = asked.processes // len(kinds) + (index < asked.processes % len(kinds))
            go(kind, share, asked.seed + 1, world, call_process, alone, faults)
    content = {
        "command": "python scripts/fuzz.py " + " ".join(sys.argv[1:]),
        "cases": sum(counter[code] for counter in (*counts.values(), alone) for code in (*CODES.values(), "faults")),
        "faults": len(faults),
        "kinds": {kind: dict(sorted(counter.items())) for kind, counter in counts.items()},
        "in_processes_of_their_own": dict(sorted(alone.items())),
        "seed": asked.seed,
        "python": platform.python_version(),
    }
    print(f"{content['cases']} cases, {len(faults)} faults, {time.monotonic() - begin:.0f} s")
    for fault in faults:
        print(f"\n{fault}")
    if asked.output:
        write_json(asked.output, content)
    sys.exit(1 if faults else 0)


def go(kind, cases, seed_, world, caller, counter, faults):
    """``cases`` different inputs of one kind."""
    if not cases:
        return

    @seed(seed_)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=KINDS[kind]())
    def each(case):
        try:
            code = run_case(case, world, caller)
        except AssertionError as error:
            faults.append(f"{kind}: {error}")
            counter["faults"] += 1
            return
        counter[CODES[code]] += 1
        counter["certainly bad" if case.sure else "perhaps still good"] += 1

    each()


if __name__ == "__main__":
    main()
