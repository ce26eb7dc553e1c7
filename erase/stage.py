"""What the end of a run needs, found and checked before its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .classifier import Instrument, load_instrument
from .compiled import check_compile
from .config import ResolvedConfig
from .data.classes import folder_ids
from .data.images import ImageSet, load_images
from .data.split import balanced
from .errors import UserError
from .extractors import Extractor, find_extractor
from .files import digest
from .gates import gate_rows, published_features, row_features, with_gate
from .imagenet import is_imagenet
from .labels import find_forget
from .model import Model
from .published import Published, load_published
from .quota import image_counts
from .sampling import check_sampler
from .scoring import nearest_classes, real_features
from .trainer import check_runtime


@dataclass(frozen=True)
class Stage:
    """The data, the classifier, and how many images of each class are drawn.

    ``instrument`` is None where there is none, and before :func:`raise_gate` where the classifier is a
    ``published`` one. ``gate_rows``, ``reference_rows``: the real images that its gate is fitted on, and that the
    retained classes are compared with. ``extractor``: where the Frechet distance is not on the classifier's features;
    ``distance``: whether there is one at all. ``why``: what is missing, if it may be.
    """

    images: ImageSet
    counts: dict[int, int]
    reference_rows: np.ndarray
    instrument: Instrument | None = None
    why: str = ""
    published: Published | None = None
    gate_rows: np.ndarray | None = None
    extractor: Extractor | None = None
    whole: bool = True
    distance: bool = True

    def real_features(self) -> np.ndarray:
        """Features of the reference images, n x d."""
        rows, extractor = self.reference_rows, self.extractor
        if extractor is not None:
            found = row_features(
                lambda x: extract(extractor, x), f"{extractor.key}/{extractor.layer}", self.images, rows
            )
        elif self.published is not None:
            found = published_features(self.published, self.images, rows)
        if extractor is not None or self.published is not None:
            features, good = found
            return features[good].numpy()
        assert self.instrument is not None
        return real_features(self.instrument, self.images)[self.reference_rows]

    def reference_key(self) -> str:
        """Changes with any pixel of the images that the retained classes are compared with."""
        if self.whole:
            return self.images.key
        return f"images-{digest(self.images.digests(self.reference_rows), self.images.size)}"

    def nearest(self, forget: Sequence[int]) -> list[int]:
        """The other classes, nearest first; none without a classifier."""
        if self.published is not None:
            return self.published.nearest(forget, list(self.counts))
        if self.instrument is None:
            return []
        return nearest_classes(real_features(self.instrument, self.images), self.images.labels, forget)


def extract(extractor: Extractor, pixels: torch.Tensor) -> torch.Tensor:
    return extractor(pixels.to(extractor.device)).features


def preflight(config: ResolvedConfig, model: Model) -> Stage:
    """Checks everything a run will need at its end. Raises UserError for what is missing."""
    check_runtime(config.runtime)
    cpu = config.runtime.device == "cpu" or not torch.cuda.is_available()
    check_sampler(model, config.sample.sampler)
    check_compile(config.runtime.compile, "cpu" if cpu else "cuda", getattr(config.method, "order", 1))
    stage = data_stage(config, model)
    return with_instruments(stage, config, model)


def data_stage(config: ResolvedConfig, model: Model) -> Stage:
    """The data alone, and which of its images the retained classes are compared with."""
    source = data_source(config, model)
    images = load_images(source, model.image_size, folder_ids(Path(source), model.labels, model.num_classes))
    if config.data.flip and images.arrays is not None:
        raise UserError("data.flip mirrors images, and a mirrored digit is no digit; leave it false")
    check_classes(config, model, images)
    forget = find_forget(config.forget, model.labels)
    counts = image_counts(config.sample, model.labels, forget, np.unique(images.labels).tolist())
    rows = images.select([label for label in counts if label not in forget])
    if config.score.reference_images is not None:
        rows = rows[balanced(images.labels[rows], config.score.reference_images)]
    return Stage(images, counts, rows)


def with_instruments(stage: Stage, config: ResolvedConfig, model: Model) -> Stage:
    """The stage with classifier and extractor, as far as they are there if the config allows one to be missing.

    Raises UserError, naming both files where both are missing, if it does not.
    """
    faults: list[str] = []
    forget = find_forget(config.forget, model.labels)
    for find in (
        partial(_with_classifier, config=config, model=model, forget=forget),
        partial(_with_extractor, config=config),
    ):
        try:
            stage = find(stage)
        except UserError as error:
            faults.append(str(error))
    why = "; ".join(faults)
    if why and not config.score.allow_missing:
        raise UserError(why)
    return replace(stage, why=why, distance=config.score.extractor is None or stage.extractor is not None)


def _with_classifier(stage: Stage, config: ResolvedConfig, model: Model, forget: list[int]) -> Stage:
    name, own = classifier_name(config, model.labels, model.folder), model.folder
    if name == "pack":
        if own is None:
            raise UserError("the model has no folder to take its classifier from; score.allow_missing=true scores none")
        whole = config.score.reference_images is None
        return replace(stage, instrument=load_instrument(own / "classifier"), whole=whole)
    if not is_imagenet(model.labels):
        raise UserError(f"score.classifier={name} knows ImageNet's classes, and the model draws others")
    if len(stage.reference_rows) < 2:
        raise UserError("the data holds fewer than two images of the retained classes that are drawn; nothing to score")
    network = load_published(name, config.score.classifier_weights)
    if max(model.labels) >= network.classes:
        raise UserError(f"{name} answers with {network.classes} classes, and the model draws class {max(model.labels)}")
    present = np.unique(stage.images.labels).tolist()
    rows = gate_rows(stage.images, forget, network.nearest(forget, present), config.score.gate_images)
    return replace(stage, published=network, gate_rows=rows, whole=False)


def _with_extractor(stage: Stage, config: ResolvedConfig) -> Stage:
    if config.score.extractor is None:
        return stage
    extractor = find_extractor(config.score.extractor, config.score.extractor_weights, config.runtime.device)
    return replace(stage, extractor=extractor, whole=False)


def classifier_name(config: ResolvedConfig, labels: Mapping[int, str], folder: Path | None) -> str:
    """The config's classifier, else the model's own, else ResNet-34 for ImageNet's classes."""
    if config.score.classifier is not None:
        return config.score.classifier
    own = folder is not None and (folder / "classifier").is_dir()
    return "resnet34" if is_imagenet(labels) and not own else "pack"


def raise_gate(stage: Stage, device: torch.device) -> Stage:
    """The stage with a published classifier on ``device`` and its gate fitted."""
    if stage.published is None or stage.gate_rows is None:
        return stage
    return replace(stage, instrument=with_gate(stage.published.to(device), stage.images, stage.gate_rows))


def data_source(config: ResolvedConfig, model: Model) -> str:
    """The config's data, else the pack's own."""
    source = config.data.source or (model.pack or {}).get("data", {}).get("source")
    if not source:
        raise UserError("no data; give --data digits or --data DIR with one sub-folder a class")
    return str(source)


def check_classes(config: ResolvedConfig, model: Model, images: ImageSet) -> None:
    """Raises UserError for a class without images. Of ImageNet's, only the forgotten and one more must have some."""
    present = set(images.labels[~images.held_out].tolist())
    forget = find_forget(config.forget, model.labels)
    for label in forget if is_imagenet(model.labels) else model.classes:
        if label not in present:
            raise UserError(f"the data holds no image of class {label} ({model.labels[label]})")
    if not present - set(forget):
        raise UserError("the data holds images of the forgotten classes alone; at least one other is needed")
