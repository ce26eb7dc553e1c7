"""What is done in a worker: one cell, or one golden run, and what is kept of it."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import RunConfig, Section
from ..data.images import read_image
from ..files import write_text
from ..model import load_model
from ..unlearning import run_in_folder
from .cells import SCORES
from .pool import attempt, environment

KEPT = {"results": ("results.json", "config.yaml", "grid.png"), "samples": ("samples",)}


@dataclass(frozen=True)
class CellTask:
    """``golden``: the hash of the numbers that the code gives now; what other code left in the folder is removed."""

    name: str
    key: str
    golden: str
    request: RunConfig
    settings: Section
    folder: Path
    keep: str
    cache: Path

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")


@dataclass(frozen=True)
class GoldenTask:
    name: str
    key: str
    request: RunConfig
    settings: Section
    folder: Path


@dataclass(frozen=True)
class GoldenBatch:
    """Golden runs of one process, for most of their time is the start of it."""

    tasks: tuple[GoldenTask, ...]
    cache: Path

    @property
    def log(self) -> Path:
        return self.tasks[0].folder.with_suffix(".log")


def do_cell(task: CellTask) -> dict[str, Any]:
    """Runs the cell in its folder, from where it was stopped; its scores, times and peak memory."""
    mark = task.folder.with_suffix(".golden")
    if task.folder.exists() and not (mark.is_file() and mark.read_text(encoding="utf-8") == task.golden):
        shutil.rmtree(task.folder)
    write_text(mark, task.golden)
    again = (task.folder / "results.json").is_file()
    continued = not again and ((task.folder / "state").exists() or (task.folder / "samples").exists())
    reset_peak()
    with environment(ERASE_CACHE=str(task.cache)):
        results, _ = run_in_folder(task.request, task.settings)
    peak = None if again else peak_memory(results["device"] != "cpu")
    prune(task.folder, task.keep)
    sides = {side: {name: results["models"][side][name] for name in SCORES} for side in ("original", "erased")}
    about = {"seconds": results["seconds"], "peak_memory": peak, "error": None, "versions": results["versions"]}
    about |= {"continued": True} if continued else {}
    return {**sides, **about, **({"warnings": results["warnings"]} if results.get("warnings") else {})}


def do_golden(batch: GoldenBatch) -> dict[str, Any]:
    """By task's key its numbers or its error. The cache is their own: what older code has cached must not stand in."""
    with environment(ERASE_CACHE=str(batch.cache)):
        return {task.key: attempt(_golden, task) for task in batch.tasks}


def _golden(task: GoldenTask) -> dict[str, Any]:
    results, folder = run_in_folder(task.request, task.settings)
    numbers = golden_numbers(results, folder, str(task.request.model))
    shutil.rmtree(folder)
    return {"numbers": numbers}


def golden_numbers(results: Section, folder: Path, source: str) -> dict[str, float | None]:
    """Losses, how far the weights moved, mean pixels and scores, by name."""
    numbers: dict[str, Any] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step", "round", "objective"}:
            numbers[f"{row['step']}.{name}"] = row[name]
    before, after = (dict(load_model(at).transformer.named_parameters()) for at in (source, str(folder / "model")))
    moved = sum(torch.sum((after[name] - before[name]).detach().double() ** 2).item() for name in before)
    numbers["moved"] = math.sqrt(moved)
    for side in ("original", "erased"):
        for label in sorted((folder / "samples" / side).iterdir()):
            pixels = [read_image(path).double().mean().item() for path in sorted(label.glob("*.png"))]
            numbers[f"{side}.pixel.{label.name}"] = float(np.mean(pixels))
        numbers |= {f"{side}.{name}": results["models"][side][name] for name in SCORES}
    return {name: None if numbers[name] is None else float(numbers[name]) for name in sorted(numbers)}


def prune(folder: Path, keep: str) -> None:
    """Removes all of a run folder but what is to be kept."""
    kept = {*KEPT["results"], *KEPT.get(keep, ())}
    for path in folder.iterdir() if keep != "all" else ():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux: 5 resets the high-water mark of resident memory
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(gpu: bool) -> int | None:
    """Bytes: of the GPU's allocator, else of this process since :func:`reset_peak`."""
    if gpu:
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
