"""The model: a DiT with one embedder shared by all blocks, its VAE, and the pack that holds them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import DitRecipe, VaeRecipe
from .errors import NoModelError, UserError
from .files import digest, read_json, replacing_folder, shipped, write_json

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
            raise UserError("the model has no VAE; give one with model.vae=FOLDER")
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
        parts += [name, tensor.detach().cpu().contiguous().numpy().tobytes()]
    return digest(*parts)


def tie_embedders(transformer: Any) -> None:
    """Makes all blocks share block 0's embedder, as the original DiT does, and stops its own label dropout.

    diffusers gives every block an embedder and draws a label drop in each; training such a model is another algorithm.
    Raises UserError if the copies differ, for then one cannot stand for all.
    """
    first = transformer.transformer_blocks[0].norm1.emb
    for number, block in enumerate(transformer.transformer_blocks):
        for (name, mine), other in zip(first.named_parameters(), block.norm1.emb.parameters(), strict=True):
            if not torch.equal(mine, other):
                raise UserError(
                    f"the embedders of this checkpoint have drifted apart (block {number}, {name}): it was fine-tuned "
                    "with one embedder a block, and no single label row exists to forget"
                )
        block.norm1.emb = first
    first.class_embedder.dropout_prob = 0.0


def untied_copy(transformer: Any) -> Any:
    """A copy with one embedder a block, as diffusers stores it."""
    result = copy.deepcopy(transformer).cpu()
    for block in result.transformer_blocks[1:]:
        block.norm1.emb = copy.deepcopy(block.norm1.emb)
    return result


def new_transformer(recipe: DitRecipe, latent_channels: int, latent_size: int, seed: int) -> Any:
    """A DiT with learned variance, initialised as the paper does (adaLN-zero) and tied."""
    from diffusers import DiTTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer: Any = DiTTransformer2DModel(
            num_attention_heads=recipe.heads,
            attention_head_dim=recipe.width // recipe.heads,
            in_channels=latent_channels,
            out_channels=2 * latent_channels,
            num_layers=recipe.layers,
            sample_size=latent_size,
            patch_size=recipe.patch,
            num_embeds_ada_norm=recipe.label_slots,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            activation_fn="gelu-approximate",
        )
        first = transformer.transformer_blocks[0].norm1.emb
        for block in transformer.transformer_blocks[1:]:
            block.norm1.emb = first
        for module in transformer.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(first.class_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(first.timestep_embedder.linear_1.weight, std=0.02)
        nn.init.normal_(first.timestep_embedder.linear_2.weight, std=0.02)
        adaln = [block.norm1.linear for block in transformer.transformer_blocks]
        for layer in [*adaln, transformer.proj_out_1, transformer.proj_out_2]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    tie_embedders(transformer)
    return transformer.eval()


def new_like(transformer: Any, seed: int) -> Any:
    """An untrained DiT of the same shape."""
    old = getattr(transformer, "module", transformer).config
    width = old.num_attention_heads * old.attention_head_dim
    recipe = DitRecipe(
        layers=old.num_layers, width=width, heads=old.num_attention_heads, patch=old.patch_size,
        label_slots=old.num_embeds_ada_norm,
    )  # fmt: skip
    return new_transformer(recipe, old.in_channels, old.sample_size, seed)


def new_vae(recipe: VaeRecipe, image_size: int, seed: int) -> Any:
    from diffusers import AutoencoderKL

    levels = len(recipe.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=recipe.channels,
            layers_per_block=recipe.layers,
            latent_channels=recipe.latent_channels,
            norm_num_groups=recipe.groups,
            sample_size=image_size,
            mid_block_add_attention=False,
        )


def find_source(source: str) -> Path:
    """The folder of a model source: a shipped pack by name, or a pipeline folder. Raises UserError if there is none."""
    packs = sorted(path.parent.name for path in shipped("assets").glob("*/erase.json"))
    for path in (Path(source), shipped("assets") / source):
        if (path / "model_index.json").is_file():
            return path
    if Path(source).is_dir():
        raise UserError(f"{source} holds no model_index.json; give a pack or a diffusers pipeline folder")
    raise NoModelError(f"no model at {source!r}; give a folder or a shipped pack ({', '.join(packs)})")


def load_model(source: str = "digits", vae: str | None = None, num_heads: int | None = None) -> Model:
    """Loads a shipped pack by name, a pack folder, or a diffusers pipeline folder, in float32 on the CPU.

    ``vae``: a folder to take the VAE from instead. ``num_heads`` is for original .pt checkpoints, which
    cannot be loaded yet: it is refused.
    Raises UserError if the source is missing, unreadable, or its embedders have drifted apart.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    if num_heads is not None:
        raise UserError("num_heads belongs to original .pt checkpoints; a diffusers folder records its own")
    root = find_source(source)
    transformer = _from_pretrained(DiTTransformer2DModel, root / "transformer")
    tie_embedders(transformer)
    vae_folder = Path(vae) if vae else root / "vae"
    decoder = _from_pretrained(AutoencoderKL, vae_folder) if vae or vae_folder.is_dir() else None
    pack = read_json(root / "erase.json") if (root / "erase.json").is_file() else None
    return Model(transformer.eval(), decoder.eval() if decoder is not None else None, read_labels(root), pack, root)


def read_labels(root: Path) -> dict[int, str]:
    """Names of the classes in use, by id: the pack's own, else all label slots. Needs no weights."""
    names = {int(k): str(v) for k, v in (read_json(root / "model_index.json").get("id2label") or {}).items()}
    if (root / "erase.json").is_file():
        return {int(label): names[int(label)] for label in read_json(root / "erase.json")["classes"]}
    count = int(read_json(root / "transformer" / "config.json")["num_embeds_ada_norm"])
    return {label: names.get(label, str(label)) for label in range(count)}


def _from_pretrained(cls: Any, path: Path) -> Any:
    if not (path / "config.json").is_file():
        raise UserError(f"no {cls.__name__} at {path}: config.json is missing")
    try:
        module, info = cls.from_pretrained(
            path, torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # diffusers, safetensors and torch each raise their own kinds
        raise UserError(f"cannot load {path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    if info["missing_keys"]:  # diffusers only warns, and leaves them at random
        raise UserError(f"{path} lacks weights: {', '.join(sorted(info['missing_keys'])[:3])}")
    return module


def save_model(model: Model, path: str | Path) -> None:
    """Writes a pack: a folder that diffusers' ``DiTPipeline.from_pretrained`` opens, with what scoring needs beside it.

    The folder is replaced as a whole.
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
        if model.card:
            (folder / "README.md").write_text(model.card, encoding="utf-8")


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
