"""Makes packs: an autoencoder, a DiT on its latents, and a classifier with features and an image gate."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from . import __version__, processes, rng
from .classifier import Classifier, Gate, Instrument, load_instrument, save_instrument
from .compiled import compiled
from .config import (
    ClassifierRecipe,
    DitRecipe,
    ObjectiveConfig,
    OptimizerConfig,
    OptimizerSide,
    PretrainConfig,
    RuntimeConfig,
    UnlearnConfig,
    VaeRecipe,
    as_mapping,
    changes,
)
from .data.images import ImageSet, load_images
from .data.latents import LatentStream
from .data.moments import encode_moments
from .diffusion import Schedule
from .errors import UserError
from .files import check_writable, digest, read_json, replacing_folder, write_json
from .fit import fit
from .labels import find_class
from .locks import held
from .methods.finetune import Finetune
from .metrics.fid import distance, statistics
from .model import Model, load_model, new_transformer, new_vae, weights_key, write_pipeline
from .optim import Shared
from .originals import drop_stale_samples
from .packs import read_about, understood
from .precision import restore_forward
from .recipe import check_data, check_recipe
from .reference import reference_of, write_reference
from .runfolder import sweep
from .sampling import sample_folder
from .scoring import read_folder, score_reading
from .task import DiffusionTask
from .trainer import Trainer, make_accelerator


def train_vae(images: ImageSet, recipe: VaeRecipe, config: PretrainConfig, state: Path, key: str) -> Any:
    """An AutoencoderKL whose scaling factor gives latents of unit variance."""
    vae = new_vae(recipe, config.image_size, config.seed)
    train = images.select(list(images.names), held_out=False)

    def loss_at(step: int) -> torch.Tensor:
        chosen = train[rng.epoch_indices(config.seed, "vae/batch", step, recipe.batch_size, len(train))]
        pixels = next(images.batches(chosen, len(chosen))).float() / 127.5 - 1
        posterior = vae.encode(pixels).latent_dist
        draw = rng.normal(config.seed, "vae/latent", step, tuple(posterior.mean.shape))
        decoded = vae.decode(posterior.mean + posterior.std * draw).sample
        kl = posterior.kl().mean() / draw[0].numel()
        return (decoded - pixels).square().mean() + recipe.kl_weight * kl

    fit("vae", vae, loss_at, recipe.steps, recipe.lr, 1e-4, state, key, config.runtime.save_every)
    with torch.no_grad():
        means = torch.cat([vae.encode(p.float() / 127.5 - 1).latent_dist.mean for p in images.batches(train)])
    vae.register_to_config(scaling_factor=float(1 / means.std()))
    return vae


def train_dit(
    vae: Any, images: ImageSet, recipe: DitRecipe, config: PretrainConfig, exclude: list[int], state: Path, key: str
) -> Any:
    """A DiT on the VAE's latents, by the loop that unlearns, with a retain objective alone; returns its average."""
    classes = [label for label in images.names if label not in exclude]
    rows = images.select(classes, held_out=False)
    moments, good = encode_moments(vae, images, rows, weights_key(vae), flip=False)
    latent = moments.take(np.flatnonzero(good)[:1])[0]
    transformer = new_transformer(recipe, latent.shape[1], latent.shape[2], config.seed)
    accelerator = make_accelerator(config.runtime)
    transformer.to(accelerator.device)
    null = recipe.label_slots
    task = DiffusionTask(
        accelerator.prepare_model(transformer, evaluation_mode=True), Schedule(), classes, exclude, null
    )
    stream = LatentStream(
        moments, np.flatnonzero(good), images.labels[rows[good]], config.seed, "dit", recipe.batch_size, null,
        recipe.label_dropout,
    )  # fmt: skip
    plan = UnlearnConfig(
        rounds=0, finish=recipe.steps, label_dropout=recipe.label_dropout,
        retain=ObjectiveConfig(
            batch_size=recipe.batch_size, lr=recipe.lr, lr_schedule="cosine", warmup=recipe.warmup, clip=1.0
        ),
    )  # fmt: skip
    policy = Shared(transformer.parameters(), OptimizerConfig(policy="shared", retain=OptimizerSide(beta2=0.99)))
    method = Finetune(Finetune.Options("finetune"), task)
    runtime = config.runtime
    trainer = Trainer(
        accelerator, transformer, method, policy, {"retain": stream}, plan, state, key, None, runtime.save_every,
        recipe.ema, bad_steps=runtime.bad_steps, advice="a lower dit.lr",
    )  # fmt: skip
    with compiled(transformer, runtime.compile):
        trainer.run("dit")
    trainer.take_average()
    restore_forward(transformer)
    return transformer


def train_classifier(
    images: ImageSet, recipe: ClassifierRecipe, config: PretrainConfig, state: Path, key: str
) -> Classifier:
    """The classifier, trained on shifted, turned, scaled, dimmed and noised images."""
    classes = sorted(images.names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Classifier(len(classes), recipe.width, recipe.features)
    train = images.select(classes, held_out=False)
    answers = torch.from_numpy(np.searchsorted(classes, images.labels))

    def loss_at(step: int) -> torch.Tensor:
        chosen = train[rng.epoch_indices(config.seed, "classifier/batch", step, recipe.batch_size, len(train))]
        pixels = augment(next(images.batches(chosen, len(chosen))).float(), config.seed, step)
        return F.cross_entropy(network(pixels)[0], answers[torch.from_numpy(chosen)], label_smoothing=0.05)

    fit("classifier", network, loss_at, recipe.steps, recipe.lr, 0.05, state, key, config.runtime.save_every)
    return network


def augment(pixels: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Random affine maps, brightness and noise: float, n x 3 x H x W in 0..255, to the same."""
    n = len(pixels)
    draws = torch.from_numpy(rng.generator(seed, "classifier/augment", step).random((n, 7))).float() - 0.5
    angle, scale, shear = 0.5 * draws[:, 0], 1 + 0.3 * draws[:, 1], 0.3 * draws[:, 2]
    maps = torch.zeros(n, 2, 3)
    maps[:, 0, 0], maps[:, 0, 1] = scale * angle.cos(), shear - angle.sin()
    maps[:, 1, 0], maps[:, 1, 1] = angle.sin(), scale * angle.cos()
    maps[:, :, 2] = 0.25 * draws[:, 3:5]
    grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    bright, grain = 1 + 0.3 * draws[:, 5], 12 * (draws[:, 6] + 0.5)
    noise = rng.normal(seed, "classifier/noise", step, tuple(pixels.shape))
    return (moved * bright[:, None, None, None] + noise * grain[:, None, None, None]).clamp(0, 255)


def fit_instrument(network: Classifier, images: ImageSet, keep: float) -> tuple[Instrument, dict[str, float]]:
    """The classifier with its gate, and what they do on held-out images.

    ``gate_kept_crossed`` is what the gate keeps of one half of the held-out images when the other half sets it.
    """
    classes = sorted(images.names)
    train, test = (images.select(classes, held_out=side) for side in (False, True))
    with torch.no_grad():
        inside, outside = (
            torch.cat([network(pixels)[2] for pixels in images.batches(rows)]) for rows in (train, test)
        )  # fmt: skip
        logits = torch.cat([network(pixels)[0] for pixels in images.batches(test)])
    gate = Gate.fit(inside, outside, keep)
    crossed = [
        (half.distance(outside[1 - side :: 2]) <= half.threshold).float().mean().item()
        for side in (0, 1)
        for half in [Gate.fit(inside, outside[side::2], keep)]
    ]
    right = np.array(classes)[logits.argmax(1).numpy()] == images.labels[test]
    scores = {
        "classifier_accuracy": float(right.mean()),
        "gate_kept": (gate.distance(outside) <= gate.threshold).float().mean().item(),
        "gate_kept_crossed": float(np.mean(crossed)),
    }
    return Instrument(network, gate, classes, "Classifier", ""), scores


def pretrain(config: PretrainConfig, output: str | Path) -> dict[str, Any]:
    """Makes a pack in the folder ``output``; what its ``erase.json`` holds.

    Continues a stopped training; a finished pack of the same recipe is returned as it is. Raises UserError if the
    folder holds anything else.
    """
    output, asked = Path(output), config.data
    if config.data != "digits":  # the pack is used from other folders too
        config = dataclasses.replace(config, data=str(Path(config.data).resolve()))
    anywhere = dataclasses.replace(config, runtime=RuntimeConfig())
    recipe = as_mapping(anywhere)
    work = output.absolute().with_name(f".{output.absolute().name}.pretraining")
    processes.start(config.runtime.device)
    made = processes.on_main(lambda: pack_at(output, anywhere, work))
    if made is not None:
        return made
    check_recipe(config)
    check_writable(output.parent, "the folder")
    images = load_images(asked, config.image_size)
    excluded = [find_class(name, images.names) for name in config.exclude]
    check_data(config, images, excluded)
    with held(work, f"another process is making {output}; wait for it, or give another --output"):
        return make_pack(config, recipe, images, excluded, output, work)


def make_pack(
    config: PretrainConfig, recipe: dict[str, Any], images: ImageSet, excluded: list[int], output: Path, work: Path
) -> dict[str, Any]:
    """The training itself; the states in ``work`` are continued from."""
    if processes.on_main((output / "erase.json").is_file):  # by another run, a moment ago
        return dict(read_json(output / "erase.json"))
    beside = output.absolute().parent.glob(f".{output.absolute().name}.*")
    processes.on_main(lambda: sweep([*work.rglob(".*"), *beside]))
    key = digest(recipe, images.key)
    make_accelerator(config.runtime)
    vae, instrument, scores, kept = make_instruments(config, images, work, key)
    transformer = train_dit(vae, images, config.dit, config, excluded, work / "dit", key)
    about: dict[str, Any] = {
        "version": 1,
        "family": "digits",
        "classes": sorted(images.names),
        "excluded": excluded,
        "data": {
            "source": config.data,
            "key": images.key,
            "images": len(images),
            "held_out": int(images.held_out.sum()),
        },
        "protocol": as_mapping(config.sample),
        "provenance": {"made_by": f"erase {__version__}", "recipe": recipe, "scores": scores},
    }
    model = Model(transformer.cpu(), vae.cpu(), dict(images.names), about)
    scores |= score_samples(model, instrument, images, config, excluded, work / "samples")

    def write() -> None:
        with replacing_folder(output) as folder:
            write_pipeline(model, folder)
            save_instrument(instrument, folder / "classifier", kept)
            everything = instrument.read(images.batches(range(len(images)))).features
            write_reference(reference_of(everything, images.labels), folder)
            write_json(folder / "erase.json", about)
        shutil.rmtree(work, ignore_errors=True)

    processes.on_main(write)
    return about


def pack_at(output: Path, config: PretrainConfig, work: Path) -> dict[str, Any] | None:
    """What the finished pack of this recipe holds in its erase.json. Raises UserError if the folder is another's."""
    if (output / "erase.json").is_file():
        about = read_about(output) or {}
        with understood(output / "erase.json"):
            different = changes(about["provenance"]["recipe"], config)
        if different:
            raise UserError(f"{output} holds a pack of another recipe; it differs in {', '.join(different)}")
        shutil.rmtree(work, ignore_errors=True)
        return about
    if output.exists():
        raise UserError(f"{output} exists and is no pack; give another --output")
    return None


def make_instruments(
    config: PretrainConfig, images: ImageSet, work: Path, key: str
) -> tuple[Any, Instrument, dict[str, float], dict[str, float]]:
    """VAE, classifier and gate with their scores on held-out images: trained, or another pack's."""
    if config.instruments is not None:
        source = load_model(config.instruments)
        if source.vae is None or source.folder is None:
            raise UserError(f"{config.instruments} holds no VAE and classifier to take")
        vae, network = source.vae, load_instrument(source.folder / "classifier").network
        assert isinstance(network, Classifier)
    else:
        vae = train_vae(images, config.vae, config, work / "vae", key)
        network = train_classifier(images, config.classifier, config, work / "classifier", key)
    instrument, scores = fit_instrument(network, images, config.classifier.gate_keep)
    kept = {name: value for name, value in scores.items() if name.startswith("gate")}
    test = images.select(list(images.names), held_out=True)
    with torch.no_grad():
        errors = [
            (vae.decode(vae.encode(x).latent_dist.mean).sample - x).square().flatten(1).mean(1)
            for x in (pixels.float() / 127.5 - 1 for pixels in images.batches(test))
        ]
    scores["vae_mse"] = torch.cat(errors).mean().item()
    return vae, instrument, scores, kept


def score_samples(
    model: Model, instrument: Instrument, images: ImageSet, config: PretrainConfig, excluded: list[int], folder: Path
) -> dict[str, float]:
    """RA and FID of the new model's own samples, which are drawn into ``folder``, for the record."""
    classes = [label for label in model.classes if label not in excluded]
    processes.on_main(lambda: drop_stale_samples(folder, model.key()))
    sample_folder(model, folder, config.sample, classes, "sample", config.runtime.precision)
    reference = statistics(instrument.read(images.batches(images.select(classes))).features)
    reading = read_folder(instrument, folder, classes, config.sample.per_class)
    row = score_reading(reading, classes, [], config.sample.per_class, reference, 0)
    halves = images.select(classes)
    features = [instrument.read(images.batches(halves[side::2])).features for side in (0, 1)]
    return {
        "samples_right": row["ra"],
        "samples_fid": row["fid"],
        "real_halves_fid": distance(statistics(features[0]), statistics(features[1])),
    }
