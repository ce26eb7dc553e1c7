"""Where a model comes from: a shipped pack, a folder, an original checkpoint, or the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import DitRecipe
from .errors import NoModelError, UserError
from .files import shipped
from .imagenet import CLASSES, class_names
from .packs import read_about, read_index, read_shards, read_transformer

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")  # or shards with an index
CHECKPOINTS = (".pt", ".pth", ".safetensors")
ORIGINALS = "https://dl.fbaipublicfiles.com/DiT/models/"
HUB = {"facebook/DiT-XL-2-256": "imagenet256", "facebook/DiT-XL-2-512": "imagenet512"}  # preset families, known offline
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_source(source: str, download: bool = True) -> Path:
    """The folder of a model source, or the file of an original checkpoint.

    A shipped pack by name, a pipeline folder, a .pt, or a hub id, which is fetched into the hub's cache if it is not
    there and ``download`` is true. Raises UserError if there is none, NoModelError saying what to fetch.
    """
    for path in (Path(source), shipped("assets") / source):
        if (path / "model_index.json").is_file():
            return path
    if Path(source).is_file():
        if Path(source).suffix not in CHECKPOINTS:
            raise UserError(f"{source} is no model; give a pipeline folder or an original checkpoint ending in .pt")
        return Path(source)
    if Path(source).is_dir():
        raise UserError(f"{source} holds no model_index.json; give a pack or a diffusers pipeline folder")
    if Path(source).suffix in CHECKPOINTS:
        hint = f"; fetch {ORIGINALS}{Path(source).name} to there" if Path(source).name.startswith("DiT-XL-2-") else ""
        raise NoModelError(f"no checkpoint at {source}{hint}")
    if HUB_ID.fullmatch(source):
        return hub_folder(source, "model_index.json", ("transformer", "vae"), download)
    packs = sorted(path.parent.name for path in shipped("assets").glob("*/erase.json"))
    raise NoModelError(f"no model at {source!r}; give a folder, a hub id, a .pt or a shipped pack ({', '.join(packs)})")


def find_vae(source: str, download: bool = True) -> Path:
    """The folder of a VAE: of its own, inside a pipeline folder, or of a hub id."""
    for path in (Path(source), Path(source) / "vae"):
        if (path / "config.json").is_file():
            return path
    if HUB_ID.fullmatch(source) and not Path(source).exists():
        return hub_folder(source, "config.json", ("",), download)
    raise UserError(f"no AutoencoderKL at {source}: config.json is missing")


def hub_folder(repo: str, first: str, parts: Sequence[str], download: bool = True) -> Path:
    """The newest cached snapshot of ``repo``; where it is not complete, and ``download``, it is fetched.

    ``first`` is the file at its root, ``parts`` the folders of its networks. Raises NoModelError naming what to fetch.
    """
    from huggingface_hub import constants, snapshot_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, first, cache_dir=constants.HF_HUB_CACHE)
    root = Path(cached).parent if isinstance(cached, str) else Path("nowhere")
    missing = [] if (root / first).is_file() else [first]
    missing += [line.relative_to(root).as_posix() for part in parts for line in missing_weights(root / part)]
    if not missing:
        return root
    why = "the hub was not asked"
    if download:
        try:
            return Path(snapshot_download(repo, allow_patterns=_wanted(repo, first, parts)))
        except Exception as error:  # the hub's, httpx's and requests' own kinds
            text = " ".join(str(error).split())
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{type(error).__name__}: {text[:160]}"
    files = ", ".join(dict.fromkeys(missing))
    raise NoModelError(
        f"no model at {repo!r}: no such folder, and the hub's cache at {constants.HF_HUB_CACHE} lacks it ({why}); "
        f"fetch {files} (weights as .safetensors or .bin) from https://huggingface.co/{repo} into a folder with the "
        "same sub-folders and give that folder"
    )


def _wanted(repo: str, first: str, parts: Sequence[str]) -> list[str]:
    from huggingface_hub import HfApi

    return wanted_files([item.rfilename for item in HfApi().model_info(repo).siblings or []], first, parts)


def wanted_files(names: Sequence[str], first: str, parts: Sequence[str]) -> list[str]:
    """Of a repository's files those that loading needs: of each network its config and one set of weights."""
    wanted = [name for name in names if name == first or name.startswith("scheduler/")]
    for part in parts:
        inside = {name.removeprefix(f"{part}/" if part else ""): name for name in names if name.startswith(part)}
        wanted += [inside["config.json"]] if "config.json" in inside else []
        for weights in WEIGHTS:
            stem, kind = weights.rsplit(".", 1)
            pattern = re.compile(rf"{stem}(-\d+-of-\d+)?\.{kind}(\.index\.json)?")
            found = [name for short, name in inside.items() if pattern.fullmatch(short)]
            if found:
                wanted += found
                break
    return sorted({*wanted})


def missing_weights(folder: Path) -> list[Path]:
    """Of what diffusers loads from ``folder``: its config, and one weights file or every shard that an index names."""
    found = [] if (folder / "config.json").is_file() else [folder / "config.json"]
    if any((folder / name).is_file() for name in WEIGHTS):
        return found
    for index in (folder / f"{name}.index.json" for name in WEIGHTS):
        if index.is_file():
            return found + [folder / name for name in read_shards(index) if not (folder / name).is_file()]
    return [*found, folder / WEIGHTS[0]]


def read_config(root: Path, num_heads: int | None = None) -> dict[str, Any]:
    """The transformer's config of the model at ``root``, a folder or an original checkpoint. Reads no weights."""
    if root.is_file():
        from .original import config_of, read_checkpoint

        return config_of(read_checkpoint(root), num_heads)
    return read_transformer(root / "transformer")


def hub_config(repo: str) -> dict[str, Any]:
    """The transformer's config of one of the published models, DiT-XL/2."""
    from .dit import dit_config

    size = 64 if HUB[repo] == "imagenet512" else 32
    return dit_config(DitRecipe(layers=28, width=1152, heads=16, patch=2, label_slots=CLASSES), 4, size)


def read_labels(root: Path) -> dict[int, str]:
    """Names of the classes in use, by id: the pack's own, else all label slots.

    1,000 slots without names are ImageNet's classes. Reads no weights, of an original checkpoint their shapes.
    """
    if root.is_file():
        from .original import read_checkpoint

        return slot_labels(len(read_checkpoint(root)["y_embedder.embedding_table.weight"]) - 1, {})
    names, about = read_index(root), read_about(root)
    if about is None:
        return slot_labels(int(read_transformer(root / "transformer").get("num_embeds_ada_norm", CLASSES)), names)
    unnamed = [label for label in about["classes"] if label not in names]
    if unnamed:
        raise UserError(f"{root}: erase.json lists class {unnamed[0]}, and model_index.json has no name for it")
    return {label: names[label] for label in about["classes"]}


def slot_labels(slots: int, names: dict[int, str]) -> dict[int, str]:
    """A name for every label slot: its own, ImageNet's, or its number."""
    if not names and slots == CLASSES:
        return class_names()
    return {label: names.get(label, str(label)) for label in range(slots)}
