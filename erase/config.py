"""What a run is: typed, frozen sections with a range and a sentence for every field, built from plain mappings.

YAML presets, ``key=value`` words of the command line and the Python API all end in :func:`build`, which reports every
wrong field at once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from .errors import UserError, nearest

Section = Mapping[str, Any]
SHORT = {"model": "source", "data": "source", "method": "name", "optimizer": "policy", "sample": "protocol"}
# the key that a section's plain value stands for
PROTOCOLS: dict[str, dict[str, Any]] = {
    "fast": {"sampler": "dpm++", "steps": 25, "guidance_scale": 1.5},
    "paper": {"sampler": "ancestral", "steps": 250, "guidance_scale": 1.5},  # of DiT and of what builds on it
}
CLASSIFIERS = ("pack", "resnet34", "convnext_tiny")


def setting(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A config field: its default, what it means, and the values it may take (inclusive, or strictly above)."""
    limits = {"text": text, "low": low, "high": high, "above": above, "choices": choices}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=limits)
    return dataclasses.field(default=default, metadata=limits)


@dataclass(frozen=True)
class ModelConfig:
    source: str = setting("digits", "shipped pack, pack folder, diffusers folder, hub id or original .pt")
    vae: str | None = setting(None, "folder or hub id of the VAE, where the source holds none")
    num_heads: int | None = setting(
        None, "attention heads of an original .pt checkpoint whose width is none of S, B, L, XL", low=1
    )


@dataclass(frozen=True)
class DataConfig:
    source: str | None = setting(None, "digits, or a folder with one sub-folder a class; default: the pack's own data")
    flip: bool = setting(False, "also use mirrored images; never for digits")
    retain_images: int | None = setting(
        None, "retain images to use, as many of each class as can be; default: all", low=1
    )


@dataclass(frozen=True)
class OptimizerSide:
    kind: str = setting("adamw", "update rule", choices=("adamw", "adam", "sgd"))
    beta1: float = setting(0.9, "decay of the first moment; momentum of sgd", low=0.0, high=0.9999999)
    beta2: float = setting(0.999, "decay of the second moment", low=0.0, high=0.9999999)
    eps: float = setting(1e-8, "added to the root of the second moment", above=0.0)
    weight_decay: float = setting(0.0, "weight decay", low=0.0)


@dataclass(frozen=True)
class BaseMoments:
    beta1: float = setting(0.9, "decay of the common first moment", low=0.0, high=1.0)
    beta2: float = setting(0.999, "decay of the common second moment", low=0.0, high=1.0)


@dataclass(frozen=True)
class OptimizerConfig:
    policy: str = setting(
        "dual",
        "shared: one state for both objectives; dual: a state of its own for each; dual_plus: a common base and a "
        "delta for each",
    )
    forget: OptimizerSide = setting(OptimizerSide, "the forget objective's optimizer (unused under shared)")
    retain: OptimizerSide = setting(OptimizerSide, "the retain objective's optimizer (under shared: of both)")
    base: BaseMoments = setting(BaseMoments, "dual_plus: the moments that both objectives feed")


@dataclass(frozen=True)
class ObjectiveConfig:
    steps: int = setting(1, "steps a round", low=0)
    batch_size: int = setting(64, "images a step", low=1)
    lr: float = setting(1e-4, "learning rate", low=0.0)
    lr_schedule: str = setting("constant", "of the learning rate over the rounds", choices=("constant", "cosine"))
    warmup: int = setting(0, "rounds over which the learning rate rises to its value", low=0)
    weight: float = setting(1.0, "factor of the loss (without effect on an Adam state of its own)", low=0.0)
    weight_schedule: str = setting("constant", "of the weight over the rounds", choices=("constant", "cosine"))
    clip: float | None = setting(None, "largest norm of the gradient, after the mask", above=0.0)


@dataclass(frozen=True)
class UnlearnConfig:
    update: str | None = setting(
        None,
        "alternating: forget steps, then retain steps; joint: one step with both gradients taken at the same weights "
        "(under shared their weighted sum, with the forget side's learning rate and clip); default: the method's",
        choices=("alternating", "joint"),
    )
    rounds: int = setting(100, "rounds of forget steps followed by retain steps", low=0)
    finish: int = setting(0, "rounds of retain steps alone, after the others", low=0)
    average: float | None = setting(
        None, "keep a running average of the weights with this decay, and end with it", low=0.0, high=0.9999999
    )
    label_dropout: float = setting(0.1, "share of retain labels replaced by null; forget labels never are", 0.0, 1.0)
    forget: ObjectiveConfig = setting(ObjectiveConfig, "the forget objective")
    retain: ObjectiveConfig = setting(ObjectiveConfig, "the retain objective")


@dataclass(frozen=True)
class SampleConfig:
    """In presets and on the command line also ``protocol``, a name that stands for a sampler, steps and guidance: see
    :func:`with_protocol`."""

    seed: int = setting(0, "seed of the images, apart from the seed of unlearning", low=0)
    per_class: int = setting(100, "images a class", low=2)
    retain_total: int | None = setting(
        None, "images of all retained classes together, as many of each as can be; default: per_class of each", low=2
    )
    retain_classes: tuple[str, ...] | None = setting(
        None, "the retained classes to draw; default: all, of ImageNet's those that the data has images of"
    )
    steps: int = setting(20, "sampler steps", low=1, high=1000)
    guidance_scale: float = setting(1.5, "classifier-free guidance; 1 is none", low=0.0)
    guidance_channels: str = setting(
        "all", "latent channels that guidance acts on: all, or 3 as in the original DiT's code", choices=("all", "3")
    )
    sampler: str = setting("dpm++", "sampler", choices=("dpm++", "ddim", "ancestral"))
    block: int = setting(100, "images made together; fixed blocks make files independent of the processes", low=1)


@dataclass(frozen=True)
class ScoreConfig:
    allow_missing: bool = setting(False, "turn a missing classifier, extractor or reference into a null, not an error")
    bootstrap: int = setting(100, "resamples for the interval of a Frechet distance; 0 for none", low=0)
    classifier: str | None = setting(
        None,
        "pack: the model's own; resnet34, convnext_tiny: torchvision's, of ImageNet; default: the model's own, else "
        "resnet34 for ImageNet's classes",
        choices=CLASSIFIERS,
    )
    classifier_weights: str | None = setting(
        None, "file of a named classifier's weights (.pth, .safetensors); default: torchvision's, in torch's hub cache"
    )
    extractor: str | None = setting(
        None,
        "whose features the Frechet distance is on: inception-v3-compat (the papers'), or any of erase fid; default: "
        "the classifier's",
    )
    extractor_weights: str | None = setting(None, "file of the extractor's weights; default: in torch's hub cache")
    gate_images: int = setting(
        10000,
        "real images of all classes, as many of each as can be, on which a named classifier's image gate is fitted; "
        "the forgotten and the nearest classes add theirs",
        low=8,
    )
    reference_images: int | None = setting(
        None, "real images of the retained classes to compare with, as many of each as can be; default: all", low=2
    )


@dataclass(frozen=True)
class RuntimeConfig:
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    precision: str = setting(
        "auto", "auto is bf16 autocast on a GPU and fp32 elsewhere", choices=("auto", "fp32", "bf16")
    )
    micro_batch: int | None = setting(
        None, "samples that go through the model at once; a step's gradient is added up over them", low=1
    )
    checkpointing: bool = setting(False, "recompute each block in the backward pass: less memory, a third more time")
    compile: bool = setting(False, "compile the transformer for training and sampling: faster after a warm-up")
    threads: int | None = setting(None, "CPU threads; default: torch's own choice", low=1)
    deterministic: bool = setting(False, "bit-exact arithmetic on a GPU too, slower")
    save_every: int = setting(500, "steps between saved states", low=1)
    bad_steps: int = setting(0, "steps to skip whose loss or gradient is not finite, before the run stops", low=0)
    snapshot_every: int | None = setting(None, "steps between a few images drawn on the way (snapshots/)", low=1)
    keep_state: bool = setting(False, "keep state/ when the run is complete")
    tracker: str | None = setting(None, "also log to this", choices=("tensorboard", "wandb"))


@dataclass(frozen=True)
class RunConfig:
    """What ``erase run`` is asked to do. Sections are mappings over the preset's values; see ``configs/``.

    ``forget``: classes by index or name. ``model``, ``data``: a source, or the section as a mapping. ``method``,
    ``optimizer``, ``sample``: a name, or the section. ``preset`` defaults to ``<model family>/<method>-<policy>``;
    ``config`` is a YAML file of one's own in its place. ``output`` defaults to
    ``runs/<model>-<classes>-<method>-<policy>-s<seed>``.
    """

    forget: Sequence[str | int]
    model: str | Section | None = None
    data: str | Section | None = None
    preset: str | None = None
    config: str | None = None
    method: str | Section | None = None
    optimizer: str | Section | None = None
    seed: int | None = None
    output: str | None = None
    unlearn: Section | None = None
    sample: str | Section | None = None
    score: Section | None = None
    runtime: Section | None = None


@dataclass(frozen=True)
class ResolvedConfig:
    """A run with every value filled in; ``method`` is the chosen method's own options."""

    forget: tuple[str, ...]
    seed: int = dataclasses.field(metadata={"text": "seed of unlearning", "low": 0})
    model: ModelConfig
    data: DataConfig
    method: Any
    optimizer: OptimizerConfig
    unlearn: UnlearnConfig
    sample: SampleConfig
    score: ScoreConfig
    runtime: RuntimeConfig


@dataclass(frozen=True)
class VaeRecipe:
    channels: tuple[int, ...] = setting((16, 32, 48), "channels of the levels; each after the first halves the image")
    layers: int = setting(1, "residual blocks a level", low=1)
    latent_channels: int = setting(4, "latent channels", low=1)
    groups: int = setting(8, "groups of the group norms", low=1)
    steps: int = setting(2500, "training steps", low=1)
    batch_size: int = setting(64, "images a step", low=1)
    lr: float = setting(2e-3, "peak learning rate, cosine decay", above=0.0)
    kl_weight: float = setting(1e-4, "weight of the KL term beside the mean squared error", low=0.0)


@dataclass(frozen=True)
class DitRecipe:
    layers: int = setting(6, "transformer blocks", low=1)
    width: int = setting(128, "hidden width", low=8)
    heads: int = setting(4, "attention heads", low=1)
    patch: int = setting(2, "patch size", low=1)
    label_slots: int = setting(1000, "label slots; DiTPipeline fixes the null class at 1000", low=1)
    steps: int = setting(10000, "training steps", low=1)
    batch_size: int = setting(64, "images a step", low=1)
    lr: float = setting(2e-3, "peak learning rate, cosine decay", above=0.0)
    warmup: int = setting(200, "steps over which the learning rate rises", low=0)
    label_dropout: float = setting(0.1, "share of labels replaced by null", low=0.0, high=1.0)
    ema: float = setting(0.999, "decay of the averaged weights, which are the ones saved", low=0.0, high=0.9999999)


@dataclass(frozen=True)
class ClassifierRecipe:
    width: int = setting(32, "channels of the first level", low=1)
    features: int = setting(64, "width of the feature layer", low=2)
    steps: int = setting(1500, "training steps", low=1)
    batch_size: int = setting(128, "images a step", low=1)
    lr: float = setting(2e-3, "peak learning rate, cosine decay", above=0.0)
    gate_keep: float = setting(0.995, "share of the held-out real images that the image gate keeps", low=0.5, high=1.0)


@dataclass(frozen=True)
class PretrainConfig:
    """What ``erase pretrain`` is asked to do: the recipes of VAE, DiT and classifier, in this order."""

    data: str = setting("digits", "digits, or a folder with one sub-folder a class")
    exclude: tuple[str, ...] = setting((), "classes the DiT never sees; VAE and classifier, the instruments, see all")
    instruments: str | None = setting(None, "take VAE and classifier from this pack instead of training them")
    image_size: int = setting(32, "pixels a side", low=8)
    seed: int = setting(0, "seed of all training", low=0)
    vae: VaeRecipe = setting(VaeRecipe, "the autoencoder")
    dit: DitRecipe = setting(DitRecipe, "the diffusion transformer")
    classifier: ClassifierRecipe = setting(ClassifierRecipe, "the classifier, its features and the image gate")
    sample: SampleConfig = setting(SampleConfig, "the sampling protocol recorded in the pack")
    runtime: RuntimeConfig = setting(RuntimeConfig, "device and the like")


def build(cls: type, values: Section, path: str = "", types_of: Mapping[str, type] | None = None) -> Any:
    """``cls`` from a mapping. Raises UserError naming every unknown key, wrong type and value out of range."""
    faults: list[str] = []
    result = _build(cls, values, path, types_of or {}, faults)
    if faults:
        raise UserError("config: " + "; ".join(faults))
    return result


def _build(cls: type, values: Any, path: str, types_of: Mapping[str, type], faults: list[str]) -> Any:
    if not isinstance(values, Mapping):
        faults.append(f"{path or 'the config'} must be a section, not {values!r}")
        return None
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            close = nearest(_join(path, name), [_join(path, key) for key in known])
            faults.append(f"unknown key {_join(path, name)!r}{close}")
    made: dict[str, Any] = {}
    for name, field in known.items():
        if name not in values:
            continue
        kind = types_of.get(name, hints[name])
        if dataclasses.is_dataclass(kind):
            made[name] = _build(typing.cast(type, kind), values[name], _join(path, name), {}, faults)
        else:
            made[name] = _value(values[name], kind, field.metadata, _join(path, name), faults)
    return None if faults else cls(**made)


def _value(value: Any, kind: Any, limits: Mapping[str, Any], path: str, faults: list[str]) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if typing.get_origin(kind) is tuple:
        items = [value] if isinstance(value, str | int | float) else value
        if not isinstance(items, Sequence):
            faults.append(f"{path} must be a list, not {value!r}")
            return None
        inner = typing.get_args(kind)[0]
        if dataclasses.is_dataclass(inner):
            return tuple(_build(inner, item, f"{path}[{i}]", {}, faults) for i, item in enumerate(items))  # type: ignore[arg-type]
        return tuple(_value(item, inner, limits, path, faults) for item in items)
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            faults.append(f"{path} must be a section, not {value!r}")
        return value
    if kind is Any:
        return value
    converted = _convert(value, kind)
    if converted is None:
        faults.append(f"{path} must be {_KINDS[kind]}, not {value!r}")
        return None
    low, high, above, choices = (limits.get(key) for key in ("low", "high", "above", "choices"))
    if choices and converted not in choices:
        faults.append(f"{path} must be one of {', '.join(choices)}, not {value!r}{nearest(converted, choices, 1)}")
    elif (low is not None and converted < low) or (high is not None and converted > high):
        upper = "" if high is None else f" and at most {high:g}"
        faults.append(f"{path} must be at least {low:g}{upper}, not {value!r}")
    elif above is not None and converted <= above:
        faults.append(f"{path} must be above {above:g}, not {value!r}")
    return converted


_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _convert(value: Any, kind: type) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind is str:
        return str(value) if isinstance(value, str | int | float) else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if number != number or abs(number) == float("inf"):
        return None
    if kind is int:
        if number != int(number):
            return None
        try:
            return int(value)
        except ValueError:  # text such as 1e3
            return int(number)
    return number


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def as_mapping(config: Any) -> dict[str, Any]:
    """A config as plain nested dicts and lists, ready for YAML or JSON."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_mapping(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def changed(config: Any) -> dict[str, Any]:
    """As :func:`as_mapping`, but only what differs from its field's default."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            below = changed(value)
            found |= {field.name: below} if below else {}
        elif field.default is dataclasses.MISSING or value != field.default:
            found[field.name] = _plain(value)
    return found


def changes(written: Section, config: Any) -> list[str]:
    """The dotted keys in which a written-out config differs from this one; a key it lacks had the default then."""
    new, own = as_mapping(config), changed(config)
    return [key for key in differences(written, new) if _has(written, key) or _has(own, key)]


def _has(section: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(section, Mapping) or part not in section:
            return False
        section = section[part]
    return True


def merge(base: Section, over: Section) -> dict[str, Any]:
    """``over`` laid on ``base``, section by section."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merge(below, value)
        result[key] = value
    return result


def with_protocol(sample: Section) -> dict[str, Any]:
    """A ``sample`` section with its ``protocol``, if it names one, written out; values beside the name win.

    Raises UserError for an unknown name.
    """
    values = dict(sample)
    name = values.pop("protocol", None)
    if name is None:
        return values
    if name not in PROTOCOLS:
        raise UserError(f"unknown sample.protocol {name!r}{nearest(str(name), PROTOCOLS)}")
    return {**PROTOCOLS[name], **values}


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """``["unlearn.forget.lr=1e-4"]`` as a nested mapping; the right side is YAML."""
    result: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key.strip():
            raise UserError(f"{word!r} is no setting; write key=value, for example unlearn.forget.lr=1e-4")
        try:
            nested: Any = yaml.safe_load(text) if text else None
        except yaml.YAMLError:
            raise UserError(f"the value of {word!r} is not valid YAML; put text with : or # in quotes") from None
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        for name in nested.keys() & result.keys() & SHORT.keys():
            pair = nested[name], result[name]
            if len({isinstance(value, Mapping) for value in pair}) == 2:  # method=sfron method.gamma=2, in any order
                nested[name], result[name] = (v if isinstance(v, Mapping) else {SHORT[name]: v} for v in pair)
        result = merge(result, nested)
    return result


def differences(first: Section, second: Section, path: str = "") -> list[str]:
    """The dotted keys in which two nested mappings differ."""
    found: list[str] = []
    for key in sorted({*first, *second}, key=str):
        a, b = first.get(key), second.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, _join(path, key))
        elif a != b:
            found.append(_join(path, key))
    return found
