"""Whether the present code still gives the numbers under which cells were made: a short run of each line."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..files import digest
from ..model import find_source
from ..results import versions
from .cells import FAILED, Store, compact
from .plan import Line, Plan
from .pool import Runner
from .work import GoldenBatch, GoldenTask, do_golden

TOLERANCE = 1e-3  # another processor's instructions move these numbers by up to 2e-5, a changed formula by more
BATCH = 8
SCRATCH = ".golden-"


def check_golden(store: Store, plan: Plan, runner: Runner, jobs: int, say: Callable[[str], None]) -> None:
    """Repeats the golden runs that were made by other code; where a number differs, its cells become stale."""
    made_by = code_digest(plan.config.model)
    for left in store.work.glob(f"{SCRATCH}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    wanted = {line.golden: line for line in plan.lines if store.golden.get(line.golden, {}).get("digest") != made_by}
    if not wanted:
        return
    say("does the code still give the numbers of the cells? a short run of each row and trial")
    with contextlib.ExitStack() as stack:
        # beside the cells, where there is room for a run
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=SCRATCH, dir=store.work)))
        tasks = [_task(line, scratch) for line in wanted.values()]
        size = min(BATCH, math.ceil(len(tasks) / jobs))
        batches = [GoldenBatch(tuple(tasks[i : i + size]), scratch / "cache") for i in range(0, len(tasks), size)]
        bar = stack.enter_context(tqdm(total=len(tasks), desc="golden runs", unit="run"))
        for batch, found in stack.enter_context(contextlib.closing(runner(do_golden, batches, jobs, 1))):
            for task in batch.tasks:
                _judge(store, plan, task, found.get(task.key, found), made_by, say)
                bar.update()
            store.save_golden()


def _judge(
    store: Store, plan: Plan, task: GoldenTask, result: Mapping[str, Any], made_by: str, say: Callable[[str], None]
) -> None:
    before = store.golden.get(task.key, {})
    if "numbers" not in result:  # tells nothing about the code: it may be the disk, or a rate too high
        say(f"{task.name}: the golden run failed, {result['error']}")
        store.golden.setdefault(task.key, {"digest": "", "hash": FAILED, "numbers": {}})
        return
    numbers = compact(result["numbers"])
    known = before.get("numbers")  # none where it has only failed so far
    change = difference(known, numbers) if known else None
    if known and change is None:
        store.golden[task.key] = {**before, "digest": made_by}  # the first numbers stay, so that no drift adds up
        return
    store.golden[task.key] = {"digest": made_by, "hash": digest(numbers), "numbers": numbers}
    if change:
        store.golden["cache"] = {"digest": made_by}
    lines = [line for line in plan.lines if line.golden == task.key]
    stale = {cell.key for line in lines for cell in line.cells if store.state(line, cell)[0] == "stale"}
    if stale:
        missing = "its golden run had failed" if before.get("hash") == FAILED else "its golden run is not kept"
        why = f"the code gives other numbers now ({change})" if change else missing
        say(f"{task.name}: {why}; {len(stale)} cells are stale and run again")


def _task(line: Line, scratch: Path) -> GoldenTask:
    folder = scratch / line.golden
    request = line.request([line.golden_forget], 0, str(folder))
    return GoldenTask(line.name, line.golden, request, line.golden_settings, folder)


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first number that is not the same within the tolerance, in words."""
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, float) and isinstance(new, float):
            same = math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=1e-6)
        else:
            same = old == new
        if not same:
            return f"{name} was {old} and is {new}"
    return None


def code_digest(source: str) -> str:
    """Changes with the package's source (but the tables' and reports', which make no numbers), libraries and model."""
    package = Path(__file__).resolve().parent.parent
    code = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    code = {
        name: path
        for name, path in code.items()
        if not name.startswith(("table/", "report/")) and name not in ("cli.py", "commands.py")
    }
    root = find_source(source)
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    model = {path.relative_to(root).as_posix(): path for path in files}
    libraries = {name: version for name, version in versions().items() if name != "erase"}
    parts = [part for files in (code, model) for name in sorted(files) for part in (name, files[name])]
    return digest(libraries, *parts)
