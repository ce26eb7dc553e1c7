"""Layers of settings: presets, files and words of the command line, laid over each other and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError, nearest
from ..text import brief
from ..yamls import parse_yaml
from .fields import Section, as_mapping, changed, join

SHORT = {"model": "source", "data": "source", "method": "name", "optimizer": "policy", "sample": "protocol"}
# the key that a section's plain value stands for
LEVELS = 6
PROTOCOLS: dict[str, dict[str, Any]] = {
    "fast": {"sampler": "dpm++", "steps": 25, "guidance_scale": 1.5},
    "paper": {"sampler": "ancestral", "steps": 250, "guidance_scale": 1.5},  # of DiT and of what builds on it
}


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
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise UserError(f"unknown sample.protocol {brief(name)}{nearest(str(name), PROTOCOLS)}")
    return {**PROTOCOLS[name], **values}


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """``["unlearn.forget.lr=1e-4"]`` as a nested mapping; the right side is YAML."""
    result: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key.strip():
            raise UserError(f"{brief(word)} is no setting; write key=value, for example unlearn.forget.lr=1e-4")
        try:
            nested: Any = parse_yaml(text) if text else None
        except ValueError:
            raise UserError(f"the value of {brief(word)} is not valid YAML; put text with : or # in quotes") from None
        if key.count(".") > LEVELS:
            raise UserError(f"{brief(word)} is no setting; no key has more than {LEVELS} dots")
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
            found += differences(a, b, join(path, key))
        elif a != b:
            found.append(join(path, key))
    return found
