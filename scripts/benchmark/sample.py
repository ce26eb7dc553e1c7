"""Sampling beside stock DiTPipeline at the same scheduler, steps, batch and start noise."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from erase.compiled import compiled
from erase.config import SampleConfig
from erase.rng import image_seed
from erase.sampling import image_path, sample, sample_folder

from .bench import Bench
from .timing import in_turns

STEPS, SCALE, SAMPLER = 20, 1.5, "dpm++"
NOTES = {
    "ratio": "seconds of DiTPipeline by those of erase; guided, dpm++, 20 steps, uint8 images in memory",
    "files": "the same to PNG files: sample_folder beside the pipeline and a loop of Image.save",
    "levels": "largest difference of a pixel between the two sides, of 255",
}


def pipeline(bench: Bench) -> Any:
    """Stock DiTPipeline of the same weights, with one embedder a block as diffusers builds it."""
    from diffusers import DiTPipeline

    from erase.model import untied_copy
    from erase.sampling import make_scheduler

    transformer = untied_copy(bench.model.transformer).to(bench.device).eval()
    stock: Any = DiTPipeline(transformer=transformer, vae=bench.model.vae, scheduler=make_scheduler(SAMPLER))
    stock.set_progress_bar_config(disable=True)
    return stock


def run(bench: Bench) -> list[dict[str, Any]]:
    stock = pipeline(bench)
    return [*(in_memory(bench, stock, count) for count in bench.size.batches), to_files(bench, stock)]


def drawn(stock: Any, labels: list[int], seeds: list[int]) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    how = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "output_type": "np"}
    precise = torch.autocast(stock.device.type, torch.bfloat16, enabled=stock.device.type == "cuda")
    with precise:  # the arithmetic of erase on either device
        images = stock(class_labels=labels, generator=generators, **how).images
    return (images * 255).round().astype("uint8")


def in_memory(bench: Bench, stock: Any, count: int, wanted: bool = False) -> dict[str, Any]:
    classes = bench.model.classes
    labels, seeds = [classes[i % len(classes)] for i in range(count)], list(range(count))
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found["erase"] = sample(bench.model, labels, seeds, SCALE, STEPS, SAMPLER)

    def theirs() -> None:
        found["stock"] = drawn(stock, labels, seeds)

    repeats = max(bench.size.repeats, 24 // count) if bench.kind != "tiny" else 1
    row: dict[str, Any] = {"batch": count, "compiled": wanted, "aim": 1.25 if wanted else 1.0, "better": "higher"}
    if bench.device.type == "cuda":
        row["aim"] = 1.2
    torch.compiler.reset()
    with compiled(bench.model.transformer, wanted, drawing=True):
        begin = time.perf_counter()
        ours()
        warm = time.perf_counter() - begin
        times = in_turns({"erase": ours, "stock": theirs}, repeats)
    levels = int(np.abs(found["erase"].astype(int) - found["stock"].astype(int)).max())
    row |= {"levels": levels, **times.row("stock", "erase", per=count)}
    return {**row, "warm_up_seconds": warm} if wanted else row


def to_files(bench: Bench, stock: Any) -> dict[str, Any]:
    """All classes, in blocks, to PNG files."""
    classes = bench.model.classes
    each = max(1, bench.size.files // len(classes))
    config = SampleConfig(per_class=max(2, each), steps=STEPS, guidance_scale=SCALE, sampler=SAMPLER)
    rounds = {"erase": 0, "stock": 0}

    def folder(side: str) -> Path:
        rounds[side] += 1
        return bench.work / f"{side}-{rounds[side]}"

    def ours() -> None:
        sample_folder(bench.model, folder("erase"), config, classes, "sample")

    def theirs() -> None:
        target = folder("stock")
        for label in classes:
            numbers = range(config.per_class)
            seeds = [image_seed(config.seed, label, number) for number in numbers]
            for number, image in zip(numbers, drawn(stock, [label] * len(seeds), seeds), strict=True):
                path = image_path(target, label, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)

    count = config.per_class * len(classes)
    times = in_turns({"erase": ours, "stock": theirs}, bench.size.repeats)
    first, second = (bench.work / f"{side}-1" for side in ("erase", "stock"))
    names = sorted(path.relative_to(first) for path in first.rglob("*.png"))
    levels = max(int(np.abs(_pixels(first / name) - _pixels(second / name)).max()) for name in names)
    row = {"batch": config.per_class, "compiled": False, "files": count, "aim": 1.0, "better": "higher"}
    return {**row, "levels": levels, **times.row("stock", "erase", per=count)}


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)
