"""What a run is: typed, frozen sections with a range and a sentence for every field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .fields import Section, needed, setting

CLASSIFIERS = ("pack", "resnet34", "convnext_tiny")


@dataclass(frozen=True)
class ModelConfig:
    source: str = setting("digits", "shipped pack, pack folder, diffusers folder, hub id or original .pt")
    vae: str | None = setting(None, "folder or hub id of the VAE, where the source holds none")
    num_heads: int | None = setting(
        None, "attention heads of an original .pt checkpoint whose width is none of S, B, L, XL", low=1, high=512
    )


@dataclass(frozen=True)
class DataConfig:
    source: str | None = setting(None, "digits, or a folder with one sub-folder a class; default: the pack's own data")
    flip: bool = setting(False, "also use mirrored images; never for digits")
    retain_images: int | None = setting(
        None, "retain images to use, as many of each class as can be; default: all", low=1, high=10**9
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
    steps: int = setting(1, "steps a round", low=0, high=10**9)
    batch_size: int = setting(64, "images a step", low=1, high=10**6)
    lr: float = setting(1e-4, "learning rate", low=0.0)
    lr_schedule: str = setting("constant", "of the learning rate over the rounds", choices=("constant", "cosine"))
    warmup: int = setting(0, "rounds over which the learning rate rises to its value", low=0, high=10**9)
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
    rounds: int = setting(100, "rounds of forget steps followed by retain steps", low=0, high=10**9)
    finish: int = setting(0, "rounds of retain steps alone, after the others", low=0, high=10**9)
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

    seed: int = setting(
        0, "seed of the images and of sa's replay, apart from the seed of unlearning", low=0, high=2**63 - 1
    )
    per_class: int = setting(100, "images a class", low=2, high=10**5)
    retain_total: int | None = setting(
        None,
        "images of all retained classes together, as many of each as can be; default: per_class of each",
        low=2,
        high=10**9,
    )
    retain_classes: tuple[str, ...] | None = setting(
        None, "the retained classes to draw; default: all, of ImageNet's those that the data has images of"
    )
    steps: int = setting(20, "sampler steps", low=1, high=1000)
    guidance_scale: float = setting(1.5, "classifier-free guidance; 1 is none", low=1.0)
    guidance_channels: str = setting(
        "all", "latent channels that guidance acts on: all, or 3 as in the original DiT's code", choices=("all", "3")
    )
    sampler: str = setting("dpm++", "sampler", choices=("dpm++", "ddim", "ancestral"))
    block: int = setting(
        100, "images made together; fixed blocks make files independent of the processes", low=1, high=10**5
    )


@dataclass(frozen=True)
class ScoreConfig:
    allow_missing: bool = setting(False, "turn a missing classifier, extractor or reference into a null, not an error")
    bootstrap: int = setting(100, "resamples for the interval of a Frechet distance; 0 for none", low=0, high=10**5)
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
        high=10**9,
    )
    reference_images: int | None = setting(
        None,
        "real images of the retained classes to compare with, as many of each as can be; default: all",
        low=2,
        high=10**9,
    )


@dataclass(frozen=True)
class RuntimeConfig:
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    precision: str = setting(
        "auto", "auto is bf16 autocast on a GPU and fp32 elsewhere", choices=("auto", "fp32", "bf16")
    )
    micro_batch: int | None = setting(
        None, "samples that go through the model at once; a step's gradient is added up over them", low=1, high=10**6
    )
    checkpointing: bool = setting(False, "recompute each block in the backward pass: less memory, a third more time")
    compile: bool = setting(False, "compile the transformer for training and sampling: faster after a warm-up")
    threads: int | None = setting(None, "CPU threads; default: torch's own choice", low=1, high=1024)
    deterministic: bool = setting(False, "bit-exact arithmetic on a GPU too, slower")
    save_every: int = setting(500, "steps between saved states", low=1, high=10**9)
    bad_steps: int = setting(
        0, "steps to skip whose loss or gradient is not finite, before the run stops", low=0, high=10**9
    )
    snapshot_every: int | None = setting(
        None, "steps between a few images drawn on the way (snapshots/)", low=1, high=10**9
    )
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

    forget: tuple[str, ...] = needed("classes to forget, by index or name")
    seed: int = needed("seed of unlearning", low=0, high=2**63 - 1)
    model: ModelConfig = needed("the model")
    data: DataConfig = needed("the images")
    method: Any = needed("the chosen method's own options")
    optimizer: OptimizerConfig = needed("the optimizer states")
    unlearn: UnlearnConfig = needed("the steps")
    sample: SampleConfig = needed("the sampling protocol")
    score: ScoreConfig = needed("what the images are judged with")
    runtime: RuntimeConfig = needed("device and the like; no value here changes a run's identity")


@dataclass(frozen=True)
class VaeRecipe:
    channels: tuple[int, ...] = setting(
        (16, 32, 48), "channels of the levels; each after the first halves the image", low=1, high=8192
    )
    layers: int = setting(1, "residual blocks a level", low=1, high=512)
    latent_channels: int = setting(4, "latent channels", low=1, high=1024)
    groups: int = setting(8, "groups of the group norms", low=1, high=1024)
    steps: int = setting(2500, "training steps", low=1, high=10**9)
    batch_size: int = setting(64, "images a step", low=1, high=10**6)
    lr: float = setting(2e-3, "peak learning rate, cosine decay", above=0.0)
    kl_weight: float = setting(1e-4, "weight of the KL term beside the mean squared error", low=0.0)


@dataclass(frozen=True)
class DitRecipe:
    layers: int = setting(6, "transformer blocks", low=1, high=512)
    width: int = setting(128, "hidden width", low=8, high=16384)
    heads: int = setting(4, "attention heads", low=1, high=512)
    patch: int = setting(2, "patch size", low=1, high=64)
    label_slots: int = setting(1000, "label slots; DiTPipeline fixes the null class at 1000", low=1, high=10**6)
    steps: int = setting(10000, "training steps", low=1, high=10**9)
    batch_size: int = setting(64, "images a step", low=1, high=10**6)
    lr: float = setting(2e-3, "peak learning rate, cosine decay", above=0.0)
    warmup: int = setting(200, "steps over which the learning rate rises", low=0, high=10**9)
    label_dropout: float = setting(0.1, "share of labels replaced by null", low=0.0, high=1.0)
    ema: float = setting(0.999, "decay of the averaged weights, which are the ones saved", low=0.0, high=0.9999999)


@dataclass(frozen=True)
class ClassifierRecipe:
    width: int = setting(32, "channels of the first level", low=1, high=16384)
    features: int = setting(64, "width of the feature layer", low=2, high=65536)
    steps: int = setting(1500, "training steps", low=1, high=10**9)
    batch_size: int = setting(128, "images a step", low=1, high=10**6)
    lr: float = setting(2e-3, "peak learning rate, cosine decay", above=0.0)
    gate_keep: float = setting(0.995, "share of the held-out real images that the image gate keeps", low=0.5, high=1.0)


@dataclass(frozen=True)
class PretrainConfig:
    """What ``erase pretrain`` is asked to do: the recipes of VAE, DiT and classifier, in this order."""

    data: str = setting("digits", "digits, or a folder with one sub-folder a class")
    exclude: tuple[str, ...] = setting((), "classes the DiT never sees; VAE and classifier, the instruments, see all")
    instruments: str | None = setting(None, "take VAE and classifier from this pack instead of training them")
    image_size: int = setting(32, "pixels a side", low=8, high=4096)
    seed: int = setting(0, "seed of all training", low=0, high=2**63 - 1)
    vae: VaeRecipe = setting(VaeRecipe, "the autoencoder")
    dit: DitRecipe = setting(DitRecipe, "the diffusion transformer")
    classifier: ClassifierRecipe = setting(ClassifierRecipe, "the classifier, its features and the image gate")
    sample: SampleConfig = setting(SampleConfig, "the sampling protocol recorded in the pack")
    runtime: RuntimeConfig = setting(RuntimeConfig, "device and the like")
