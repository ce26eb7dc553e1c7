"""What was measured: cells.jsonl, one line a cell, appended and never rewritten."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import locks
from ..errors import UserError
from ..faults import writing
from ..files import cache_folder, write_text
from ..methods import Method, find_method
from ..packs import read_mapping
from ..steplog import BadNumberError
from .plan import Cell, Line, Plan

Entry = dict[str, Any]
SCORES = ("fa", "fa_top1", "not_an_image", "ra", "fid")
FAILED = "failed"  # in place of the hash of the numbers that a golden run could not give


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes a table's folder and holds it against a second table that would run the same cells."""
    work = folder / "cells"
    with locks.held(work, f"another table is being run in {folder}; wait for it, or use --render"):
        try:
            (work / ".gitignore").write_text("*\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write the output folder {folder}: {error.strerror}") from None
        yield


class Store:
    """The files of a table's folder. Tables that share it share cells.

    A cell is *done* if its entry has no error and the golden numbers under which it was made are the present ones,
    *failed* if it ended in an error, *stale* if the golden numbers have changed since.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "cells.jsonl"
        self.work = folder / "cells"
        self.golden: dict[str, Any] = read_mapping(folder / "golden.json") if (folder / "golden.json").is_file() else {}
        self.entries: dict[str, list[Entry]] = {}
        lines = self.path.read_text(encoding="utf-8").split("\n") if self.path.is_file() else [""]
        for number, text in enumerate(lines[:-1], start=1):  # what follows the last line break was half written
            try:
                entry = json.loads(text)
                self.entries.setdefault(entry["key"], []).append(entry)
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{self.path} line {number} is no cell; remove that line") from None

    def state(self, line: Line, cell: Cell) -> tuple[str, Entry | None]:
        """``done``, ``failed``, ``stale`` or ``missing``, and the entry that says so."""
        found = self.entries.get(cell.key, [])
        golden = self.golden.get(line.golden, {}).get("hash")
        fresh = [entry for entry in found if golden is None or entry["golden"] == golden]
        done = [entry for entry in fresh if entry["error"] is None]
        if done:
            return "done", done[-1]
        if fresh:
            return "failed", fresh[-1]
        return ("stale", found[-1]) if found else ("missing", None)

    def beforehand(self, method: str) -> float:
        """The most seconds that a cell of this folder took for what is computed beforehand: all others read it back.

        0 for a method that computes nothing: what is left are the latents, which all methods share (and which the
        first cell of all computes besides).
        """
        if find_method(method).precompute is Method.precompute:
            return 0.0
        valid = {run.get("hash") for run in self.golden.values()}
        every = [entry for entries in self.entries.values() for entry in entries if entry["golden"] in valid]
        spent = [entry["seconds"] for entry in every if entry.get("method") == method and entry.get("seconds")]
        return max((parts.get("precompute", 0.0) for parts in spent), default=0.0)

    def add(self, entry: Entry) -> None:
        """Appends ``entry`` so that a kill at any moment leaves whole lines before it."""
        entry = compact(entry)
        with writing(self.path, self.path), self.path.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(entry, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.setdefault(entry["key"], []).append(entry)

    def save_golden(self) -> None:
        """One line a golden run."""
        lines = [f"{json.dumps(key)}: {json.dumps(run)}" for key, run in self.golden.items()]
        write_text(self.folder / "golden.json", "{\n" + ",\n".join(lines) + "\n}\n")

    def cache(self) -> Path:
        """Where cells cache. Once the code's numbers have changed, no longer where older code has cached its own."""
        changed = self.golden.get("cache")
        return cache_folder("code", changed["digest"]) if changed else cache_folder()


def compact(value: Any) -> Any:
    """Floats to 6 digits, and None for what is not finite and so no JSON."""
    if isinstance(value, Mapping):
        return {key: compact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [compact(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class Standing:
    """A cell of a line, and how it stands. ``beforehand``: seconds of what its method computes once, see
    :meth:`Store.beforehand`."""

    line: Line
    cell: Cell
    state: str
    entry: Entry
    beforehand: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.line.name}, class {self.cell.classes}, seed {self.cell.seed}"

    @property
    def diverged(self) -> bool:
        """Whether it failed by a number that is not finite: under the same code it would again."""
        return self.state == "failed" and self.entry["error"].startswith(BadNumberError.__name__)

    @property
    def unjudged(self) -> bool:
        """Whether no golden run has told that the code still gives the numbers of this cell."""
        return self.state == "done" and self.entry["golden"] == FAILED


def standings(store: Store, plan: Plan) -> list[Standing]:
    found = [(line, cell, *store.state(line, cell)) for line in plan.lines for cell in line.cells]
    once = {line.method: store.beforehand(line.method) for line in plan.lines}
    return [Standing(line, cell, state, entry or {}, once[line.method]) for line, cell, state, entry in found]
