"""The command that repeats a run, from its config.yaml."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..config import RunConfig, as_mapping, changes, differences, parse_words
from ..errors import UserError
from ..presets import resolve

ABSENT = object()


def run_command(config: Mapping[str, Any], folder: Path) -> str:
    """``erase run`` with every setting that the preset would not give by itself.

    Where no preset and settings give this config (its model is not there, or a preset has changed since), the config
    file of the run itself.
    """
    try:
        words = ["erase", "run", *_options(config), *_settings(config)]
    except (UserError, KeyError, TypeError):
        words = ["erase", "run", "--config", str(folder / "config.yaml")]
    every = (config.get("runtime") or {}).get("snapshot_every")
    return shlex.join([*words, *(["--snapshot-every", str(every)] if every else [])])


def _options(config: Mapping[str, Any]) -> list[str]:
    request = _request(config)
    words = [word for label in request.forget for word in ("--forget", str(label))]
    data = (config.get("data") or {}).get("source")
    words += ["--model", str(request.model)] if request.model != "digits" else []
    words += ["--data", str(data)] if data else []
    return [*words, "--method", str(request.method), "--optimizer", str(request.optimizer), "--seed", str(request.seed)]


def _request(config: Mapping[str, Any]) -> RunConfig:
    return RunConfig(
        config["forget"],
        config["model"]["source"],
        (config.get("data") or {}).get("source"),
        method=config["method"]["name"],
        optimizer=config["optimizer"]["policy"],
        seed=config["seed"],
    )


def _settings(config: Mapping[str, Any]) -> list[str]:
    """Raises UserError if they do not lead to this config."""
    request = _request(config)
    mine = {key: value for key, value in config.items() if key != "runtime"}
    preset = as_mapping(resolve(request, download=False))
    found = [(key, _at(mine, key)) for key in differences(mine, preset) if not key.startswith("runtime")]
    words = [f"{key}={_word(value)}" for key, value in found if value is not ABSENT]
    again = resolve(request, parse_words(words), download=False)
    left = [key for key in changes(mine, again) if not key.startswith("runtime")]
    if left:
        raise UserError(f"no command gives {', '.join(left)}")
    return words


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ABSENT  # a field that is younger than the run: it had the default then
        value = value[part]
    return value


def _word(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
