"""A run's folder, finished or not, as a page wants to read it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from ..presets import load_yaml
from .kept import read_scores

SIDES = ("original", "erased")


@dataclass(frozen=True)
class Steps:
    """metrics.jsonl: a row a step, numbers that are finite alone; ``strange`` counts those that are not."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    strange: int = 0


@dataclass(frozen=True)
class RunFolder:
    """``results`` is None for a run that is not finished; ``scores`` is what ``erase score`` has kept."""

    path: Path
    config: dict[str, Any]
    results: dict[str, Any] | None
    labels: dict[int, str]
    steps: Steps
    scores: list[dict[str, Any]]

    @property
    def forget(self) -> list[int]:
        if self.results is not None:
            return [int(entry["index"]) for entry in self.results["forget"]]
        return [int(word) for word in self.config["forget"] if str(word).isdecimal()]

    def name(self, label: int) -> str:
        """The first of the class's names, with its index where the name does not say it."""
        name = self.labels.get(label, str(label)).split(",")[0]
        return name if name == str(label) else f"{name} ({label})"

    @property
    def names(self) -> str:
        return ", ".join(self.name(label) for label in self.forget) or ", ".join(map(str, self.config["forget"]))

    @property
    def width(self) -> int | None:
        """Features of the run's Frechet distance, where its extractor tells."""
        assert self.results is not None
        if str(self.results["protocol"].get("extractor")).startswith("inception"):
            return 2048
        about = self.path / "model" / "classifier" / "config.json"
        features = (read_json(about).get("settings") or {}).get("features") if about.is_file() else None
        return features if isinstance(features, int) else None

    def folders(self, kind: str) -> list[Path]:
        """Class folders of ``samples/original``, steps of ``snapshots``, ...: what is named by a number, in order."""
        found = [path for path in (self.path / kind).glob("*") if path.is_dir() and path.name.isdecimal()]
        return sorted(found, key=lambda path: int(path.name))

    def neighbours(self) -> list[dict[str, Any]]:
        """The rows of ``erase score``'s neighbour table, else what results.json holds of every class, by the change."""
        for one in self.scores:
            rows = one["sides"].get("erased", {}).get("metrics", {}).get("neighbours")
            if rows:
                return [dict(row) for row in rows]
        if self.results is None:
            return []
        before, after = ((self.results["models"][side].get("per_class_accuracy") or {}) for side in SIDES)
        rank = {int(label): place for place, label in enumerate(self.results.get("nearest") or [], 1)}
        rows = [
            {
                "index": int(label),
                "name": self.labels.get(int(label), label),
                "before": {"value": before[label], "low": None, "high": None},
                "after": {"value": after[label], "low": None, "high": None},
                "change": after[label] - before[label],
                "forgotten": int(label) in self.forget,
                "rank": rank.get(int(label)),
                "near": rank.get(int(label), math.inf) <= 3,
            }
            for label in before
            if before[label] is not None and after.get(label) is not None
        ]
        return sorted(rows, key=lambda row: (row["change"], row["index"]))


def is_run_folder(path: Path) -> bool:
    return (path / "config.yaml").is_file() and "forget" in load_yaml(path / "config.yaml")


def read_run(path: Path) -> RunFolder:
    """Raises UserError for a damaged file, naming it."""
    config = load_yaml(path / "config.yaml")
    results = None
    if (path / "results.json").is_file():
        results = _checked(read_json(path / "results.json"), path / "results.json")
    for section in ("model", "method", "optimizer", "unlearn", "sample"):
        if not isinstance(config.get(section), Mapping):
            raise UserError(f"{path / 'config.yaml'} lacks the section {section}; it is not what a run has written")
    scores = read_scores(path) if results is not None else []
    return RunFolder(path, config, results, _labels(path, results), read_steps(path / "metrics.jsonl"), scores)


def _checked(results: Any, path: Path) -> dict[str, Any]:
    """Raises UserError unless the parts that a page stands on are there."""
    try:
        whole = [results["models"][side]["fa"] for side in SIDES] and results["protocol"] and results["forget"]
        whole = whole and {"method", "optimizer", "seed", "seconds", "versions"} <= results.keys()
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is not what a run has written; restore it or make the run anew")
    return dict(results)


def _labels(path: Path, results: Mapping[str, Any] | None) -> dict[int, str]:
    """Class names: the erased model's, else those of the forgotten ones that results.json holds."""
    index = path / "model" / "model_index.json"
    names = (read_json(index).get("id2label") or {}) if index.is_file() else {}
    forgotten = {int(entry["index"]): str(entry["name"]) for entry in (results or {}).get("forget", [])}
    return forgotten | {int(label): str(name) for label, name in names.items()}


def read_steps(path: Path) -> Steps:
    """The rows of metrics.jsonl; a last line that a stop cut short is left out.

    Raises UserError for any other line that is no step.
    """
    if not path.is_file():
        return Steps()
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows, strange = [], 0
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            values = {str(key): value for key, value in row.items() if isinstance(value, int | float)}
            kept = {key: value for key, value in values.items() if math.isfinite(value)}
            rows.append({**kept, "step": int(row["step"]), "objective": str(row.get("objective", ""))})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise UserError(f"{path}, line {number}, is no step of a run; remove that line") from None
        strange += len(values) - len(kept)
    return Steps(rows, strange)
