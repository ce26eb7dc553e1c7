"""Two processes against one: how far apart 100 steps end, and what either costs.

    python scripts/benchmark_processes.py [--pairs sfron-dual,...] [--repeats 3] [--output FILE]

Each run is ``erase run`` on the digits pack, under torchrun or without, one thread a process. Of every method and
policy the weights after 100 steps are compared: two processes to one, relative to the norm of the update, and as a
control one process that takes each batch in two parts to one that takes it whole: the same sums in another order. The
keys' biases are left out and given beside: softmax does not feel them, so their gradient is rounding alone, which AdamW
scales to steps of full size; the norm of the update is that of all weights. Then the phases of one run are timed, wall
clock and CPU seconds of all processes; on a machine with no more cores than are busy already two processes cost more
than they save. Continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

from erase.ahead import cores
from erase.files import read_json, shipped, write_json
from erase.methods import METHODS, refusal
from erase.optim import POLICIES

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
PAIRS = [f"{m}-{p}" for m in METHODS for p in POLICIES if m != "retrain" and refusal(METHODS[m], p) is None]
HALF = 32  # of the presets' batches
STEPS = 100
ALWAYS = ("runtime.device=cpu", "runtime.threads=1")
SHORT = (
    "unlearn.finish=0", "unlearn.forget.batch_size=64", "unlearn.retain.batch_size=64",
    "sample.per_class=2", "sample.steps=1", "score.bootstrap=0",
)  # fmt: skip


def erase_run(output: Path, cache: Path, processes: int, *words: str) -> dict[str, float]:
    """Runs it; wall and CPU seconds, and those of its phases."""
    python = [sys.executable, "-m"]
    launcher = (
        ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"] if processes > 1 else []
    )
    command = [*python, *launcher, "erase", "run", "--forget", "3", "--output", str(output), *ALWAYS, *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ERASE_CACHE": str(cache), "TQDM_DISABLE": "1"}
    began, used = time.monotonic(), cpu_seconds()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    wall, cpu = time.monotonic() - began, cpu_seconds() - used
    return {"wall": wall, "cpu": cpu, **read_json(output / "results.json")["seconds"]}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def equality(pair: str, cache: Path) -> dict[str, float]:
    """Distances of ends of 100 steps, by the norm of the update."""
    method, policy = pair.split("-")
    alternating = "forget" in METHODS[method].objectives and METHODS[method].updates[0] == "alternating"
    words = (
        f"unlearn.rounds={STEPS // 2 if alternating else STEPS}",
        "--method",
        method,
        "--optimizer",
        policy,
        *SHORT,
    )
    size = 2 * HALF if METHODS[method].single_backward else HALF  # both batches go through at once
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        erase_run(place / "one", cache, 1, *words)
        erase_run(place / "two", cache, 2, *words)
        erase_run(place / "parts", cache, 1, *words, f"runtime.micro_batch={size}")
        before = load_file(shipped("assets") / "digits" / WEIGHTS)
        one, two, parts = (load_file(place / name / "model" / WEIGHTS) for name in ("one", "two", "parts"))
    moved = distance(one, before, list(one))
    biases = [name for name in one if name.endswith("to_k.bias")]
    others = [name for name in one if name not in biases]
    return {
        "two processes to one": distance(two, one, others) / moved,
        "one in two parts to one": distance(parts, one, others) / moved,
        "two processes to one in two parts": distance(two, parts, others) / moved,
        "two processes to one, biases of keys": distance(two, one, biases) / moved,
    }


def distance(first: dict, second: dict, names: list[str]) -> float:
    return sum((first[name].double() - second[name].double()).square().sum().item() for name in names) ** 0.5


def times(processes: int) -> dict[str, float]:
    """One whole run from an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        words = ("unlearn.rounds=50", "unlearn.finish=0", "sample.per_class=30")
        return erase_run(place / "run", place / "cache", processes, *words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="METHOD-POLICY,...; default: all; '' for none")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of either kind; default: 3")
    parser.add_argument("--output", type=Path, default=Path("docs/results/benchmark-processes.json"))
    asked = parser.parse_args()
    found = read_json(asked.output) if asked.output.exists() else {"apart": {}, "seconds": {"1": [], "2": []}}
    about = {"cores": cores(), "machine": platform.machine(), "threads a process": 1, "steps": STEPS}
    with tempfile.TemporaryDirectory() as cache:
        for pair in filter(None, asked.pairs.split(",")):
            if pair not in found["apart"]:
                found["apart"][pair] = equality(pair, Path(cache))
                write_json(asked.output, {**about, **found})
                print(pair, json.dumps(found["apart"][pair]), flush=True)
    for _ in range(asked.repeats):
        for processes in ("1", "2"):  # in turn, so that a busy neighbour meets both
            if len(found["seconds"][processes]) < asked.repeats:
                found["seconds"][processes].append(times(int(processes)))
                write_json(asked.output, {**about, **found})
    if all(found["seconds"].values()):
        medians = {
            n: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            for n, runs in found["seconds"].items()
        }
        found["two to one"] = {name: medians["2"][name] / medians["1"][name] for name in medians["1"]}
        write_json(asked.output, {**about, **found})
        for name, ratio in found["two to one"].items():
            print(f"{name:12} {medians['1'][name]:8.1f} s {medians['2'][name]:8.1f} s   x {ratio:.2f}")


if __name__ == "__main__":
    main()
