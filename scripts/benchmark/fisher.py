"""The per-sample Fisher diagonal beside a plain loop over batches of one, on the same cached latents."""

from __future__ import annotations

from typing import Any

import torch

from erase.data.latents import Batch
from erase.saliency import FISHER_BATCH, fisher_diagonal
from erase.task import DiffusionTask

from .bench import Bench
from .timing import in_turns

NOTES = {
    "loop": "a forward and a backward pass for each image, "
    "its squared gradient added up weight by weight, on the device",
    "ratio": "seconds of the loop by those of erase",
}

Tensors = dict[str, torch.Tensor]


def by_one(bench: Bench, task: DiffusionTask, batches: list[Batch]) -> Tensors:
    weights = dict(task.module.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    count = 0
    for batch in batches:
        for i in range(len(batch)):
            task.module.zero_grad()
            with bench.accelerator.autocast():
                loss = task.loss(batch.part(slice(i, i + 1))).mean()
            loss.backward()
            for name, p in weights.items():
                if p.grad is not None:
                    total[name] += p.grad.square()
            count += 1
    task.module.zero_grad()
    return {name: value / count for name, value in total.items()}


def run(bench: Bench) -> list[dict[str, Any]]:
    size = bench.size
    part = min(FISHER_BATCH, size.images)
    stream = bench.split.beforehand("retain", 0, part)
    batches = [stream.batch(number).to(bench.device) for number in range(-(-size.images // part))]
    found: dict[str, Tensors] = {}
    with bench.task() as task:

        def ours() -> None:
            found["erase"] = fisher_diagonal(task.module, task.loss, iter(batches))

        def loop() -> None:
            found["loop"] = by_one(bench, task, batches)

        times = in_turns({"erase": ours, "loop": loop}, size.repeats)
    scale = max(float(value.abs().max()) for value in found["loop"].values())
    apart = max(float((found["erase"][name] - value).abs().max()) for name, value in found["loop"].items())
    images = sum(len(batch) for batch in batches)
    row = {"images": images, "batch": part, "aim": 3.0, "better": "higher", "difference_of_largest": apart / scale}
    return [{**row, **times.row("loop", "erase", per=images)}]
