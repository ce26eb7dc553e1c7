"""``erase run --dry-run``: the resolved config and what is missing, without weights or data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .config import ResolvedConfig, RunConfig, as_mapping
from .errors import NoModelError
from .files import read_json
from .labels import find_forget
from .model import find_source, read_labels
from .presets import output_folder, resolve, with_classes

STAND_IN = "digits"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")  # or shards with an index


def dry_run(request: RunConfig, words: Mapping[str, Any], as_json: bool) -> str:
    """YAML (or JSON) of the config, its output folder, and one line for each thing that is missing."""
    missing: list[str] = []
    forget: list[int] = []
    try:
        config = resolve(request, words)
    except NoModelError:
        config = resolve(request, words, STAND_IN)
        missing.append(f"preset: the model's family is not known yet; shown over the one of {STAND_IN}")
    try:
        root = find_source(config.model.source)
        missing += _missing(root, config)
        if any((root / name).is_file() for name in ("erase.json", "transformer/config.json")):
            forget = find_forget(config.forget, read_labels(root))
            config = with_classes(config, forget)
    except NoModelError as error:
        missing.append(str(error))
    output = output_folder(request, config, forget)
    if as_json:
        return json.dumps({"config": as_mapping(config), "output": str(output), "missing": missing}, indent=2)
    lines = [yaml.safe_dump(as_mapping(config), sort_keys=False).rstrip(), f"# output: {output}"]
    lines += [f"# missing: {line}" for line in missing] or ["# nothing is missing"]
    return "\n".join(lines)


def _missing(root: Path, config: ResolvedConfig) -> list[str]:
    found = _missing_weights("transformer", root / "transformer")
    found += _missing_weights("VAE", Path(config.model.vae or root / "vae"))
    wanted = [root / "classifier" / name for name in ("config.json", "model.safetensors", "gate.safetensors")]
    found += [f"classifier: no {path}" for path in wanted if not path.is_file()]
    pack = read_json(root / "erase.json") if (root / "erase.json").is_file() else {}
    data = config.data.source or pack.get("data", {}).get("source")
    if data is None:
        found.append("data: give --data DIR")
    elif data != "digits" and not Path(data).is_dir():
        found.append(f"data: no {data}")
    return found


def _missing_weights(what: str, folder: Path) -> list[str]:
    """Of what diffusers loads from ``folder``: its config, and one weights file or every shard that an index names."""
    found = [] if (folder / "config.json").is_file() else [f"{what}: no {folder / 'config.json'}"]
    if any((folder / name).is_file() for name in WEIGHTS):
        return found
    for index in (folder / f"{name}.index.json" for name in WEIGHTS):
        if index.is_file():
            shards = sorted(set(read_json(index)["weight_map"].values()))
            return found + [f"{what}: no {folder / name}" for name in shards if not (folder / name).is_file()]
    return [*found, f"{what}: no {folder / WEIGHTS[0]}"]
