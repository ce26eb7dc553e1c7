"""The JSON of packs, pipelines and runs, checked before anything is built from it: a stranger may have written it.

Each reader raises UserError naming the file and the first thing in it that cannot be. Nothing named there is imported.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import read_json
from .text import brief, is_name
from .untrusted import check_regular, is_plain_name

TRANSFORMER = {  # diffusers' default, least and greatest
    "num_layers": (28, 1, 512),
    "num_attention_heads": (16, 1, 512),
    "attention_head_dim": (72, 1, 1024),
    "in_channels": (4, 1, 1024),
    "patch_size": (2, 1, 64),
    "sample_size": (32, 1, 4096),
    "num_embeds_ada_norm": (1000, 1, 10**6),
}
VAE = {
    "in_channels": (3, 3, 3),
    "out_channels": (3, 3, 3),
    "latent_channels": (4, 1, 1024),
    "layers_per_block": (1, 1, 64),
    "norm_num_groups": (32, 1, 1024),
}
LEVELS, CHANNELS = 8, 8192  # of a VAE
PLACES = 2**28  # numbers in a table of positions
LARGE = 1e15
SPARE = 2**20  # bytes: what rounding and small layers may add to an estimate


def read_mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a mapping, not {brief(content)}")
    return content


@contextlib.contextmanager
def understood(path: Path | str) -> Iterator[None]:
    """Around what interprets the content of ``path``: a part that is missing or of another kind is the file's fault."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path} does not hold what it should: {type(error).__name__} {brief(str(error))}") from None


def read_index(root: Path) -> dict[int, str]:
    """The class names of a pipeline's model_index.json, by id; empty if it has none.

    Its components must be diffusers' own: code that comes with a model is never run.
    """
    path = root / "model_index.json"
    content = read_mapping(path)
    for key, value in content.items():
        foreign = isinstance(value, list) and value and value[0] not in ("diffusers", "transformers", None)
        if foreign or (key == "_class_name" and not isinstance(value, str)):
            raise UserError(f"{path}: {brief(key)} names {brief(value)}; only diffusers' own classes are used")
    names = content.get("id2label")
    if not isinstance(names if names is not None else {}, dict):
        raise UserError(f"{path}: id2label must be a mapping of class ids to names, not {brief(names)}")
    return dict(_name(path, key, value) for key, value in (names or {}).items())


def _name(path: Path, key: Any, value: Any) -> tuple[int, str]:
    if not re.fullmatch(r"[0-9]{1,7}", str(key)):
        raise UserError(f"{path}: id2label has {brief(key)}, which is no class id")
    if not is_name(value):
        raise UserError(f"{path}: id2label names class {key} {brief(value)}; a short printable text is needed")
    return int(key), str(value)


def read_about(root: Path) -> dict[str, Any] | None:
    """A pack's erase.json; None for a folder without one."""
    path = root / "erase.json"
    if not path.is_file():
        return None
    about = read_mapping(path)
    kinds: dict[str, tuple[type, ...]] = {
        "family": (str,), "classes": (list,), "data": (dict,), "protocol": (dict,), "provenance": (dict,),
        "forgotten": (list,),
    }  # fmt: skip
    for key, kind in kinds.items():
        if key in about and not isinstance(about[key], kind):
            raise UserError(f"{path}: {key} must be a {kind[0].__name__}, not {brief(about[key])}")
    ids = about.get("classes")
    if not ids or any(type(label) is not int or not 0 <= label < 10**7 for label in ids) or len({*ids}) < len(ids):
        raise UserError(f"{path}: classes must list different class ids, not {brief(ids)}")
    source = about.get("data", {}).get("source")
    if source is not None and not (isinstance(source, str) and source.isprintable() and source):
        raise UserError(f"{path}: data.source must be a path, not {brief(source)}")
    if not is_plain_name(about.get("family", "digits")):
        raise UserError(f"{path}: family must be a name, not {brief(about['family'])}")
    if any(not isinstance(entry, dict) for entry in about.get("forgotten", [])):
        raise UserError(f"{path}: forgotten must list mappings")
    return about


def read_transformer(folder: Path) -> dict[str, Any]:
    """The config.json of a DiT. Its sizes are checked against the bytes of the weights beside it, where there are any:
    memory is taken for what the config says before the first weight is read."""
    path = folder / "config.json"
    content = read_mapping(path)
    sizes = _sizes(path, content, TRANSFORMER)
    _whole(path, "out_channels", content.get("out_channels") or sizes["in_channels"], 1, 4096)
    layers, width = sizes["num_layers"], sizes["num_attention_heads"] * sizes["attention_head_dim"]
    places = (sizes["sample_size"] // sizes["patch_size"]) ** 2
    if sizes["sample_size"] % sizes["patch_size"] or places * width > PLACES:
        raise UserError(f"{path}: a sample_size of {sizes['sample_size']} cannot be cut into patches and held")
    _check_bytes(folder, layers * width * (19 * width + 256 + sizes["num_embeds_ada_norm"]))
    return content


def read_vae(folder: Path) -> dict[str, Any]:
    """The config.json of an AutoencoderKL, checked in the same way."""
    path = folder / "config.json"
    content = read_mapping(path)
    sizes = _sizes(path, content, VAE)
    channels = content.get("block_out_channels", [64])
    if not isinstance(channels, list) or not 1 <= len(channels) <= LEVELS:
        raise UserError(f"{path}: block_out_channels must list 1 to {LEVELS} sizes, not {brief(channels)}")
    for size in channels:
        _whole(path, "block_out_channels", size, 1, CHANNELS)
    factor = content.get("scaling_factor", 1.0)
    if not _is_number(factor) or not factor > 0:
        raise UserError(f"{path}: scaling_factor must be a number above 0, not {brief(factor)}")
    _check_bytes(folder, sum(18 * sizes["layers_per_block"] * size**2 for size in channels))
    return content


def _sizes(path: Path, content: Mapping[str, Any], known: Mapping[str, tuple[int, int, int]]) -> dict[str, int]:
    if content.get("quantization_config") is not None:
        raise UserError(f"{path}: quantization_config is not supported; give the weights as they were trained")
    return {
        name: _whole(path, name, content.get(name, default), low, high)
        for name, (default, low, high) in known.items()
    }  # fmt: skip


def _whole(path: Path, name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{path}: {name} must be a whole number from {low} to {high}, not {brief(value)}")
    return value


def weight_files(folder: Path) -> list[Path]:
    """Weights in the folder of a network, or of a checkpoint's shards. Raises UserError for one that is no file."""
    found = sorted(path for kind in ("safetensors", "bin") for path in folder.glob(f"*.{kind}"))
    for path in found:
        check_regular(path)
    return found


def _check_bytes(folder: Path, numbers: int) -> None:
    held = sum(path.stat().st_size for path in weight_files(folder))
    if held and numbers > held + SPARE:  # no format takes less than a byte
        raise UserError(f"{folder}: config.json asks for {numbers:,} weights and the files hold {held:,} bytes")


def read_shards(index: Path) -> list[str]:
    """The weight files that an index names, all beside it."""
    shards = read_mapping(index).get("weight_map")
    if not isinstance(shards, dict) or not all(is_plain_name(name) for name in shards.values()):
        raise UserError(f"{index}: weight_map must name files of the same folder")
    return sorted({*shards.values()})


def read_classifier(folder: Path) -> dict[str, Any]:
    """The config.json of a pack's classifier."""
    path = folder / "config.json"
    content = read_mapping(path)
    settings, ids, gate = (content.get(key) for key in ("settings", "classes", "gate"))
    if not isinstance(settings, dict) or settings.keys() != {"classes", "width", "features"}:
        raise UserError(f"{path}: settings must give classes, width and features, not {brief(settings)}")
    classes = _whole(path, "settings.classes", settings["classes"], 1, 10**6)
    width = _whole(path, "settings.width", settings["width"], 8, 4096)
    features = _whole(path, "settings.features", settings["features"], 1, 2**16)
    if width % 8:
        raise UserError(f"{path}: settings.width must be a multiple of 8, not {width}")
    _check_bytes(folder, features * (48 * width + classes) + 108 * width**2)
    if not isinstance(ids, list) or len(ids) != classes or any(type(label) is not int for label in ids):
        raise UserError(f"{path}: classes must list {classes} class ids, not {brief(ids)}")
    threshold = gate.get("threshold") if isinstance(gate, dict) else None
    if not _is_number(threshold):
        raise UserError(f"{path}: gate.threshold must be a number, not {brief(threshold)}")
    return content


def _is_number(value: Any) -> bool:
    """Finite, and no whole number that a float cannot take."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGE < value < LARGE


def read_results(run: Path, whole: bool = False) -> dict[str, Any]:
    """The results.json of a finished run, in which ``forget`` and, where they are there (or ``whole``), scores fit."""
    path = run / "results.json"
    results = read_mapping(path)
    with understood(path):
        for entry in results["forget"]:
            if type(entry["index"]) is not int or entry["index"] < 0 or not is_name(entry.get("name", "-")):
                raise ValueError(f"forget {brief(entry)}")
        for side in ("original", "erased") if whole or "models" in results else ():
            values = [results["models"][side][key] for key in ("fa", "ra", "fid")]
            if any(value is not None and not isinstance(value, float) and not _is_number(value) for value in values):
                raise ValueError(f"scores {values}")
        wrong = [key for key in ("method", "optimizer") if not isinstance(results.get(key, ""), str)]
        if wrong:
            raise ValueError(f"{wrong[0]} {brief(results[wrong[0]])}")
    return results
