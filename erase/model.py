"""The model: a DiT and its VAE, loaded from any source and saved as a pack."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch

from .dit import new_like, new_transformer, new_vae, tie_embedders, time_shift, untied_copy
from .errors import UserError
from .files import digest, replacing_folder, write_json
from .original import from_original, read_checkpoint
from .packs import read_about, read_transformer, read_vae
from .sources import find_source, find_vae, read_labels, slot_labels
from .untrusted import read_pickled

__all__ = [
    "SCHEDULER",
    "Model",
    "find_source",
    "load_model",
    "new_like",
    "new_transformer",
    "new_vae",
    "read_labels",
    "save_model",
    "tie_embedders",
    "untied_copy",
    "weights_key",
    "write_pipeline",
]

# Every value explicit: diffusers fills absent ones differently in memory and after a save.
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}

ORIGINAL_NOTE = (
    "This model keeps the time features and the norm epsilon of the original DiT code, as `downscale_freq_shift` and "
    "`norm_eps` in `transformer/config.json` record. `erase` draws with them; diffusers' stock `DiTPipeline` opens the "
    "folder but ignores the first, and so draws slightly different images.\n"
)
NO_VAE = "the model has no VAE, so it can neither sample nor encode; give one with model.vae=FOLDER"


@dataclass
class Model:
    """A loaded class-conditional diffusion transformer.

    ``labels`` maps each class id in use to its name; ``pack`` is the content of ``erase.json`` (None for a plain
    diffusers folder) and ``folder`` where it was loaded from.
    """

    transformer: Any
    vae: Any | None
    labels: dict[int, str]
    pack: dict[str, Any] | None = None
    folder: Path | None = None
    card: str = field(default="", repr=False)

    @property
    def classes(self) -> list[int]:
        """Sorted class ids in use."""
        return sorted(self.labels)

    @property
    def num_classes(self) -> int:
        """Label slots, used or not."""
        return int(self.transformer.config.num_embeds_ada_norm)

    @property
    def null_label(self) -> int:
        """The label of the unconditional model: the slot after the last."""
        return self.num_classes

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.transformer.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def image_size(self) -> int:
        if self.vae is None:
            raise UserError(NO_VAE)
        return int(self.latent_shape[1] * 2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    def to(self, device: torch.device | str) -> Model:
        self.transformer.to(device)
        if self.vae is not None:
            self.vae.to(device)
        return self

    def key(self) -> str:
        """A digest of all weights: two models with the same key draw the same images."""
        return digest(weights_key(self.transformer), "" if self.vae is None else weights_key(self.vae))


def weights_key(module: Any) -> str:
    """A digest of a module's parameters, their names and its config."""
    config = {k: v for k, v in getattr(module, "config", {}).items() if not k.startswith("_")}
    parts: list[Any] = [config]
    for name, tensor in module.named_parameters():
        parts += [name, tensor.detach().cpu().contiguous().view(-1).numpy().view("uint8").data]
    return digest(*parts)


def load_model(source: str = "digits", vae: str | None = None, num_heads: int | None = None) -> Model:
    """Loads a model in float32 on the CPU.

    ``source``: a shipped pack's name, a pack folder, a diffusers pipeline folder (also of the older layout), a hub id
    (``facebook/DiT-XL-2-256``), or an original checkpoint (``.pt``), which holds neither a VAE nor its head count:
    ``num_heads`` is needed for a width other than S, B, L, XL. ``vae``: a folder or hub id to take the VAE from; an
    original checkpoint without one can neither sample nor encode.
    Raises UserError if the source is missing, unreadable, or its embedders have drifted apart.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    root = find_source(source)
    pack, folder, decoder = None, None, None
    if root.is_file():
        tensors = read_checkpoint(root)
        transformer = from_original(tensors, num_heads)
        labels = slot_labels(transformer.config.num_embeds_ada_norm, {})
    else:
        folder = root
        labels, pack = read_labels(root), read_about(root)
        transformer = _from_pretrained(DiTTransformer2DModel, root / "transformer", read_transformer)
        if num_heads not in (None, transformer.config.num_attention_heads):
            recorded = transformer.config.num_attention_heads
            raise UserError(f"num_heads={num_heads}, but {root} records {recorded}; it is for original .pt checkpoints")
        tie_embedders(transformer)
        if transformer.config.out_channels is None:  # as diffusers takes it; its pipeline needs the number
            transformer.register_to_config(out_channels=transformer.config.in_channels)
    if vae is not None:
        decoder = _from_pretrained(AutoencoderKL, find_vae(vae), read_vae)
    elif folder is not None and (folder / "vae").is_dir():
        decoder = _from_pretrained(AutoencoderKL, folder / "vae", read_vae)
    _check_vae(transformer, decoder)
    return Model(transformer.eval(), decoder, labels, pack, folder)


def _check_vae(transformer: Any, vae: Any | None) -> None:
    if vae is None:
        return
    vae.eval()
    if vae.config.latent_channels != transformer.config.in_channels:
        raise UserError(
            f"the VAE makes {vae.config.latent_channels} latent channels and the transformer takes "
            f"{transformer.config.in_channels}"
        )


def _from_pretrained(cls: Any, path: Path, check: Callable[[Path], Any]) -> Any:
    if not (path / "config.json").is_file():
        raise UserError(f"no {cls.__name__} at {path}: config.json is missing")
    check(path)
    from diffusers.utils import logging

    safe = any(path.glob("*.safetensors*")) or not any(path.glob("*.bin*"))
    for pickled in () if safe else sorted(path.glob("*.bin")):
        read_pickled(pickled)  # refused as our own .pt are; diffusers then reads it under the same restriction
    verbosity = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)  # what it warns of we know, and what fails is said once, by us
    try:
        module, info = cls.from_pretrained(
            path,
            torch_dtype=torch.float32,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            use_safetensors=safe,
        )
    except Exception as error:  # diffusers, safetensors and torch each raise their own kinds
        raise UserError(f"cannot load {path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:  # diffusers only warns, and leaves them at random
        raise UserError(f"{path} lacks weights: {', '.join(sorted(info['missing_keys'])[:3])}")
    return module


def save_model(model: Model, path: str | Path) -> None:
    """Writes a pack: a folder that diffusers' ``DiTPipeline.from_pretrained`` opens, with what scoring needs beside it.

    The folder is replaced as a whole. Without a VAE (of an original ``.pt``) only ``load_model`` opens it.
    """
    import shutil

    with replacing_folder(Path(path)) as folder:
        write_pipeline(model, folder)
        source = model.folder
        if source is not None and (source / "classifier").is_dir():
            shutil.copytree(source / "classifier", folder / "classifier")
        if source is not None and (source / "reference.safetensors").is_file():
            shutil.copy(source / "reference.safetensors", folder)
        if model.pack is not None:
            write_json(folder / "erase.json", model.pack)
        if model.card or time_shift(model.transformer) != 1:
            (folder / "README.md").write_text(model.card or ORIGINAL_NOTE, encoding="utf-8")


def write_pipeline(model: Model, folder: Path) -> None:
    """transformer/, vae/, scheduler/ and model_index.json in ``folder``."""
    import diffusers

    untied_copy(model.transformer).save_pretrained(folder / "transformer")
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": diffusers.__version__,
        "id2label": {str(label): model.labels[label] for label in model.classes},
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    }
    if model.vae is not None:
        copy.deepcopy(model.vae).cpu().save_pretrained(folder / "vae")
        index["vae"] = ["diffusers", "AutoencoderKL"]
    scheduler: Any = diffusers.DPMSolverMultistepScheduler(**SCHEDULER, algorithm_type="dpmsolver++", solver_order=2)
    scheduler.save_pretrained(folder / "scheduler")
    write_json(folder / "model_index.json", index)
