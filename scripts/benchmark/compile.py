"""Sampling compiled beside the plain stock pipeline."""

from __future__ import annotations

from typing import Any

from . import sample
from .bench import Bench

NOTES = {
    "ratio": "seconds of DiTPipeline, not compiled, by those of erase with runtime.compile=true; else as in sample",
    "warm up": "seconds of the first call, which compiles for this batch size; they do not count in the ratio",
    "levels": sample.NOTES["levels"],
}


def run(bench: Bench) -> list[dict[str, Any]]:
    stock, sizes = sample.pipeline(bench), bench.size.batches
    return [sample.in_memory(bench, stock, count, wanted=True) for count in sizes]
