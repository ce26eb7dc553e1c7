"""The main flow of ``erase run``: load, preflight, split, precompute, unlearn, sample, score, save."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from . import processes
from .beforehand import prepare
from .compiled import compiled
from .config import ResolvedConfig, RunConfig, as_mapping
from .data.split import Split, encode_split
from .dit import time_shift
from .errors import UserError
from .faults import under_way
from .files import cache_folder, digest, held_tensors, read_tensors, write_json, write_tensors, write_text
from .labels import find_forget
from .methods import Method
from .model import ORIGINAL_NOTE, Model, load_model, save_model, weights_key
from .optim import make_policy
from .originals import copy_samples, drop_stale_samples, original_samples
from .packs import read_results
from .precision import arithmetic, restore_forward
from .presets import family_of, output_folder, resolve, training_key, with_classes
from .report.card import model_card
from .report.grid import draw_grid, grid_classes
from .results import score
from .runfolder import (
    check_folder,
    claim_folder,
    exchange,
    exchanging,
    finished,
    held_run,
    redo_folder,
    settle,
    space_needed,
    tidy,
)  # fmt: skip
from .sampling import COUNTED, sample_folder
from .signals import check_together
from .snapshots import take_snapshot
from .stage import Stage, data_source, preflight, raise_gate
from .trainer import Trainer, make_accelerator
from .warned import warnings_of


def run(request: RunConfig, words: Mapping[str, Any] | None = None, force: bool = False) -> dict[str, Any]:
    """Makes a model forget classes and measures it; what ``results.json`` holds.

    A finished run of the same config is returned as it is (``force``: redone beside, and put in its place), an
    unfinished one continued. Raises UserError for anything the user can mend.
    """
    return run_in_folder(request, words, force)[0]


def run_in_folder(
    request: RunConfig, words: Mapping[str, Any] | None = None, force: bool = False
) -> tuple[dict[str, Any], Path]:
    """As :func:`run`; also the run folder."""
    started = time.monotonic()
    config = resolve(request, words)
    processes.start(config.runtime.device)
    model = load_model(config.model.source, config.model.vae, config.model.num_heads)
    forget = find_forget(config.forget, model.labels)
    config = with_classes(config, forget)
    output = output_folder(request, config, forget)
    again, results = processes.on_main(lambda: standing(output, config, force))
    if results is not None:
        return results, output
    stage = preflight(config, model)
    with held_run(output):
        need = space_needed(model, stage.counts, config.optimizer.policy)
        place = processes.on_main(lambda: claim(output, config, need, again))
        if place is None:  # by another run, a moment ago
            return processes.on_main(lambda: finished_results(output, config)), output
        with tracked(make_accelerator(config.runtime, place), config.runtime.tracker) as accelerator:
            results = forget_classes(config, model, stage, forget, place, accelerator, started)
        if place != output:
            processes.on_main(lambda: exchange(output))
    return results, output


def standing(output: Path, config: ResolvedConfig, force: bool) -> tuple[bool, dict[str, Any] | None]:
    """Whether a finished run is to be redone, and the results of one that is not. Raises UserError for another's."""
    settled = settle(output)
    check_folder(output, config)
    again = force and not settled
    if again or not finished(output):
        return again, None
    tidy(output)
    return again, finished_results(output, config)


def claim(output: Path, config: ResolvedConfig, need: int, again: bool) -> Path | None:
    """The folder to run in, made the run's own; None if the run is finished. The caller holds ``output``.

    Raises UserError if it has become another run's since it was looked at, or is half exchanged.
    """
    if exchanging(output):
        raise UserError(f"a redone run is half in the place of {output}; run the same command again")
    check_folder(output, config)
    if finished(output) and not again:
        return None
    place = redo_folder(output, config) if finished(output) else output
    claim_folder(place, config, need)
    return place


def forget_classes(
    config: ResolvedConfig,
    model: Model,
    stage: Stage,
    forget: list[int],
    output: Path,
    accelerator: Accelerator,
    started: float,
) -> dict[str, Any]:
    """The run itself, in the folder ``output``: each phase takes up what is there of it."""
    seconds: dict[str, float] = {}
    before = weights_key(model.transformer)
    model.to(accelerator.device)

    with timed(seconds, "score"):
        stage = raise_gate(stage, accelerator.device)
        if stage.instrument is not None and stage.distance:
            stage.real_features()  # into the cache: an image that cannot be read is told before the first step

    with timed(seconds, "sample"):
        runtime = config.runtime
        original = original_samples(model, config.sample, runtime.precision, stage.counts, runtime.compile)

    with timed(seconds, "precompute"):
        null, flip, on_gpu = model.null_label, config.data.flip, model.device.type != "cpu"  # which rounds otherwise
        vae, count = model.vae, config.data.retain_images
        encoder = digest(weights_key(vae), *arithmetic(model.device, "fp32")) if on_gpu else weights_key(vae)
        split = encode_split(vae, encoder, stage.images, model.classes, forget, null, flip, count)
        key = digest(training_key(config), model.key(), split.key)
        method = prepare(config, model, split, forget, accelerator, output)

    with timed(seconds, "unlearn"):
        unlearn(config, model, method, split, accelerator, output, key)
    restore_forward(model.transformer)

    with timed(seconds, "sample"):
        processes.on_main(lambda: place_originals(original, model, output / "samples", stage.counts))
        folder, precision = output / "samples" / "erased", config.runtime.precision
        with compiled(model.transformer, config.runtime.compile, drawing=True):
            sample_folder(model, folder, config.sample, stage.counts, "sample erased", precision)

    check_together()
    with timed(seconds, "score"):
        results = score(config, model, stage, forget, output, original)

    return processes.on_main(lambda: finish(config, model, stage, forget, output, before, results, seconds, started))


@contextmanager
def tracked(accelerator: Accelerator, tracker: str | None) -> Iterator[Accelerator]:
    """Inside, ``tracker`` hears of every step; however that ends, what it heard is written."""
    if tracker:
        accelerator.init_trackers("erase")
    try:
        yield accelerator
    finally:
        for one in accelerator.trackers:  # end_training() would part the processes, too
            one.finish()


def finish(
    config: ResolvedConfig,
    model: Model,
    stage: Stage,
    forget: list[int],
    output: Path,
    before: str,
    results: dict[str, Any],
    seconds: dict[str, float],
    started: float,
) -> dict[str, Any]:
    """Writes grid, pack and, last of all, results.json; what that holds."""
    draw(config, model, stage, forget, output)
    about = model.pack or {
        "version": 1,
        "family": family_of(config.model.source),
        "classes": model.classes,
        "data": {"source": data_source(config, model)},
        "protocol": {key: value for key, value in as_mapping(config.sample).items() if key not in COUNTED},
    }
    by = {key: results[key] for key in ("method", "optimizer", "seed", "config_hash")}
    origin = {key: value for key, value in about.get("provenance", {}).items() if key != "scores"}
    forgotten = [*about.get("forgotten", []), *({**entry, **by} for entry in results["forget"])]
    model.pack = {**about, "forgotten": forgotten, "provenance": origin}
    note = "" if time_shift(model.transformer) else ORIGINAL_NOTE
    model.card = model_card(results, weights_key(model.transformer), before, about.get("forgotten", []), note)
    save_model(model, output / "model")
    results["warnings"] = warnings_of(results, output / "metrics.jsonl")
    seconds["total"] = time.monotonic() - started
    results["seconds"] = {key: round(value, 2) for key, value in seconds.items()}
    write_json(output / "results.json", results)
    return finished_results(output, config)


def finished_results(output: Path, config: ResolvedConfig) -> dict[str, Any]:
    """What ``results.json`` holds; the state, of no more use, goes."""
    if not config.runtime.keep_state:
        shutil.rmtree(output / "state", ignore_errors=True)
    return read_results(output, whole=True)


def place_originals(original: Path, model: Model, samples: Path, counts: Mapping[int, int]) -> None:
    """The run's folder of samples, with the original model's in it and no other weights' images."""
    drop_stale_samples(samples, digest(original.name, weights_key(model.transformer)))
    copy_samples(original, samples / "original", counts)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    with under_way():
        yield
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - begin


def unlearn(
    config: ResolvedConfig, model: Model, method: Method, split: Split, accelerator: Accelerator, output: Path, key: str
) -> None:
    """Trains the transformer in place; or takes the weights that the same training left in the cache."""
    how = arithmetic(model.device, config.runtime.precision, config.runtime.compile)
    kept = cache_folder("weights") / f"{method.name}-{digest(key, *how)}.safetensors"
    processes.on_main((output / "metrics.jsonl").touch)  # a run of no steps has one too
    if method.keeps_weights and processes.on_main(lambda: held_tensors(kept) is not None):
        with torch.no_grad():
            for name, value in read_tensors(kept).items():
                model.transformer.get_parameter(name).copy_(value)
        processes.on_main(lambda: take_metrics(kept.with_suffix(".jsonl"), output / "metrics.jsonl"))
        return
    split = replace(split, sets=method.training_sets(split.sets, config.seed))
    trainer = Trainer(
        accelerator,
        model.transformer,
        method,
        make_policy(config.optimizer, model.transformer.parameters()),
        {side: split.training(side, config) for side in ("forget", "retain")},
        config.unlearn,
        output / "state",
        key,
        output / "metrics.jsonl",
        config.runtime.save_every,
        config.unlearn.average,
        config.runtime.micro_batch,
        partial(watch, config, model, output),
        config.runtime.bad_steps,
    )
    if config.runtime.checkpointing:
        model.transformer.enable_gradient_checkpointing()
    with compiled(model.transformer, config.runtime.compile):
        trainer.run()
    model.transformer.disable_gradient_checkpointing()
    trainer.take_average()
    check_equal(model)
    if method.keeps_weights:
        processes.on_main(lambda: keep_weights(kept, model, output / "metrics.jsonl"))


def keep_weights(kept: Path, model: Model, metrics: Path) -> None:
    """The weights into the cache, and before them what their training wrote down."""
    write_text(kept.with_suffix(".jsonl"), metrics.read_text(encoding="utf-8"))
    write_tensors(kept, dict(model.transformer.named_parameters()))


def take_metrics(kept: Path, metrics: Path) -> None:
    """What the training of the cached weights wrote down, where it is there."""
    if kept.is_file():
        write_text(metrics, kept.read_text(encoding="utf-8"))


def check_equal(model: Model) -> None:
    """Raises RuntimeError if processes that took the same steps have come to different weights."""
    if processes.count() > 1 and len(set(processes.gather(weights_key(model.transformer)))) > 1:
        raise RuntimeError("the processes' weights have drifted apart; their devices must be of one kind")


def watch(config: ResolvedConfig, model: Model, output: Path, step: int) -> None:
    """A snapshot before the first step and every ``runtime.snapshot_every`` steps; what is there of it is kept."""
    every = config.runtime.snapshot_every
    if every is not None and step % every == 0:
        forget = [int(label) for label in config.forget]
        other = next(label for label in model.classes if label not in forget)
        take_snapshot(model, config, [*forget, other], output, step)


def draw(config: ResolvedConfig, model: Model, stage: Stage, forget: list[int], output: Path) -> None:
    """grid.png."""
    names = ", ".join(model.labels[label] for label in forget)
    title = f"erase: forget {names}  ({config.method.name}, {config.optimizer.policy})"
    shown = grid_classes(list(stage.counts), forget, stage.nearest(forget))
    draw_grid(output / "samples", output / "grid.png", model.labels, shown, forget, title)
