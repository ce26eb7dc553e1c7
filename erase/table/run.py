"""The main flow of ``erase table``: plan, check the golden numbers, run what is missing, render."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..ahead import cores
from ..config import merge
from ..errors import UserError
from .cells import Entry, Standing, Store, held, standings
from .config import dotted, find_table, load_table
from .golden import check_golden
from .plan import Plan, make_plan
from .pool import Runner, gpus, processes
from .render import render
from .work import CellTask, do_cell


def run_table(
    config: str,
    output: str,
    jobs: int | None = None,
    keep: str = "results",
    only_render: bool = False,
    retry: bool = False,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Runs what a table lacks and renders it; what its JSON file holds.

    Stopped at any point it renders what is there, and the next start continues. A cell that failed is run again; one
    that failed by a number that is not finite only if ``retry``. Raises UserError for a table that cannot be run,
    before any cell is, and where ``only_render`` finds no cells.
    """
    path, folder = find_table(config), Path(output)
    plan = make_plan(load_table(path))
    if only_render:
        if not (folder / "cells.jsonl").is_file():
            raise UserError(f"{folder} holds no cells.jsonl of a table, so there is nothing to render")
        return render(plan, standings(Store(folder), plan), folder, path)
    run, many = runner or processes, jobs or len(gpus()) or cores()
    with held(folder):
        store = Store(folder)
        store.cache()  # refused here rather than in every cell
        try:
            check_golden(store, plan, run, many, _say)
            _run_cells(store, plan, run, many, keep, retry)
        finally:
            content = render(plan, standings(store, plan), folder, path)
    return content


def _run_cells(store: Store, plan: Plan, runner: Runner, jobs: int, keep: str, retry: bool) -> None:
    every = {cell.cell.key: cell for cell in standings(store, plan)}  # two rows may ask for one cell
    due = {key: cell for key, cell in every.items() if cell.state != "done" and (retry or not cell.diverged)}
    _tell_of_less(store, every, keep)
    threads = max(1, cores() // min(jobs, len(every)))  # not of those due: it is the same wherever a table is stopped
    jobs = max(1, min(jobs, len(due)))
    tasks = [_task(store, cell, threads, keep) for cell in due.values()]
    with contextlib.ExitStack() as bars:
        done = len(every) - len(due)
        bar = bars.enter_context(tqdm(total=len(every), initial=done, desc="cells", unit="cell", smoothing=0.1))
        results = bars.enter_context(contextlib.closing(runner(do_cell, tasks, jobs, threads)))
        for task, result in results:
            entry = _entry(due[task.key], task.golden, result)
            store.add(entry)
            _say(_told(task.name, entry))
            bar.update()


def _tell_of_less(store: Store, every: Mapping[str, Standing], keep: str) -> None:
    """Says so where finished cells were run with less kept than is asked for now."""
    wanted = {"results": (), "samples": ("samples",), "all": ("samples", "model")}[keep]
    done = [store.work / key for key, cell in every.items() if cell.state == "done"]
    lack = sum(not all((folder / name).is_dir() for name in wanted) for folder in done)
    if lack:
        _say(
            f"{lack} finished cells kept less than --keep {keep} asks for; to have the rest, run into another --output"
        )


def _task(store: Store, cell: Standing, threads: int, keep: str) -> CellTask:
    folder = store.work / cell.cell.key
    golden = store.golden.get(cell.line.golden, {}).get("hash", "")
    request = cell.line.request(cell.cell.forget, cell.cell.seed, str(folder))
    settings = merge({"runtime": {"threads": threads}}, cell.line.settings)
    return CellTask(cell.name, cell.cell.key, golden, request, settings, folder, keep, store.cache())


def _entry(cell: Standing, golden: str, result: Mapping[str, Any]) -> Entry:
    line = cell.line
    about: Entry = {
        "key": cell.cell.key,
        "golden": golden,
        "row": line.row,
        "method": line.method,
        "optimizer": line.policy,
    }
    about |= {"trial": dotted(line.trial), "forget": list(cell.cell.forget), "seed": cell.cell.seed}
    measured = dict.fromkeys(("original", "erased", "seconds", "peak_memory", "error", "versions"))
    return {**about, **measured, **result}


def _told(name: str, entry: Entry) -> str:
    if entry["error"] is not None:
        return f"{name}: failed, {entry['error']}"
    before, after = entry["original"], entry["erased"]
    texts = [
        f"{title} {_value(before[key], factor)} -> {_value(after[key], factor)}{unit}"
        for title, key, factor, unit in (("FA", "fa", 100, " %"), ("RA", "ra", 100, " %"), ("FID", "fid", 1, ""))
    ]
    notes = "".join(f"; {note}" for note in entry.get("warnings", []))
    return f"{name}: {', '.join(texts)}, {entry['seconds'].get('total', 0):.0f} s{notes}"


def _value(value: float | None, factor: int) -> str:
    return "-" if value is None else f"{factor * value:.{1 if factor == 100 else 2}f}"


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
