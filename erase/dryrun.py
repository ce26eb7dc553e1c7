"""``erase run --dry-run``: the resolved config and what is missing, without weights or data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .config import ResolvedConfig, RunConfig, as_mapping
from .errors import UserError
from .labels import find_forget
from .model import find_source, read_labels
from .presets import output_folder, resolve, with_classes


def dry_run(request: RunConfig, words: Mapping[str, Any], as_json: bool) -> str:
    """YAML (or JSON) of the config, its output folder, and one line for each thing that is missing."""
    config = resolve(request, words)
    missing: list[str] = []
    try:
        root = find_source(config.model.source)
        forget = find_forget(config.forget, read_labels(root))
        config = with_classes(config, forget)
        missing += _missing(root, config)
    except UserError as error:
        if not str(error).startswith("no model"):
            raise
        forget = []
        missing.append(str(error))
    output = output_folder(request, config, forget or [])
    if as_json:
        return json.dumps({"config": as_mapping(config), "output": str(output), "missing": missing}, indent=2)
    lines = [yaml.safe_dump(as_mapping(config), sort_keys=False).rstrip(), f"# output: {output}"]
    lines += [f"# missing: {line}" for line in missing] or ["# nothing is missing"]
    return "\n".join(lines)


def _missing(root: Path, config: ResolvedConfig) -> list[str]:
    wanted = {
        "transformer weights": root / "transformer" / "config.json",
        "VAE": Path(config.model.vae or root / "vae") / "config.json",
        "classifier": root / "classifier" / "config.json",
    }
    if config.data.source not in (None, "digits"):
        wanted["data"] = Path(str(config.data.source))
    found = [f"{what}: no {path}" for what, path in wanted.items() if not path.exists()]
    if config.data.source is None and not (root / "erase.json").is_file():
        found.append("data: give --data DIR")
    return found
