"""The instruments of a pack: a small classifier with a named feature layer, and the image gate beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .errors import UserError
from .files import digest, read_tensors, write_json, write_tensors
from .packs import read_classifier
from .untrusted import reason

NEIGHBOURS = 3
GATE_POOL = 2
GROUPS = 8
EXACT = "donot_use_mm_for_euclid_dist"  # the other algorithm depends on the batch size


class Network(nn.Module):
    """A classifier of RGB uint8 images, n x 3 x H x W (0..255): logits (n x classes), the layer ``feature_layer``
    (n x d), and what the image gate measures distances in (n x e)."""

    feature_layer: str

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        result: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = super().__call__(images)
        return result


class Pool(nn.AdaptiveAvgPool2d):
    """Of a map that has the wanted size already, its mean over single pixels is itself, and takes a tenth of the time
    of the whole network."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        side = self.output_size
        return values if values.shape[-2:] == (side, side) else super().forward(values)


class Classifier(Network):
    """A small convolutional network over RGB uint8 images.

    ``forward`` maps n x 3 x H x W uint8 (0..255) to logits (n x classes), the layer ``features`` (n x features) and the
    layer ``middle`` pooled to 2 x 2 (n x 8 width), in which the gate measures distances: the top layer maps many
    textures onto digits, the middle one does not.
    """

    feature_layer = "features"

    def __init__(self, classes: int, width: int = 32, features: int = 64) -> None:
        super().__init__()
        self.settings = {"classes": classes, "width": width, "features": features}
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.GroupNorm(GROUPS, width), nn.SiLU())
        self.middle = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.GroupNorm(GROUPS, 2 * width), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.GroupNorm(GROUPS, 2 * width), nn.SiLU(),
        )  # fmt: skip
        self.top = nn.Sequential(
            nn.Conv2d(2 * width, 3 * width, 3, 2, 1), nn.GroupNorm(GROUPS, 3 * width), nn.SiLU(),
            Pool(4), nn.Flatten(),
        )  # fmt: skip
        self.features = nn.Sequential(nn.Linear(48 * width, features), nn.SiLU())
        self.head = nn.Linear(features, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features, middle = self.layers(images)
        return self.head(features), features, self.pooled(middle)

    def layers(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer ``features``, and the whole layer ``middle`` (n x 2 width x H/4 x W/4)."""
        middle = self.middle(self.stem(images.float() / 127.5 - 1.0))
        return self.features(self.top(middle)), middle

    def pooled(self, middle: torch.Tensor) -> torch.Tensor:
        """What the gate measures distances in."""
        return F.adaptive_avg_pool2d(middle, GATE_POOL).flatten(1)


@dataclass(frozen=True)
class Gate:
    """Tells images of the data from anything else by the mean distance to the nearest real training images.

    ``bank``: m x d features of training images, standardised by ``mean`` and ``std``; an image passes if the mean of
    its 3 smallest distances is at most ``threshold``, which keeps a stated share of held-out real images
    (k-nearest-neighbour outlier detection in feature space, Sun et al. 2022).
    """

    bank: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    threshold: float

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        standardised = (features.float() - self.mean) / self.std
        return (
            torch.cdist(standardised, self.bank.float(), compute_mode=EXACT)
            .topk(NEIGHBOURS, largest=False)
            .values.mean(1)
        )

    def to(self, device: torch.device) -> Gate:
        return Gate(self.bank.to(device), self.mean.to(device), self.std.to(device), self.threshold)

    @staticmethod
    def fit(train: torch.Tensor, held_out: torch.Tensor, keep: float) -> Gate:
        """The gate over ``train`` features (m x d) that keeps the share ``keep`` of ``held_out`` ones."""
        mean, std = train.mean(0), train.std(0) + 1e-3
        gate = Gate(((train - mean) / std).half(), mean, std, 0.0)
        threshold = torch.quantile(gate.distance(held_out), keep, interpolation="higher").item()
        return Gate(gate.bank, mean, std, threshold)


@dataclass(frozen=True)
class Reading:
    """Of n images: class ids answered (int64), gate verdicts (bool) and features (float32, n x d)."""

    answered: np.ndarray
    passed: np.ndarray
    features: np.ndarray


def exact(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A context without the coarser rounding that a GPU's convolutions have by default."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    flags: contextlib.AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


class Instrument:
    """A loaded classifier with its gate. ``name`` tells it apart in results, ``key`` changes with its content."""

    def __init__(self, network: Network, gate: Gate, classes: list[int], name: str, key: str) -> None:
        self.network, self.gate, self.classes, self.name, self.key = network.eval(), gate, classes, name, key

    @torch.no_grad()
    def read(self, batches: Iterable[torch.Tensor]) -> Reading:
        """Reads batches of uint8 images, n x 3 x H x W."""
        answered, passed, features = [], [], []
        ids = torch.tensor(self.classes)
        device = next(self.network.parameters()).device
        gate = self.gate.to(device)
        for images in batches:
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
                raise ValueError(f"expected uint8 n x 3 x H x W, got {images.dtype} {tuple(images.shape)}")
            with exact(device):
                logits, feature, middle = self.network(images.to(device))
            answered.append(ids[logits.argmax(1).cpu()].numpy())
            passed.append((gate.distance(middle) <= gate.threshold).cpu().numpy())
            features.append(feature.cpu().numpy())
        return Reading(np.concatenate(answered), np.concatenate(passed), np.concatenate(features))


def save_instrument(instrument: Instrument, folder: Path, kept: dict[str, float]) -> None:
    """classifier/: weights, gate, and a config that names the feature layer and what the gate keeps."""
    gate, network = instrument.gate, instrument.network
    assert isinstance(network, Classifier)
    write_tensors(folder / "model.safetensors", dict(network.state_dict()))
    write_tensors(folder / "gate.safetensors", {"bank": gate.bank, "mean": gate.mean, "std": gate.std})
    about: dict[str, Any] = {
        "architecture": "Classifier",
        "settings": network.settings,
        "classes": instrument.classes,
        "feature_layer": network.feature_layer,
        "gate": {"layer": "middle", "pool": GATE_POOL, "neighbours": NEIGHBOURS, "threshold": gate.threshold, **kept},
    }
    write_json(folder / "config.json", about)


def load_instrument(folder: Path) -> Instrument:
    """The classifier of a pack. Raises UserError if it is missing or damaged."""
    if not (folder / "config.json").is_file():
        raise UserError(f"no classifier at {folder}; score.allow_missing=true runs without scores")
    about = read_classifier(folder)
    with torch.random.fork_rng(devices=[]):  # first weights, to be overwritten, come from the global generator
        network = Classifier(**about["settings"])
    tensors = read_tensors(folder / "gate.safetensors")
    try:
        network.load_state_dict(read_tensors(folder / "model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"{folder} does not fit its config: {reason(error)}") from None
    gate = Gate(*_gate(folder, tensors, 8 * network.settings["width"]), float(about["gate"]["threshold"]))
    key = digest(*(folder / name for name in ("config.json", "model.safetensors", "gate.safetensors")))
    return Instrument(network, gate, list(about["classes"]), f"Classifier-{key[:8]}", key)


def _gate(
    folder: Path, tensors: dict[str, torch.Tensor], width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    found = [tensors.get(name, torch.empty(0)) for name in ("bank", "mean", "std")]
    bank, shapes = found[0], [tuple(x.shape) for x in found]
    if not all(x.is_floating_point() for x in found) or shapes != [(len(bank), width), (width,), (width,)]:
        raise UserError(f"{folder / 'gate.safetensors'} holds no gate of {width} features")
    if len(bank) < NEIGHBOURS:
        raise UserError(f"{folder / 'gate.safetensors'} holds {len(bank)} images; at least {NEIGHBOURS} are needed")
    return found[0], found[1], found[2]
