"""Feature extractors by name: torch-fidelity's Inception, a pack's classifier, or one of torch-fidelity's registry."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .classifier import load_instrument
from .errors import NoModelError, UserError, nearest
from .fetch import published_weights
from .files import digest, file_digests
from .model import find_source
from .published import KNOWN, load_published
from .untrusted import read_pickled, reason

INCEPTION = "inception-v3-compat"
INSTEAD = "give it with --weights (in a run: score.extractor_weights=FILE)"


@dataclass(frozen=True)
class Extracted:
    """Of n images: ``features`` (n x d, float32), where the extractor also classifies ``logits`` (n x k), and where it
    has an image gate and was asked for it ``passed`` (n, bool)."""

    features: torch.Tensor
    logits: torch.Tensor | None = None
    passed: torch.Tensor | None = None


@dataclass(frozen=True)
class Extractor:
    """A loaded extractor on ``device``. Called with uint8 images n x 3 x H x W (0 to 255, RGB) of that device.

    ``key`` changes with its weights; ``classes`` are the ids its logits stand for. ``gate``: also ask the image gate,
    which costs more than the features.
    """

    name: str
    key: str
    layer: str
    device: torch.device
    forward: Callable[[torch.Tensor, bool], Extracted]
    classes: tuple[int, ...] = ()

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, gate: bool = False) -> Extracted:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected uint8 n x 3 x H x W, got {images.dtype} {tuple(images.shape)}")
        if self.device.type != "cuda":
            return self.forward(images, gate)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else features are rounded to 10 bits
            return self.forward(images, gate)


def find_extractor(name: str = INCEPTION, weights: str | None = None, device: str = "auto") -> Extractor:
    """An extractor by the name of torch-fidelity's registry, or a pack: a shipped one's name, its folder, a run folder.

    ``weights``: the file of Inception's weights, if not in torch's hub cache.
    Raises UserError for an unknown one, or weights that are missing.
    """
    place = pick_device(device)
    if name == INCEPTION:
        return _inception(weights, place)
    if name in KNOWN:
        return _published(name, weights, place)
    if weights is not None:
        raise UserError(f"--weights belongs to {INCEPTION}, {' and '.join(KNOWN)}; {name!r} brings its own")
    for folder in (Path(name) / "model", Path(name)):
        if (folder / "classifier").is_dir():
            return _pack(folder, place)
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    if name in FEATURE_EXTRACTORS_REGISTRY:
        return _registered(name, FEATURE_EXTRACTORS_REGISTRY[name], place)
    try:
        return _pack(find_source(name), place)
    except NoModelError:
        known = [INCEPTION, *KNOWN, "digits", *FEATURE_EXTRACTORS_REGISTRY]
        raise UserError(f"no extractor {name!r}{nearest(name, known)}; or give the folder of a pack or a run") from None


def pick_device(device: str) -> torch.device:
    """``auto`` is a GPU if there is one. Raises UserError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"no device {device!r}: {str(error).splitlines()[0]}") from None


def _pack(folder: Path, device: torch.device) -> Extractor:
    instrument = load_instrument(folder / "classifier")
    layout: Any = torch.channels_last if device.type == "cuda" else torch.contiguous_format  # the faster one
    network: Any = copy.deepcopy(instrument.network).to(device).to(memory_format=layout)
    gate = instrument.gate
    gate = type(gate)(gate.bank.to(device), gate.mean.to(device), gate.std.to(device), gate.threshold)

    def forward(images: torch.Tensor, ask: bool) -> Extracted:
        features, middle = network.layers(images.contiguous(memory_format=layout))
        passed = gate.distance(network.pooled(middle)) <= gate.threshold if ask else None
        return Extracted(features, network.head(features), passed)

    return Extractor(instrument.name, instrument.key, network.feature_layer, device, forward, tuple(instrument.classes))


def _published(name: str, weights: str | None, device: torch.device) -> Extractor:
    """A published classifier of ImageNet, without a gate: a run fits one on its own data."""
    network = load_published(name, weights).to(device)

    def forward(images: torch.Tensor, _: bool) -> Extracted:
        logits, features = network(images)[:2]
        return Extracted(features, logits)

    return Extractor(name, network.key, network.feature_layer, device, forward, tuple(range(network.classes)))


def _registered(name: str, cls: Any, device: torch.device) -> Extractor:
    if cls.__module__.startswith("torch_fidelity"):
        raise UserError(f"{name} loads its weights by unpickling them; use {INCEPTION} or register one of your own")
    layer = cls.get_default_feature_layer_for_metric("fid")
    network: Any = cls(name, [layer]).requires_grad_(False).eval().to(device)
    parts = [[key, value.cpu().numpy().tobytes()] for key, value in network.state_dict().items()]
    key = digest(name, layer, f"{cls.__module__}.{cls.__qualname__}", *(part for pair in parts for part in pair))
    return Extractor(name, key, layer, device, lambda images, _: Extracted(network(images)[0].float()))


def _inception(weights: str | None, device: torch.device) -> Extractor:
    path = Path(weights) if weights else fetched_weights()
    if not path.is_file():
        raise UserError(f"no Inception weights at {path}")
    return load_inception(path, device)


def fetched_weights(download: bool = True) -> Path:
    """The Inception weights in torch's hub cache, fetched if absent. Raises UserError saying where to put them."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return published_weights(URL_INCEPTION_V3, "the Inception weights", INSTEAD, download)


def load_inception(path: Path | None, device: torch.device) -> Extractor:
    """Inception v3 with the weights of ``path``, or with random ones for measuring its speed."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Inception(FeatureExtractorInceptionV3):
        """Built without torch-fidelity's own loading, which unpickles."""

        def load_state_dict(self, state: Any, *rest: Any, **options: Any) -> Any:
            return super().load_state_dict(state, *rest, **options) if state else None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.random.fork_rng(devices=[]):
        network = Inception(INCEPTION, ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)
    key = "random"
    if path is not None:
        try:
            network.load_state_dict(read_pickled(path))
        except Exception as error:  # ours, and torch's several kinds for tensors that do not fit
            raise UserError(f"{path} holds no Inception weights: {reason(error)}") from None
        key = file_digests(path.parent, [path])[0]
    network = network.to(device)

    def forward(images: torch.Tensor, ask: bool) -> Extracted:
        features, logits = network(images)
        return Extracted(features, logits)

    return Extractor(INCEPTION, key, "2048", device, forward, tuple(range(1008)))
