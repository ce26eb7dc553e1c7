"""Sides measured in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Clock = dict[str, list[float]]


@dataclass
class Times:
    """Seconds of each repeat by side: wall, and of this process's CPU (all its threads)."""

    wall: Clock = field(default_factory=dict)
    cpu: Clock = field(default_factory=dict)

    def add(self, side: str, wall: float, cpu: float) -> None:
        self.wall.setdefault(side, []).append(wall)
        self.cpu.setdefault(side, []).append(cpu)

    def row(self, above: str, below: str, per: float = 1.0) -> dict[str, Any]:
        """Median seconds of all sides, divided by ``per``, and the ratio of two of them."""
        return {
            "ratio": ratio(self.wall[above], self.wall[below]),
            "cpu_ratio": ratio(self.cpu[above], self.cpu[below]),
            "ratios": [round(a / b, 4) for a, b in zip(self.wall[above], self.wall[below], strict=True)],
            "cpu_ratios": [round(a / b, 4) for a, b in zip(self.cpu[above], self.cpu[below], strict=True)],
            "seconds": {side: statistics.median(values) / per for side, values in self.wall.items()},
            "cpu_seconds": {side: statistics.median(values) / per for side, values in self.cpu.items()},
            "repeats": len(self.wall[above]),
        }


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over repeats of one side's seconds by the other's of the same repeat."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of ``work``."""
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(sides: Mapping[str, Callable[[], Any]], repeats: int, warm: int = 1) -> Times:
    """``repeats`` runs of each side, A B then B A, after ``warm`` that do not count."""
    times, order = Times(), list(sides)
    for _ in range(warm):
        for side in order:
            sides[side]()
    for _ in range(repeats):
        for side in order:
            times.add(side, *timed(sides[side]))
        order.reverse()
    return times


def phases_in_turns(sides: Mapping[str, Iterator[str]]) -> dict[str, Times]:
    """Runs of several phases: each ``next`` does a part and gives its phase's name. The seconds of each phase and side.

    Parts alternate between the sides until all have ended; a phase that only one side has is timed for that one.
    """
    found: dict[str, dict[str, list[float]]] = {}
    going = dict(sides)
    while going:
        for side, parts in list(going.items()):
            names: list[str] = []
            wall, cpu = timed(lambda parts=parts, names=names: names.extend(name for name in [next(parts, "")] if name))
            if not names:
                del going[side]
                continue
            total = found.setdefault(names[0], {}).setdefault(side, [0.0, 0.0])
            total[0] += wall
            total[1] += cpu
    result: dict[str, Times] = {}
    for name, by_side in found.items():
        result[name] = Times()
        for side, (wall, cpu) in by_side.items():
            result[name].add(side, wall, cpu)
    return result
