"""metrics.jsonl: one line a step, and the watch over its numbers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from .errors import StoppedError
from .faults import writing
from .files import write_text

FLUSH_EVERY = 20
Row = dict[str, Any]
UNLEARNING = "a lower unlearn.{side}.lr, a bound on the gradient (unlearn.{side}.clip)"


class BadNumberError(StoppedError):
    """A loss, a gradient or a weight is not finite."""


class StepLog:
    """Rows wait on the device and are written some at a time: on a GPU no step waits for its numbers.

    ``advice``: what to try where a number of ``{side}`` is not finite.
    """

    def __init__(self, accelerator: Accelerator, path: Path | None, advice: str = UNLEARNING) -> None:
        self.accelerator, self.path, self.advice = accelerator, path, advice
        self.pending: list[Row] = []

    def add(self, row: Row) -> float | None:
        """Takes a step's row; the last loss, each time that rows are written.

        Raises BadNumberError for a number that is not finite: at once on a CPU, on a GPU when rows are written.
        """
        if self.accelerator.device.type == "cpu":
            row = numbers(row)
            self.judge(row)
        self.pending.append(row)
        return self.flush() if len(self.pending) >= FLUSH_EVERY else None

    def flush(self, sync: bool = False) -> float | None:
        """Writes the pending rows up to the first bad one, which it raises; the last loss."""
        rows = [numbers(row) for row in self.pending]
        self.pending.clear()
        good = 0
        try:
            for row in rows:
                self.judge(row)
                good += 1
        finally:
            self._write(rows[:good], sync)
        return next((row["loss"] for row in reversed(rows) if row["loss"] is not None), None)

    def judge(self, row: Row) -> None:
        """Raises BadNumberError if a number of the row is not finite and its step was not skipped."""
        bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad and not row.get("skipped"):
            raise self.bad(f"{bad[0]} is {row[bad[0]]}", row["step"], row["objective"])

    def bad(self, what: str, step: int, objective: str) -> BadNumberError:
        side = "retain" if objective == "retain" else "forget"
        return BadNumberError(
            f"{what} at step {step} ({objective}); try {self.advice.format(side=side)} or runtime.bad_steps=N, which "
            "skips up to N such steps; the last saved state is kept"
        )

    def steps(self) -> int:
        """How many steps from the first on are there, whole."""
        return len(self._whole())

    def trim(self, start: int) -> None:
        """Drops what a stopped run wrote after its last saved state."""
        if self.path is not None and self.path.exists():
            write_text(self.path, "".join(f"{line}\n" for line in self._whole()[:start]))

    def _whole(self) -> list[str]:
        kept: list[str] = []
        if self.path is None or not self.path.exists():
            return kept
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] != len(kept):
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept.append(line)
        return kept

    def _write(self, rows: list[Row], sync: bool) -> None:
        for row in rows if self.accelerator.trackers else ():
            values = {k: v for k, v in row.items() if isinstance(v, float)}
            self.accelerator.log({f"{row['objective']}/{k}": v for k, v in values.items()}, step=row["step"])
        if self.path is None or not self.accelerator.is_main_process or not (rows or self.path.exists()):
            return
        with writing(self.path, self.path), self.path.open("ab", buffering=0) as file:
            file.write("".join(json.dumps(printed(row)) + "\n" for row in rows).encode())
            if sync:
                os.fsync(file.fileno())


def numbers(row: Mapping[str, Any]) -> Row:
    """The row with plain numbers in the tensors' place."""
    return {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in row.items()}


def printed(row: Row) -> Row:
    """What is not finite, of a step that was skipped, as null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
