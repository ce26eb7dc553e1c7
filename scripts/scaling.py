"""The arithmetic of docs/scaling.md: operations, bytes and time of erasing DiT-XL/2 on 1, 8 and 64 GPUs.

    python -m scripts.scaling [--write]

prints the tables, or puts them between the markers of docs/scaling.md. Operations come from erase/flops.py, memory from
erase/memory.py, settings from the presets. Where a GPU check (docs/results/gpu-*.json) has measured a rate, it is used;
else an assumed one, which the tables say.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from erase.config import ResolvedConfig, RunConfig
from erase.flops import BACKWARD, forward_flops, vae_flops
from erase.memory import BEFOREHAND, parameter_count, predict
from erase.presets import load_yaml, resolve

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs" / "scaling.md"
GPUS = (1, 8, 64)
SIZES = {"256": 32, "512": 64}
PIXELS_PER_LATENT = 8
IMAGENET, CLASSES = 1_281_167, 1000
GRADIENT_BYTES = 4  # a weight: gradients are added up in fp32
INSTRUMENTS = 2 * (3.664e9 + 5.713e9)  # of an image: ResNet-34 and Inception v3, as torchvision gives them

# Data sheet of an H100 or H200 SXM: dense bf16, and what a GPU sends to others of its machine or, through its network
# card, to other machines.
PEAK, INSIDE, OUTSIDE = 989e12, 450e9, 50e9
ASSUMED = {"unlearn": 0.40, "fisher": 0.30, "sample": 0.40, "vae": 0.10}  # shares of the peak; the VAE runs in fp32
LINK = 0.7  # assumed share of the links
# passes of a sample that is forgotten and of one that is retained: with a backward pass, and without gradient
PASSES = {
    "sfron": ((1, 0), (1, 0)), "sa": ((1, 0), (1, 0)), "eupmu": ((1, 1), (1, 1)), "relabel": ((1, 0), (1, 0)),
    "distill": ((1, 1), (1, 0)),
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Operations of one run by stage, and how finely each can be shared out.

    ``encode`` and ``beforehand`` in images, ``steps`` in images of a side's batch, ``sample`` in blocks.
    """

    flops: dict[str, float]
    batches: tuple[int, ...]
    backwards: int
    blocks: int


@cache
def shape(size: str) -> dict[str, int]:
    return {
        "num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "patch_size": 2,
        "num_embeds_ada_norm": 1000, "in_channels": 4, "out_channels": 8, "sample_size": SIZES[size],
    }  # fmt: skip


@cache
def autoencoder(size: str) -> dict[str, int]:
    """Operations of Stable Diffusion's VAE for an image."""
    import torch
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        )  # fmt: skip
    return vae_flops(vae, SIZES[size])


def preset(size: str, method: str, policy: str, words: Mapping[str, Any] | None = None) -> ResolvedConfig:
    name = f"imagenet{size}/{method}-{policy}"
    request = RunConfig(["207"], model=f"facebook/DiT-XL-2-{size}", preset=name, method=method, optimizer=policy)
    return resolve(request, words, download=False)


def images_drawn(config: ResolvedConfig) -> int:
    return config.sample.per_class + (config.sample.retain_total or 0)


def work(size: str, config: ResolvedConfig) -> Work:
    """A run's operations; of a method whose preparation is shared by all classes (sa), without it."""
    forward, vae, plan = forward_flops(shape(size)), autoencoder(size), config.unlearn
    method, options = config.method.name, config.method
    latents = (IMAGENET // CLASSES + (config.data.retain_images or IMAGENET)) * (2 if config.data.flip else 1)
    drawn = 2 * images_drawn(config)  # by the original and by the erased model
    passes = PASSES[options.form if method == "salun" else method]
    again = config.runtime.checkpointing  # a second forward pass
    sides = (plan.forget.batch_size, plan.retain.batch_size)
    steps = sum(n * (full * (1 + BACKWARD + again) + free) for n, (full, free) in zip(sides, passes, strict=True))
    beforehand = 0
    if method == "sfron":
        beforehand = 2 * options.fisher_samples * (1 + BACKWARD)
    if method == "salun":
        beforehand = options.saliency_samples * (1 + BACKWARD + passes[0][1])
    joint = method == "eupmu"
    return Work(
        {
            "encode": latents * vae["encode"],
            "beforehand": beforehand * forward,
            "steps": plan.rounds * steps * forward,
            "sample": drawn * 2 * config.sample.steps * forward,
            "decode": drawn * vae["decode"],
            "score": (drawn + config.score.gate_images + (config.score.reference_images or 0)) * INSTRUMENTS,
        },
        sides,
        plan.rounds * (1 if joint else 2),
        2 * math.ceil(images_drawn(config) / config.sample.block),
    )


def measured() -> dict[str, float]:
    """Operations a second of each kind of work, of the fastest row of the newest GPU check."""
    checks = sorted((ROOT / "docs" / "results").glob("gpu-*.json"))
    rows = json.loads(checks[-1].read_text(encoding="utf-8"))["rows"] if checks else {}
    return {
        kind: 1e12 * max(row["tflops"] for row in rows[kind] if "tflops" in row)
        for kind in ASSUMED
        if any("tflops" in row for row in rows.get(kind, []))
    }


def rates() -> dict[str, float]:
    """Operations a second of one GPU by stage."""
    known = {kind: share * PEAK for kind, share in ASSUMED.items()} | measured()
    return {
        "encode": known["vae"], "beforehand": known["fisher"], "steps": known["unlearn"], "sample": known["sample"],
        "decode": known["vae"], "score": known["vae"],
    }  # fmt: skip


def reduce_seconds(count: int, weights: int) -> float:
    """To add up gradients over ``count`` GPUs in a ring: 2 (n - 1) / n times their bytes through the slowest link."""
    link = INSIDE if count <= 8 else OUTSIDE
    return 2 * (count - 1) / count * GRADIENT_BYTES * weights / (link * LINK) if count > 1 else 0.0


def seconds(work: Work, count: int, weights: int) -> dict[str, float]:
    """Of each stage on ``count`` GPUs that share one run."""
    speed = rates()
    found = {name: flops / speed[name] / count for name, flops in work.flops.items()}
    share = sum(math.ceil(n / count) for n in work.batches) / sum(work.batches)  # the largest share of a batch
    found["steps"] = work.flops["steps"] / speed["steps"] * share
    for name in ("sample", "decode"):
        found[name] = work.flops[name] / speed[name] * math.ceil(work.blocks / count) / max(1, work.blocks)
    return {**found, "exchange": work.backwards * reduce_seconds(count, weights)}


def whole_cells(each: Iterable[float], count: int) -> float:
    """The end of the last of these cells, each on one GPU, the longest first."""
    ends = [0.0] * count
    for cell in sorted(each, reverse=True):
        heapq.heappush(ends, heapq.heappop(ends) + cell)
    return max(ends)


def one_class(size: str) -> list[str]:
    config = preset(size, "sfron", "dual")
    job, weights = work(size, config), parameter_count(shape(size))
    times = {count: seconds(job, count, weights) for count in GPUS}
    rows = [
        [name, big(job.flops.get(name, 0)), *(told(times[n][name]) for n in GPUS)] for name in (*job.flops, "exchange")
    ]
    total = ["total", big(sum(job.flops.values())), *(told(sum(times[n].values())) for n in GPUS)]
    return table(["stage", "PFLOP", *(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS)], [*rows, total])


def paper_rows() -> list[tuple[str, str, dict[str, Any]]]:
    """Method, policy and settings of each row of the paper's table."""
    found = []
    for row in load_yaml(ROOT / "configs" / "tables" / "paper-table2.yaml")["rows"]:
        form = (row.get("set") or {}).get("method.form")
        for policy in row.get("policies") or [row["optimizer"]]:
            found.append((row["method"], policy, {"method": {"form": form}} if form else {}))
    return found


def campaigns(size: str) -> list[str]:
    """The paper's table and each class in turn: whole cells on a GPU each."""
    weights = parameter_count(shape(size))
    content = load_yaml(ROOT / "configs" / "tables" / "paper-table2.yaml")
    protocol = {"sample": {"protocol": "paper", "per_class": 512, "retain_total": 10000}}
    jobs = [work(size, preset(size, m, p, {**protocol, **more})) for m, p, more in paper_rows()]
    paper = [half_drawn(job) for job in jobs for _ in content["classes"]]
    paper += [half_drawn(jobs[0], only=True)] * len(content["classes"])  # the original's images, once a class
    kept = preset(size, "sfron", "dual").data.retain_images or IMAGENET
    encode = (kept + len(content["classes"]) * IMAGENET // CLASSES) * 2 * autoencoder(size)["encode"]
    first = [(encode, "encode"), (shared_by_classes(size, preset(size, "sa", "shared", protocol)), "sample")]
    every = [without(work(size, preset(size, "sfron", "dual")), "encode")] * CLASSES
    all_images = [(IMAGENET * 2 * autoencoder(size)["encode"], "encode")]
    rows = []
    for name, cells, once in (("paper's table", paper, first), ("each of 1000 classes", every, all_images)):
        each = [sum(seconds(cell, 1, weights).values()) for cell in cells]
        total = sum(flops for flops, _ in once) + sum(sum(cell.flops.values()) for cell in cells)
        before = sum(flops / rates()[stage] for flops, stage in once)
        ends = [before / count + whole_cells(each, count) for count in GPUS]
        rows.append([name, str(len(cells)), f"{total / 1e18:.1f}", *map(told, ends), f"{sum(each) / 3600:.0f}"])
    heads = ["campaign", "cells", "EFLOP", *(f"{n} GPU{'s' if n > 1 else ''}" for n in GPUS), "GPU hours of cells"]
    return table(heads, rows)


def shared_by_classes(size: str, config: ResolvedConfig) -> float:
    """What sa computes once for a model: samples of every class, their Fisher diagonal and mean loss."""
    drawn = config.method.replay_per_class * CLASSES * 2 * config.sample.steps
    return (drawn + config.method.fisher_samples * (1 + BACKWARD + 1)) * forward_flops(shape(size))


def without(job: Work, *stages: str) -> Work:
    return Work({**job.flops, **dict.fromkeys(stages, 0.0)}, job.batches, job.backwards, job.blocks)


def half_drawn(job: Work, only: bool = False) -> Work:
    """A cell that draws the erased model alone, its latents at hand; or (``only``) the original's images alone."""
    halves = {name: job.flops[name] / 2 for name in ("sample", "decode", "score")}
    kept = dict.fromkeys(job.flops, 0.0) if only else {**job.flops, "encode": 0.0}
    return Work({**kept, **halves}, job.batches, 0 if only else job.backwards, job.blocks // 2)


def memory(size: str) -> list[str]:
    """Bytes of one GPU by policy, from erase/memory.py."""
    rows = []
    for policy in ("shared", "dual", "dual_plus"):
        config = preset(size, "sfron", "dual", {"optimizer": {"policy": policy}})
        parts = predict(shape(size), config, bf16=True)
        before = parts.pop(BEFOREHAND, 0)
        total = parts.pop("total")
        rows.append([policy, *(gib(value) for value in parts.values()), gib(before), gib(total)])
        heads = ["policy", *parts, "more beforehand", "total GiB"]
    kept = [i for i in range(1, len(heads)) if any(row[i] != "0.0" for row in rows)]
    return table([heads[0], *(heads[i] for i in kept)], [[row[0], *(row[i] for i in kept)] for row in rows])


def stored(size: str) -> list[str]:
    """Bytes that lie on disk or cross links."""
    config, weights = preset(size, "sfron", "dual"), parameter_count(shape(size))
    latent = 4 * SIZES[size] ** 2 * 4 * 2 * 2  # mean and deviation, of the image and of its mirror image
    pixels = 3 * (SIZES[size] * PIXELS_PER_LATENT) ** 2
    images = IMAGENET // CLASSES + (config.data.retain_images or 0)
    rows = [
        ["weights, fp32", gib(4 * weights), "a pack; an erased model of each of 1000 classes: 1000 times as much"],
        ["saved state, dual", gib(4 * weights * 5), "weights and four moments, while a run lasts"],
        ["latents of one class's run", gib(latent * images), f"{images} images"],
        ["latents of all of ImageNet", gib(latent * IMAGENET), f"{IMAGENET} images, for each class in turn"],
        ["images of one run, at most", gib(2 * images_drawn(config) * pixels), "two models; PNG files are smaller"],
        ["gradients to add up", gib(GRADIENT_BYTES * weights), "a backward pass, to and from each GPU nearly twice"],
    ]
    return table(["what", "GiB", "note"], rows)


def speeds() -> list[str]:
    known = measured()
    rows = []
    for kind, share in ASSUMED.items():
        rate = known.get(kind, share * PEAK)
        rows.append([kind, f"{rate / 1e12:.0f}", f"{rate / PEAK:.0%}", "measured" if kind in known else "**assumed**"])
    return table(["work", "TFLOP/s", "share of 989", "where from"], rows)


def tables() -> str:
    """All tables of the document."""
    lines = ["### Rates", "", *speeds()]
    for size in SIZES:
        forward, vae = forward_flops(shape(size)), autoencoder(size)
        lines += ["", f"### DiT-XL/2 at {size}", ""]
        lines += [
            f"A forward pass of an image: {forward / 1e9:.0f} GFLOP; the VAE encodes one for {vae['encode'] / 1e9:.0f} "
            f"and decodes it for {vae['decode'] / 1e9:.0f}.",
            "", "One class (sfron, dual; processes share the run):", "", *one_class(size),
            "", "Many runs (whole cells, one GPU each):", "", *campaigns(size),
            "", "Memory of a GPU, GiB:", "", *memory(size), "", "Stored and sent:", "", *stored(size),
        ]  # fmt: skip
    return "\n".join(lines)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(row)} |" for row in body]


def big(flops: float) -> str:
    return f"{flops / 1e15:,.1f}" if flops else ""


def gib(count: float) -> str:
    return f"{count / 2**30:,.1f}"


def told(value: float) -> str:
    if value >= 2 * 86400:
        return f"{value / 86400:.1f} days"
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 120 else f"{value:.1f} s"


BEGIN, END = "<!-- scaling -->", "<!-- /scaling -->"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    if not parser.parse_args(words).write:
        print(tables())
        return
    text = DOC.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOC.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
