"""Speed, memory and soundness of erasing DiT-XL/2 at 256 on one GPU, with random weights: nothing is downloaded.

    python scripts/gpu_check.py --output docs/results/gpu-NAME.json [--only unlearn,fisher,...]

writes the JSON and a Markdown table beside it as it goes. Run it again to continue: what is there is not measured
again. ``--tiny`` runs everything at a tiny size, on a CPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from erase.compiled import compiled
from erase.config import (
    DataConfig,
    DitRecipe,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    ResolvedConfig,
    RuntimeConfig,
    SampleConfig,
    ScoreConfig,
    UnlearnConfig,
)
from erase.data.latents import fixed_latents
from erase.data.moments import BATCH, moments_of
from erase.data.split import Split
from erase.diffusion import Schedule
from erase.files import read_json, write_json, write_text
from erase.flops import BACKWARD, forward_flops, vae_flops
from erase.memory import BEFOREHAND, beforehand, predict
from erase.methods.sfron import Options, SFRon
from erase.model import Model, load_model, new_transformer, save_model
from erase.optim import make_policy
from erase.precision import restore_forward
from erase.saliency import FISHER_BATCH, fisher_diagonal
from erase.sampling import DECODE_BATCH, decode, sample_latents
from erase.task import DiffusionTask
from erase.trainer import Trainer, make_accelerator

FULL_MEMORY = "out of memory"
NOTES = {
    "step": "one forget step plus one retain step of sfron with a given mask, a batch each, masks, clips and optimizer",
    "flops": "of the model: backward counted as twice the forward, recomputed blocks not counted",
    "share": "of the measured bf16 matrix rate",
    "peak": "largest memory held by tensors, beside what erase/memory.py predicts",
    "sampling": "guided, dpm++, the transformer alone; the VAE is timed apart",
    "vae": "fp32, with the copies to and from the host as in a run",
    "weights": "random and nowhere zero, for zeros multiply faster",
}


@dataclass(frozen=True)
class Size:
    recipe: DitRecipe
    latent: int
    channels: tuple[int, ...]  # of the VAE
    groups: int
    vae_layers: int
    matrices: tuple[int, ...]
    batches: tuple[int, ...]
    compiles: tuple[bool, ...]
    rounds: int
    fisher: tuple[int, ...]
    blocks: tuple[int, ...]
    steps: int
    pictures: tuple[int, ...]
    finite: int


FULL = Size(
    recipe=DitRecipe(layers=28, width=1152, heads=16), latent=32, channels=(128, 256, 512, 512), groups=32,
    vae_layers=2, matrices=(4096, 8192, 16384), batches=(16, 64, 32, 128), compiles=(False, True), rounds=10,
    fisher=(FISHER_BATCH, 16), blocks=(100, 16), steps=25, pictures=(BATCH, DECODE_BATCH, 16), finite=300,
)  # fmt: skip
TINY = Size(
    recipe=DitRecipe(layers=2, width=32, heads=2, label_slots=12), latent=8, channels=(8, 8), groups=4,
    vae_layers=1, matrices=(64, 128), batches=(2, 4), compiles=(False,), rounds=2,
    fisher=(4,), blocks=(3,), steps=2, pictures=(2,), finite=6,
)  # fmt: skip


class Record:
    """The JSON: rows by section, written after each. A row that is there is not measured again, unless it failed."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.content = read_json(path) if path.is_file() else {**about, "finished": [], "rows": {}}
        if self.content["size"] != about["size"] or self.content["hardware"] != about["hardware"]:
            sys.exit(f"{path} holds figures of another machine or size; give another --output")

    def add(self, section: str, settings: dict[str, Any], measure: Callable[..., dict[str, Any]]) -> None:
        rows = self.content["rows"].setdefault(section, [])
        if any(settings.items() <= row.items() and row.get("error") in (None, FULL_MEMORY) for row in rows):
            return
        rows[:] = [row for row in rows if not settings.items() <= row.items()]
        began = time.monotonic()
        try:
            result = measure(**settings)
        except torch.OutOfMemoryError:
            result = {"error": FULL_MEMORY}
        except Exception as error:  # the other figures are still wanted
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rows.append({**settings, **result, "measured_in_seconds": round(time.monotonic() - began, 2)})
        print(f"{section}: {rows[-1]}", file=sys.stderr, flush=True)
        self.write()

    def finish(self, section: str) -> None:
        if all(row.get("error") in (None, FULL_MEMORY) for row in self.content["rows"][section]):
            self.content["finished"].append(section)
            self.write()

    def write(self) -> None:
        rate = max((row["tflops"] for row in self.content["rows"].get("matmul", []) if "tflops" in row), default=None)
        for section, rows in self.content["rows"].items():
            for row in rows:
                if "tflops" in row and section != "matmul":
                    known = rate is not None and self.content["hardware"]["device"] == "cuda"
                    row["share"] = row["tflops"] / rate if known else None
        write_json(self.path, self.content)
        write_text(self.path.with_suffix(".md"), markdown(self.content))


class Check:
    """The model and what its measurements share."""

    def __init__(self, size: Size, device: torch.device, record: Record, work: Path) -> None:
        self.size, self.device, self.record, self.work = size, device, record, work
        self.compiled_for: Any = None

    @cached_property
    def accelerator(self) -> Accelerator:
        return make_accelerator(RuntimeConfig(device=str(self.device)))

    @property
    def bf16(self) -> bool:
        return bool(self.accelerator.mixed_precision == "bf16")

    @cached_property
    def model(self) -> Model:
        from diffusers import AutoencoderKL

        levels = len(self.size.channels)
        with torch.device(self.device):
            transformer = new_transformer(self.size.recipe, 4, self.size.latent, seed=0)
            vae: Any = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                block_out_channels=self.size.channels,
                layers_per_block=self.size.vae_layers,
                norm_num_groups=self.size.groups,
                sample_size=self.size.latent * 2 ** (levels - 1),
            )
        generator = torch.Generator(self.device).manual_seed(1)
        transformer, vae = transformer.to(self.device), vae.to(self.device).eval()
        with torch.no_grad():
            for weight in transformer.parameters():
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator, device=self.device))
        labels = {label: f"class {label}" for label in range(self.size.recipe.label_slots)}
        return Model(transformer, vae, labels)

    @cached_property
    def flops(self) -> int:
        return forward_flops(self.model.transformer.config)

    @cached_property
    def split(self) -> Split:
        """Random latents: class 0 is forgotten."""
        generator = torch.Generator().manual_seed(2)
        latents = torch.randn(512, *self.model.latent_shape, generator=generator)
        labels = np.arange(len(latents)) % min(10, self.model.num_classes)
        whole = fixed_latents(latents, labels, 0.18215, spread=0.1)
        return Split({"forget": whole.part(labels == 0), "retain": whole.part(labels != 0)}, self.model.null_label)

    def config(self, batch: int, policy: str, rounds: int, **runtime: Any) -> ResolvedConfig:
        side = ObjectiveConfig(batch_size=batch, lr=1e-5, clip=1.0)
        return ResolvedConfig(
            forget=("0",), seed=0, model=ModelConfig(), data=DataConfig(), method=Options("sfron"),
            optimizer=OptimizerConfig(policy), unlearn=UnlearnConfig(rounds=rounds, forget=side, retain=side),
            sample=SampleConfig(), score=ScoreConfig(), runtime=RuntimeConfig(device=str(self.device), **runtime),
        )  # fmt: skip

    def seconds(self, work: Callable[[], Any], repeats: int) -> float:
        """Median of some runs after a first one."""
        work()
        taken = []
        for _ in range(repeats):
            begin = self.now()
            work()
            taken.append(self.now() - begin)
        return statistics.median(taken)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def fresh_compiler(self, wanted: bool, *shape: Any) -> None:
        """Forgets code of other shapes, which else would be replaced by code for any shape."""
        if wanted and shape != self.compiled_for:
            torch.compiler.reset()
            self.compiled_for = shape

    @contextlib.contextmanager
    def task(self) -> Iterator[DiffusionTask]:
        """The transformer in the arithmetic of a run."""
        transformer = self.model.transformer
        module = self.accelerator.prepare_model(transformer)
        try:
            yield DiffusionTask(module, Schedule(), self.model.classes, [0], self.model.null_label)
        finally:
            transformer.disable_gradient_checkpointing()
            transformer.zero_grad()
            restore_forward(transformer)

    def trainer(self, config: ResolvedConfig, task: DiffusionTask, metrics: Path | None = None) -> Trainer:
        transformer = self.model.transformer
        method = SFRon(config.method, task)
        weights = dict(transformer.named_parameters())
        fisher = {f"{side}/{name}": torch.rand_like(p) for name, p in weights.items() for side in ("forget", "retain")}
        method.start(fisher, weights)  # a mask of one half
        del fisher
        if config.runtime.checkpointing:
            transformer.enable_gradient_checkpointing()
        streams = {side: self.split.training(side, config) for side in ("forget", "retain")}
        state, policy = self.work / "state", make_policy(config.optimizer, transformer.parameters())
        parts = (self.accelerator, transformer, method, policy, streams, config.unlearn, state, "gpu check", metrics)
        return Trainer(*parts, save_every=10**9)

    def matmul(self) -> None:
        def rate(size: int) -> dict[str, Any]:
            a, b = torch.randn(2, size, size, device=self.device, dtype=torch.bfloat16)
            several = 10

            def work() -> None:
                for _ in range(several):
                    a @ b

            return {"tflops": several * 2 * size**3 / self.seconds(work, 9) / 1e12}

        for size in self.size.matrices:
            self.record.add("matmul", {"size": size}, rate)

    def unlearn(self) -> None:
        def speed(batch: int, policy: str, checkpointing: bool, compile: bool) -> dict[str, Any]:
            warm = 2
            config = self.config(batch, policy, warm + self.size.rounds, checkpointing=checkpointing, compile=compile)
            self.fresh_compiler(compile, "train", batch, checkpointing)
            with self.task() as task, compiled(self.model.transformer, compile):
                rows = self.trainer(config, task).walk()
                self.reset_peak()
                begin = self.now()
                losses = [next(rows)["loss"] for _ in range(2 * warm)]
                middle = self.now()
                losses += [row["loss"] for row in rows]
                seconds = (self.now() - middle) / self.size.rounds
            wanted = predict(self.model.transformer.config, config, self.bf16)
            return {
                "steps_per_second": 1 / seconds,
                "images_per_second": 2 * batch / seconds,
                "tflops": 2 * batch * (1 + BACKWARD) * self.flops / seconds / 1e12,
                "warm_up_seconds": middle - begin,
                "peak_bytes": self.peak(),
                "predicted_bytes": wanted["total"] - wanted.get(BEFOREHAND, 0),
                "finite": bool(torch.stack(losses).isfinite().all()),
            }

        for batch in self.size.batches:
            for compile in self.size.compiles:
                for checkpointing in (False, True):
                    for policy in ("dual", "shared"):
                        how = {"batch": batch, "policy": policy, "checkpointing": checkpointing, "compile": compile}
                        self.record.add("unlearn", how, speed)

    def fisher(self) -> None:
        def speed(batch: int) -> dict[str, Any]:
            stream, repeats = self.split.beforehand("retain", 0, batch), 3
            with self.task() as task:

                def work() -> None:
                    batches = (stream.batch(step).to(self.device) for step in range(repeats))
                    fisher_diagonal(self.model.transformer, task.loss, batches)

                self.reset_peak()
                seconds = self.seconds(work, 1) / (repeats * batch)
            tflops = (1 + BACKWARD) * self.flops / seconds / 1e12
            return {
                "samples_per_second": 1 / seconds,
                "tflops": tflops,
                "peak_bytes": self.peak(),
                "predicted_bytes": beforehand(self.model.transformer.config, batch, self.bf16),
            }

        for batch in self.size.fisher:
            self.record.add("fisher", {"batch": batch}, speed)

    def sample(self) -> None:
        def speed(block: int, compile: bool) -> dict[str, Any]:
            labels, seeds = [i % self.model.num_classes for i in range(block)], range(block)
            self.fresh_compiler(compile, "sample", block)
            with compiled(self.model.transformer, compile):

                def work(steps: int = self.size.steps) -> None:
                    sample_latents(self.model, labels, seeds, 1.5, steps)

                self.reset_peak()
                work(2)
                seconds = self.seconds(work, 3) / block
            tflops = 2 * self.size.steps * self.flops / seconds / 1e12
            return {
                "steps": self.size.steps,
                "images_per_second": 1 / seconds,
                "tflops": tflops,
                "peak_bytes": self.peak(),
            }

        for block in self.size.blocks:
            for compile in self.size.compiles:
                self.record.add("sample", {"block": block, "compile": compile}, speed)

    def vae(self) -> None:
        vae = self.model.vae
        flops = vae_flops(vae, self.size.latent)

        def speed(what: str, batch: int) -> dict[str, Any]:
            latents = torch.randn(batch, *self.model.latent_shape, device=self.device)
            pixels = torch.randint(256, (batch, 3, *2 * (self.model.image_size,)), dtype=torch.uint8)

            @torch.no_grad()
            def work() -> None:
                if what == "decode":
                    decode(self.model, latents)
                else:
                    moments_of(vae, pixels, self.device)

            self.reset_peak()
            seconds = self.seconds(work, 3) / batch
            return {"images_per_second": 1 / seconds, "tflops": flops[what] / seconds / 1e12, "peak_bytes": self.peak()}

        for batch in self.size.pictures:
            for what in ("decode", "encode"):
                self.record.add("vae", {"what": what, "batch": batch}, speed)

    def finite(self) -> None:
        def run(policy: str, batch: int, steps: int) -> dict[str, Any]:
            metrics = self.work / "metrics.jsonl"
            metrics.unlink(missing_ok=True)  # of a run that was stopped
            shutil.rmtree(self.work / "state", ignore_errors=True)
            config = self.config(batch, policy, steps // 2)
            with self.task() as task:
                trainer = self.trainer(config, task, metrics)
                self.reset_peak()
                begin = self.now()
                trainer.run()
                seconds = self.now() - begin
            rows = [float(line.split('"loss": ')[1].split(",")[0]) for line in metrics.read_text().splitlines()]
            state = max(file.stat().st_size for file in (self.work / "state").iterdir())
            shutil.rmtree(self.work / "state")
            return {
                "finite": all(map(np.isfinite, rows)) and all(p.isfinite().all() for p in trainer.parameters.values()),
                "taken": len(rows),
                "first_losses": rows[:2],
                "last_losses": rows[-2:],
                "seconds_with_saving": seconds,
                "saved_state_bytes": state,
                "peak_bytes": self.peak(),
            }

        self.record.add("finite", {"policy": "dual", "batch": self.size.batches[0], "steps": self.size.finite}, run)

    def roundtrip(self) -> None:
        def run(what: str) -> dict[str, Any]:
            folder, model = self.work / "model", self.model
            begin = self.now()
            save_model(model, folder)
            saved = self.now()
            again = load_model(str(folder))
            loaded = self.now()
            pairs = [(model.transformer, again.transformer), (model.vae, again.vae)]
            states = [(first.state_dict(), second.state_dict()) for first, second in pairs]
            embedders = {id(block.norm1.emb) for block in again.transformer.transformer_blocks}
            return {
                "equal": all(
                    first.keys() == second.keys() and all(torch.equal(first[k].cpu(), second[k]) for k in first)
                    for first, second in states
                ),
                "tied": len(embedders) == 1,
                "parameters": sum(p.numel() for p in again.transformer.parameters()),
                "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
                "save_seconds": saved - begin,
                "load_seconds": loaded - saved,
            }

        self.record.add("roundtrip", {"what": "transformer and VAE as a diffusers folder"}, run)


SECTIONS = ("matmul", "unlearn", "fisher", "sample", "vae", "finite", "roundtrip")


def markdown(content: dict[str, Any]) -> str:
    """The figures as one table a section."""
    about = {**content["hardware"], **content["versions"]}
    lines = ["# GPU check", "", ", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines += [f"- {name}: {text}" for name, text in content["notes"].items()]
    for section, rows in content["rows"].items():
        columns = list(dict.fromkeys(name for row in rows for name in row))
        heads = [name.replace("_bytes", " GiB").replace("bytes", "GiB").replace("_", " ") for name in columns]
        state = "" if section in content["finished"] else " (unfinished)"
        lines += ["", f"## {section}{state}", "", f"| {' | '.join(heads)} |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(shown(name, row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "share":
        return f"{value:.1%}"
    if name.endswith("bytes"):
        return f"{value / 2**30:.2f}"
    if isinstance(value, list):
        return ", ".join(shown(name, item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def hardware(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"device": "cpu", "name": platform.machine(), "cores": os.cpu_count()}
    about = torch.cuda.get_device_properties(device)
    return {"device": "cuda", "name": about.name, "memory_bytes": about.total_memory, "cores": os.cpu_count()}


def versions() -> dict[str, str | None]:
    import accelerate
    import diffusers

    import erase

    found = {module.__name__: str(module.__version__) for module in (erase, torch, diffusers, accelerate)}
    return {"python": platform.python_version(), **found, "cuda": torch.version.cuda}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON; the table is written beside it as .md")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on a CPU where there is no GPU")
    parser.add_argument("--work", type=Path, help="folder for some 20 GB of scratch files; default: a temporary one")
    asked = parser.parse_args(words)
    wanted = [name for name in asked.only.split(",") if name]
    if set(wanted) - set(SECTIONS):
        parser.error(f"--only takes some of {','.join(SECTIONS)}")
    if not asked.tiny and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --tiny runs on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {"version": 1, "size": "tiny" if asked.tiny else "DiT-XL/2 at 256", "hardware": hardware(device)}
    record = Record(asked.output, {**about, "versions": versions(), "notes": NOTES})
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        check = Check(TINY if asked.tiny else FULL, device, record, work)
        for name in SECTIONS:
            if name in ("matmul", *wanted) and name not in record.content["finished"]:  # shares need the first
                getattr(check, name)()
                record.finish(name)
    if any("error" in row and row["error"] != FULL_MEMORY for rows in record.content["rows"].values() for row in rows):
        sys.exit("some figures could not be measured; the JSON says why, and another run tries them again")


if __name__ == "__main__":
    main()
