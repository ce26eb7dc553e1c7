"""Published classifiers of ImageNet by name, from torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from .classifier import Network
from .errors import UserError
from .fetch import published_weights
from .files import digest, file_digests, read_tensors
from .untrusted import read_pickled, reason

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as torchvision trains
INSTEAD = "name it with score.classifier_weights=FILE; score.allow_missing=true runs without scores"
VERSION = 1  # of the preprocessing below


@dataclass(frozen=True)
class Known:
    """How a classifier is built, where its weights are, the child that gives its features and the layer that answers.

    Its children follow each other; so they are called here one by one, and no hook keeps what threads would share.
    """

    build: Callable[[], nn.Module]
    url: str
    layer: str
    head: str


KNOWN = {
    # the judge of SFRon's and DualOptim's code
    "resnet34": Known(
        torchvision.models.resnet34, "https://download.pytorch.org/models/resnet34-b627a593.pth", "avgpool", "fc"
    ),
    # of another family and generation, so that two verdicts are two opinions
    "convnext_tiny": Known(
        torchvision.models.convnext_tiny,
        "https://download.pytorch.org/models/convnext_tiny-983f1562.pth",
        "avgpool",
        "classifier.2",
    ),
}


class Published(Network):
    """A torchvision classifier. Images are resized straight to 224 x 224 (no crop), as the papers do.

    ``key`` changes with the weights. The gate sees the features at unit length: k-nearest-neighbour distances on the
    layer before the answer separate best so (Sun et al. 2022).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, known: Known, key: str) -> None:
        super().__init__()
        self.name, self.key, self.feature_layer = name, key, known.layer
        self.network = known.build()
        self.head: Any = self.network.get_submodule(known.head)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x, features = (resized(images) / 255 - self.mean) / self.std, torch.empty(0)
        for name, child in self.network.named_children():
            x = child(x.flatten(1) if isinstance(child, nn.Linear) else x)
            if name == self.feature_layer:
                features = x.flatten(1)
        return x, features, unit(features)

    @property
    def classes(self) -> int:
        return int(self.head.out_features)

    @torch.no_grad()
    def nearest(self, forget: Sequence[int], among: Sequence[int]) -> list[int]:
        """The other classes ``among`` these, nearest first by the cosine of the answer layer's rows; needs no image."""
        rows = self.head.weight.float()
        rows = unit(rows - rows.mean(0))
        close = (rows @ rows[list(forget)].T).amax(1)
        return sorted((c for c in among if c not in forget), key=lambda label: -float(close[label]))


def unit(features: torch.Tensor) -> torch.Tensor:
    return F.normalize(features, dim=1)


def resized(images: torch.Tensor) -> torch.Tensor:
    """uint8 n x 3 x H x W to whole numbers in float32, n x 3 x 224 x 224: bilinear with antialiasing, as PIL does."""
    if images.shape[2:] == (SIDE, SIDE):
        return images.float()
    small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255)


def weights_file(name: str, given: str | None, download: bool = True) -> Path:
    """Where the weights of a named classifier are. Raises UserError saying what to fetch and where to put it."""
    if given is None:
        return published_weights(KNOWN[name].url, f"the weights of the classifier {name}", INSTEAD, download)
    if not Path(given).is_file():
        raise UserError(f"no classifier weights at {given}; fetch {KNOWN[name].url} to there")
    return Path(given)


def load_published(name: str, weights: str | None = None) -> Published:
    """A classifier by name, with torchvision's weights or those of a file. Raises UserError if they do not fit."""
    path = weights_file(name, weights)
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn from the global generator
        network = Published(name, KNOWN[name], digest(name, VERSION, file_digests(path.parent, [path])))
    try:
        tensors = read_tensors(path) if path.suffix == ".safetensors" else read_pickled(path)
        network.network.load_state_dict(tensors)
    except Exception as error:  # ours, and torch's several kinds for tensors that do not fit
        raise UserError(f"{path} holds no weights of {name}: {reason(error)}") from None
    return network.eval().requires_grad_(False)
