"""What a table is: the YAML file as typed sections.

A table of kind ``compare`` shows its rows side by side; ``search`` tries settings in each row and chooses the best;
``sensitivity`` draws FA and FID against one setting. For example::

    title: Forget rates
    kind: search
    classes: [5, [3, 8]]      # each item is one run's: a class, or classes forgotten together
    seeds: [0, 1]
    set: {sample.per_class: 30}
    rows:
      - {method: sfron, policies: [shared, dual]}
      - {name: "SFRon, gamma 1", method: sfron, optimizer: dual, set: {method.gamma: 1.0}}
    trials: [{unlearn.forget.lr: 1e-4}, {unlearn.forget.lr: 1e-3}]
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Section, build, merge, setting
from ..errors import UserError, nearest
from ..files import shipped
from ..presets import load_yaml

KINDS = ("compare", "search", "sensitivity")


@dataclass(frozen=True)
class RowConfig:
    method: str = setting("", "method, with the preset <model family>/<method>-<policy>")
    optimizer: str | None = setting(None, "the optimizer policy; one that the method cannot run under is an error")
    policies: tuple[str, ...] = setting((), "several policies, a row each; those that cannot run are left out")
    name: str | None = setting(None, "name in the table; default: the method")
    set: Section = setting(dict, "settings laid over the preset and the table's own, nested or dotted")
    classes: tuple[Any, ...] | None = setting(None, "in place of the table's")
    seeds: tuple[int, ...] | None = setting(None, "in place of the table's", low=0, high=2**63 - 1)
    trials: tuple[Section, ...] | None = setting(None, "in place of the table's")


@dataclass(frozen=True)
class TableConfig:
    title: str = setting("", "heading")
    kind: str = setting("compare", "how the cells are shown", choices=KINDS)
    model: str = setting("digits", "shipped pack, pack folder or diffusers folder")
    classes: tuple[Any, ...] = setting((), "each a class, or a list of classes forgotten together in one run")
    seeds: tuple[int, ...] = setting((0,), "seeds of unlearning", low=0, high=2**63 - 1)
    set: Section = setting(dict, "settings laid over every row, nested or dotted")
    rows: tuple[RowConfig, ...] = setting((), "what is compared")
    trials: tuple[Section, ...] = setting((), "settings tried in each row, one set after the other")
    sweep: Section = setting(dict, "kind sensitivity: one setting and its values")
    notes: tuple[str, ...] = setting((), "what a reader should know, shown under the table")


def load_table(path: Path) -> TableConfig:
    """The table of a YAML file. Raises UserError naming every wrong field."""
    config: TableConfig = build(TableConfig, load_yaml(path))
    return config


def find_table(name: str) -> Path:
    """A YAML file, or a shipped table by its name. Raises UserError for neither."""
    path, tables = Path(name), shipped("configs") / "tables"
    if not path.is_file():
        known = [inside.stem for inside in tables.glob("*.yaml")]
        if name not in known:
            raise UserError(f"no file {name} and no shipped table of that name{nearest(name, known)}")
        path = tables / f"{name}.yaml"
    if path.stem in ("cells", "golden") or path.stem.endswith("-cells"):
        raise UserError(f"{path.stem} is a name that the table's own files have; rename {path}")
    return path


def named(path: Path) -> str:
    """What a table is called on the command line: a shipped one by its name."""
    inside = path.resolve().parent == (shipped("configs") / "tables").resolve()
    return path.stem if inside else str(path)


def nested(values: Section) -> dict[str, Any]:
    """Dotted keys written out: ``{"a.b": 1, "a": {"c": 2}}`` is ``{"a": {"b": 1, "c": 2}}``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        below: Any = nested(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            below = {part: below}
        result = merge(result, below)
    return result


def dotted(values: Section, path: str = "") -> dict[str, Any]:
    """The reverse of :func:`nested`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{path}.{key}" if path else str(key)
        result |= dotted(value, name) if isinstance(value, Mapping) else {name: number(value)}
    return result


def shown(values: Section) -> str:
    """Settings as one short text."""
    texts = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in dotted(values).items()}
    return ", ".join(f"{key}={text}" for key, text in texts.items())


def number(value: Any) -> Any:
    """``1e-4``, which YAML 1.1 takes for a word, as the number it is; all else as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value
