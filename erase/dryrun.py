"""``erase run --dry-run``: the resolved config and what is missing, without weights or data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .config import ResolvedConfig, RunConfig, as_mapping
from .data.listing import check_listable
from .errors import NoModelError, UserError
from .extractors import INCEPTION, fetched_weights
from .files import check_creatable
from .imagenet import class_names
from .labels import find_forget
from .memory import device_memory, predict, told
from .packs import read_about
from .precision import chosen
from .presets import output_folder, resolve, with_classes
from .published import KNOWN, weights_file
from .runfolder import finished
from .sources import CHECKPOINTS, HUB, find_source, find_vae, hub_config, missing_weights, read_config, read_labels
from .stage import classifier_name

NO_VAE = "VAE: an original checkpoint holds none; give one with model.vae=FOLDER"
STAND_IN = "digits"


def dry_run(request: RunConfig, words: Mapping[str, Any], as_json: bool) -> str:
    """YAML (or JSON) of the config, its output folder, and one line for each thing that is missing.

    Raises UserError for wrong settings, for data that cannot be listed, and for an output that cannot be written.
    """
    missing: list[str] = []
    forget: list[int] = []
    try:
        config = resolve(request, words, download=False)
    except NoModelError:
        config = resolve(request, words, STAND_IN)
        missing.append(f"preset: the model's family is not known yet; shown over the one of {STAND_IN}")
    source = config.model.source
    root: Path | None
    labels, shape = (class_names(), hub_config(source)) if source in HUB else ({}, {})
    try:
        root = find_source(source, download=False)
        if root.is_file() or any((root / name).is_file() for name in ("erase.json", "transformer/config.json")):
            labels = read_labels(root)
        missing += _missing(root, config)
        if root.is_file() or (root / "transformer" / "config.json").is_file():
            shape = read_config(root, config.model.num_heads)
    except NoModelError as error:
        missing.append(str(error))
        missing += [NO_VAE] if Path(source).suffix in CHECKPOINTS and config.model.vae is None else []
        root = None
    missing += _missing_data(root, config)
    missing += _missing_classifier(root, config, labels)
    if labels:
        forget = find_forget(config.forget, labels)
        config = with_classes(config, forget)
    output = output_folder(request, config, forget)
    if not finished(output):
        check_creatable(output, "the output folder")
    memory = _memory(shape, config)
    if as_json:
        content = {"config": as_mapping(config), "output": str(output), "missing": missing, "memory": memory}
        return json.dumps(content, indent=2)
    lines = [yaml.safe_dump(as_mapping(config), sort_keys=False).rstrip(), f"# output: {output}"]
    if memory:
        lines += [f"# memory: {line}" for line in told(memory, device_memory(config.runtime.device))]
    lines += [f"# missing: {line}" for line in missing] or ["# nothing is missing"]
    return "\n".join(lines)


def _memory(shape: Mapping[str, Any], config: ResolvedConfig) -> dict[str, int]:
    """The predicted bytes by purpose; empty if the model's shape is not known."""
    device = "cpu" if device_memory(config.runtime.device) is None else "cuda"
    return predict(shape, config, chosen(config.runtime.precision, device) == "bf16") if shape else {}


def _missing(root: Path, config: ResolvedConfig) -> list[str]:
    found = []
    if root.is_file() and config.model.vae is None:
        found.append(NO_VAE)
    if root.is_dir():
        found = [f"transformer: no {path}" for path in missing_weights(root / "transformer")]
    if config.model.vae is not None:
        try:
            found += [f"VAE: no {path}" for path in missing_weights(find_vae(config.model.vae, download=False))]
        except UserError as error:
            found.append(f"VAE: {error}")
    elif root.is_dir():
        found += [f"VAE: no {path}" for path in missing_weights(root / "vae")]
    return found


def _missing_data(root: Path | None, config: ResolvedConfig) -> list[str]:
    pack = (read_about(root) if root is not None else None) or {}
    data = config.data.source or pack.get("data", {}).get("source")
    if data is None:
        source = config.model.source  # of what is not there, a folder alone may be a pack, which has its own
        known = root is not None or source in HUB or Path(source).suffix in CHECKPOINTS
        return ["data: give --data DIR"] if known else []
    if data != "digits":
        if not Path(data).is_dir():
            return [f"data: no {data}"]
        check_listable(Path(data))
    return []


def _missing_classifier(root: Path | None, config: ResolvedConfig, labels: Mapping[int, str]) -> list[str]:
    if config.score.allow_missing:
        return []
    found = _missing_extractor(config)
    folder = root if root is not None and root.is_dir() else None
    name = classifier_name(config, labels, folder)
    if name != "pack":
        try:
            weights_file(name, config.score.classifier_weights, download=False)
        except UserError as error:
            found = [f"classifier: {error}", *found]
        return found
    if folder is None:
        return found
    wanted = [folder / "classifier" / file for file in ("config.json", "model.safetensors", "gate.safetensors")]
    return [f"classifier: no {path}" for path in wanted if not path.is_file()] + found


def _missing_extractor(config: ResolvedConfig) -> list[str]:
    name, given = config.score.extractor, config.score.extractor_weights
    try:
        if given is not None and not Path(given).is_file():
            raise UserError(f"no weights at {given}")
        if given is None and name == INCEPTION:
            fetched_weights(download=False)
        elif given is None and name in KNOWN:
            weights_file(name, None, download=False)
    except UserError as error:
        return [f"extractor: {error}"]
    return []
