"""From a table's config to its lines (a row under one trial) and their cells (one run each), all resolved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import ResolvedConfig, RunConfig, Section, merge
from ..data.classes import folder_ids
from ..data.listing import class_folders
from ..errors import UserError
from ..files import digest
from ..labels import find_forget
from ..methods import find_method, refusal
from ..model import find_source, read_labels
from ..presets import config_hash, resolve, with_classes
from .config import RowConfig, TableConfig, dotted, nested, number, shown

OWN = {"method", "method.name", "optimizer", "optimizer.policy", "model", "model.source", "forget", "seed"}
GOLDEN = {  # as short as a run can be and still pass through every part
    "unlearn.rounds": 2,
    "unlearn.finish": 1,
    "unlearn.forget.batch_size": 8,
    "unlearn.retain.batch_size": 8,
    "sample.per_class": 2,
    "sample.steps": 2,
    "score.bootstrap": 0,
    "runtime.precision": "fp32",
    "runtime.threads": 1,
}
GOLDEN_FOLDER = {  # what grows with a folder of images rather than with the run
    "data.retain_images": 32,
    "sample.retain_total": 16,
    "score.gate_images": 64,
    "score.reference_images": 64,
}


@dataclass(frozen=True)
class Cell:
    """One run. ``key`` changes with anything that may change its result."""

    key: str
    forget: tuple[int, ...]
    seed: int

    @property
    def classes(self) -> str:
        return "+".join(str(label) for label in self.forget)


@dataclass(frozen=True)
class Line:
    """A row under one trial. ``golden`` names the short run that tells whether the code still gives its numbers.

    ``golden_forget`` is the class that it forgets. ``forget_lr`` is the forget objective's learning rate as resolved,
    None for a method without one.
    """

    row: str
    method: str
    policy: str
    trial: Section
    settings: dict[str, Any]
    model: str
    cells: tuple[Cell, ...]
    golden: str
    golden_settings: dict[str, Any]
    golden_forget: int
    forget_lr: float | None = None

    @property
    def name(self) -> str:
        return f"{self.row} {self.policy}" + (f" ({shown(self.trial)})" if self.trial else "")

    @property
    def called(self) -> str:
        """The name without the policy, which has a column of its own."""
        return self.row + (f" ({shown(self.trial)})" if self.trial else "")

    def request(self, forget: Sequence[int], seed: int, output: str) -> RunConfig:
        return RunConfig([*forget], self.model, method=self.method, optimizer=self.policy, seed=seed, output=output)


@dataclass
class Plan:
    config: TableConfig
    labels: dict[int, str]
    lines: list[Line] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    golden_class: dict[str | None, int] = field(default_factory=dict)  # by the source of the images


def make_plan(config: TableConfig) -> Plan:
    """Every line and cell. Raises UserError naming every row that cannot be run, and why."""
    plan = Plan(config, read_labels(find_source(config.model)))
    trials = _trials(config, plan.faults)
    if not config.rows:
        plan.faults.append("rows must name at least one row")
    for index, row in enumerate(config.rows):
        _add_row(plan, row, trials, f"rows[{index}]")
    names = [line.name for line in plan.lines]
    plan.faults += [
        f"two rows are called {name!r}; give a name" for name in sorted(set(names)) if names.count(name) > 1
    ]
    if plan.faults:
        raise UserError("table: " + "; ".join(plan.faults))
    if not plan.lines:
        raise UserError("table: no row can run: " + "; ".join(plan.left_out.values()))
    return plan


def _trials(config: TableConfig, faults: list[str]) -> tuple[Section, ...]:
    if config.kind != "sensitivity":
        if config.sweep:
            faults.append("sweep is for kind sensitivity; write trials")
        return config.trials or ({},)
    if config.trials or any(row.trials for row in config.rows):
        faults.append("kind sensitivity has a sweep and no trials")
    sweep = dotted(config.sweep)
    key, values = next(iter(sweep.items()), ("", ()))
    numbers = [number(value) for value in values] if isinstance(values, Sequence) else []
    good = [float(value) for value in numbers if type(value) in (int, float) and 0 < value < math.inf]
    if len(sweep) != 1 or len(set(good)) < 2 or len(good) != len(numbers):
        faults.append("sweep must give one setting and at least two numbers above 0")
        return ()
    return tuple({key: number} for number in sorted(set(good)))


def _add_row(plan: Plan, row: RowConfig, trials: Sequence[Section], where: str) -> None:
    try:
        method = find_method(row.method)
        if (row.optimizer is None) == (not row.policies):
            raise UserError("give optimizer or policies")
        groups = _groups(row.classes or plan.config.classes, plan.labels)
        seeds = row.seeds or plan.config.seeds
        if not groups or not seeds:
            raise UserError("has no classes or no seeds")
        for policy in dict.fromkeys(row.policies or [str(row.optimizer)]):
            why = refusal(method, policy)
            if why and row.policies:
                plan.left_out[f"{row.name or row.method} {policy}"] = why
                continue
            for trial in row.trials or trials:
                plan.lines.append(_line(plan, row, policy, trial, groups, list(dict.fromkeys(seeds))))
    except UserError as error:
        plan.faults.append(f"{where} ({row.name or row.method or 'no method'}): {error}")


def _groups(classes: Sequence[Any], labels: dict[int, str]) -> list[list[int]]:
    groups = [find_forget(item if isinstance(item, list) else [item], labels) for item in classes]
    twice = [group for group in groups if groups.count(group) > 1]
    if twice:
        raise UserError(f"classes name {twice[0]} twice")
    return groups


def _line(plan: Plan, row: RowConfig, policy: str, trial: Section, groups: list[list[int]], seeds: list[int]) -> Line:
    settings: dict[str, Any] = {}
    for layer in (plan.config.set, row.set, trial):
        own = OWN & dotted(layer).keys()
        if own:
            raise UserError(f"{sorted(own)[0]} is not set under set, trials or sweep but by the table's own fields")
        settings = merge(settings, nested(layer))
    line = Line(row.name or row.method, row.method, policy, trial, settings, plan.config.model, (), "", {}, 0)
    config = resolve(line.request(groups[0], 0, ""), settings)
    cells = tuple(
        Cell(key_of(dataclasses.replace(config, seed=seed), group), tuple(group), seed)
        for group in groups
        for seed in seeds
    )
    first = [_golden_class(plan, config.data.source)]
    short = _shortened(line, GOLDEN_FOLDER if _is_folder(config.data.source) else {})
    golden = key_of(resolve(line.request(first, 0, ""), short), first)
    rate = config.unlearn.forget.lr if "forget" in find_method(row.method).objectives else None
    return dataclasses.replace(
        line, cells=cells, golden=golden, golden_settings=short, golden_forget=first[0], forget_lr=rate
    )


def _is_folder(source: str | None) -> bool:
    return source not in (None, "digits")


def _golden_class(plan: Plan, source: str | None) -> int:
    """The first class that there are images of: the same for every row and table, which may share cells."""
    if source not in plan.golden_class:
        present = _present(Path(str(source)), plan.labels) if _is_folder(source) else []
        plan.golden_class[source] = min(present, default=min(plan.labels))
    return plan.golden_class[source]


def _present(folder: Path, labels: dict[int, str]) -> list[int]:
    if not folder.is_dir():
        return []
    ids = folder_ids(folder, labels, len(labels))
    return [ids[path.name] for path in class_folders(folder) if ids.get(path.name) in labels]


def _shortened(line: Line, more: Section) -> dict[str, Any]:
    """The line's settings for a golden run; a method shortens its own options by its attribute ``quick``."""
    quick = getattr(find_method(line.method), "quick", {})
    return merge(line.settings, merge(nested({**GOLDEN, **more}), {"method": quick}))


def key_of(config: ResolvedConfig, forget: Sequence[int]) -> str:
    """The run's hash, and the precision where one is asked for: of ``runtime`` it alone may change a result."""
    whole = config_hash(with_classes(config, forget))
    return whole if config.runtime.precision == "auto" else digest(whole, config.runtime.precision)
