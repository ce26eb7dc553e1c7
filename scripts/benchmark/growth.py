"""Seconds and memory against size: a fresh process for each point. ``python -m scripts.benchmark.growth POINT``."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erase.config import DitRecipe, SampleConfig
from erase.data.latents import LatentSet
from erase.data.moments import SHARD, CachedMoments
from erase.data.split import Split
from erase.diffusion import Schedule
from erase.files import read_json, read_tensors, write_json, write_tensors
from erase.model import Model, new_transformer
from erase.sampling import sample_folder
from erase.task import DiffusionTask

from .bench import Bench
from .timing import synchronise, timed

NOTES = {
    "point": "a round of sfron under dual (a forget and a retain step) or an image drawn, in a process of its own",
    "memory": "the process's largest resident memory: once the package is imported, and at the end; of a GPU the "
    "largest that tensors held. Latents are read from mapped files, whose pages count as resident until memory is "
    "wanted for something else; anonymous memory at the end leaves them out",
    "growth": "against the first row of its axis",
}
AXES: dict[str, dict[str, tuple[int, ...]]] = {
    "digits": {
        "retain_images": (1024, 8192, 65536), "forgotten_classes": (1, 2, 5), "parameters": (1, 4, 16),
        "sampled_images": (128, 512, 2048),
    },
    "tiny": {"retain_images": (64, 128), "forgotten_classes": (1,), "parameters": (1,), "sampled_images": (4,)},
    "xl": {
        "retain_images": (1024, 16384, 131072), "forgotten_classes": (1, 10, 100), "parameters": (1, 4, 16),
        "sampled_images": (64, 256),
    },
}  # fmt: skip
WIDTHS = {"digits": 128, "tiny": 32, "xl": 288}  # of 1 times the parameters; 4 times is twice as wide


def shards(folder: Path, images: int, shape: tuple[int, ...]) -> None:
    """Random latents in the cache's own form."""
    generator = torch.Generator().manual_seed(3)
    for number in range(-(-images // SHARD)):
        mean = torch.randn(SHARD, *shape, generator=generator)
        tensors = {"mean": mean, "std": torch.full_like(mean, 0.1), "good": torch.ones(SHARD, dtype=torch.bool)}
        write_tensors(folder / f"{number:06d}.safetensors", tensors)


def cached(folder: Path, images: int, forget: list[int], model: Model) -> Split:
    """The first of these latents; the classes take turns."""
    stored = [read_tensors(folder / f"{number:06d}.safetensors") for number in range(-(-images // SHARD))]
    positions = np.arange(images)
    moments = CachedMoments(stored, np.stack([positions // SHARD, positions % SHARD], axis=1), 0.18215)
    whole = LatentSet(moments, positions, positions % len(model.classes))
    gone = np.isin(whole.labels, forget)
    return Split({"forget": whole.part(gone), "retain": whole.part(~gone)}, model.null_label)


def widened(bench: Bench, times: int) -> Model:
    """The model with about so many times the weights, or the size's own."""
    if times == 0:
        return bench.model
    width, channels = WIDTHS[bench.kind] * round(times**0.5), bench.model.latent_shape[0]
    layers = bench.model.transformer.config.num_layers
    recipe = DitRecipe(layers=layers, width=width, heads=width // 32, label_slots=16)
    with torch.device(bench.device):
        transformer = new_transformer(recipe, channels, bench.model.latent_shape[1], seed=0)
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.02)
    return dataclasses.replace(bench.model, transformer=transformer)


def unlearning(bench: Bench, folder: Path, images: int, forget: list[int], times: int) -> dict[str, Any]:
    bench.model = widened(bench, times)
    before = resident()
    bench.split = cached(folder, images, forget, bench.model)
    rounds, several, warm = 2, 3, 1
    config = bench.config("sfron", "dual", rounds=warm + several * rounds, finish=0)
    with bench.task() as task:
        task = DiffusionTask(task.module, Schedule(), bench.model.classes, forget, bench.model.null_label)
        rows = bench.trainer(config, task).walk()

        def work(count: int) -> None:
            for _ in range(2 * count):
                next(rows)

        work(warm)
        taken = [timed(lambda: work(rounds)) for _ in range(several)]
        rows.close()
    weights = sum(p.numel() for p in bench.model.transformer.parameters())
    return {"weights": weights, **_figures(taken, rounds, before)}


def sampling(bench: Bench, images: int) -> dict[str, Any]:
    model = bench.model
    before = resident()
    each = max(2, images // len(model.classes))
    config = SampleConfig(per_class=each, block=64)
    taken = [timed(lambda: sample_folder(model, bench.work / "images", config, model.classes, "sample"))]
    return _figures(taken, each * len(model.classes), before)


def _figures(taken: list[tuple[float, float]], per: int, before: int) -> dict[str, Any]:
    wall, cpu = (statistics.median(values) / per for values in zip(*taken, strict=True))
    synchronise()
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    memory = {"start_bytes": before, "peak_bytes": resident(), "end_anonymous_bytes": anonymous()}
    return {"seconds": wall, "cpu_seconds": cpu, **memory, "gpu_peak_bytes": gpu}


def anonymous() -> int | None:
    """Memory of this process that no file backs, where Linux says it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def resident() -> int:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def point(given: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process."""
    axis, value, latents = given["axis"], given["value"], Path(given["latents"])
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(given["kind"], given["device"], Path(work))
        if bench.device.type == "cpu":
            torch.set_num_threads(1)
        if axis == "sampled_images":
            return sampling(bench, value)
        images = value if axis == "retain_images" else AXES[bench.kind]["retain_images"][0]
        forget = list(range(value)) if axis == "forgotten_classes" else [0]
        return unlearning(bench, latents, images, forget, value if axis == "parameters" else 0)


def fresh(given: dict[str, Any]) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "scripts.benchmark.growth", json.dumps(given)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(bench: Bench) -> list[dict[str, Any]]:
    axes, latents = AXES[bench.kind], bench.work / "latents"
    shards(latents, axes["retain_images"][-1], bench.model.latent_shape)
    measure, repeats = (point, 1) if bench.kind == "tiny" else (fresh, min(3, bench.size.repeats))
    held = read_json(bench.part) if bench.part is not None and bench.part.is_file() else {}
    points = [(axis, value) for axis, values in axes.items() for value in values]
    for number in range(repeats):  # all points in turn, then again
        for axis, value in points:
            found = held.setdefault(f"{axis} {value}", [])
            if len(found) > number:  # measured before a stop
                continue
            given = {"axis": axis, "value": value, "kind": bench.kind, "device": str(bench.device)}
            found.append(measure({**given, "latents": str(latents)}))
            if bench.part is not None:
                write_json(bench.part, held)
    rows: list[dict[str, Any]] = []
    for axis, value in points:
        found = held[f"{axis} {value}"]
        row = {"axis": axis, "value": value, "repeats": len(found)}
        row |= {key: _median([one[key] for one in found]) for key in found[0]}
        first = next((other for other in rows if other["axis"] == axis), row)
        names = ("weights", "seconds", "cpu_seconds", "peak_bytes", "end_anonymous_bytes")
        row["growth"] = {name: row[name] / first[name] for name in names if row.get(name)}
        rows.append(row)
    return rows


def _median(values: Iterator[Any] | list[Any]) -> Any:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


if __name__ == "__main__":
    print(json.dumps(point(json.loads(sys.argv[1]))))
