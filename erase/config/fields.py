"""The machinery of a config: fields with a range and a sentence, built from plain mappings and written back.

:func:`build` reports every wrong field at once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import Faults, nearest
from ..text import brief

Section = Mapping[str, Any]
ITEMS = 100_000
VAST = 10**6  # a limit from which on it says nothing to who is below it


def setting(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A config field: its default, what it means, and the values it may take (inclusive, or strictly above)."""
    limits = {"text": text, "low": low, "high": high, "above": above, "choices": choices}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=limits)
    return dataclasses.field(default=default, metadata=limits)


def needed(text: str, low: float | None = None, high: float | None = None) -> Any:
    """As :func:`setting`, for a field without a default."""
    return dataclasses.field(metadata={"text": text, "low": low, "high": high})


def build(
    cls: type,
    values: Section,
    path: str = "",
    types_of: Mapping[str, type] | None = None,
    faults: Faults | None = None,
) -> Any:
    """``cls`` from a mapping.

    Raises UserError naming every unknown key, wrong type and value out of range; or notes them in ``faults`` and goes
    on with the defaults in their places (None if there are none), so that other checks can still be made.
    """
    noted = faults or Faults()
    result = _build(cls, values, path, types_of or {}, noted.found)
    if faults is None:
        noted.tell()
    return result


def _build(cls: type, values: Any, path: str, types_of: Mapping[str, type], faults: list[str]) -> Any:
    made: dict[str, Any] = {}
    if not isinstance(values, Mapping):
        faults.append(f"{path or 'the config'} must be a section, not {brief(values)}")
        values = {}
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            close = nearest(join(path, name), [join(path, key) for key in known])
            faults.append(f"unknown key {brief(join(path, name))}{close}")
    for name, field in known.items():
        if name not in values:
            continue
        kind, before = types_of.get(name, hints[name]), len(faults)
        if dataclasses.is_dataclass(kind):
            value = _build(typing.cast(type, kind), values[name], join(path, name), {}, faults)
        else:
            value = _value(values[name], kind, field.metadata, join(path, name), faults)
        if len(faults) == before or dataclasses.is_dataclass(value):
            made[name] = value
    needed = [f for f in known.values() if f.default is f.default_factory is dataclasses.MISSING]
    if any(field.name not in made for field in needed):
        return None
    return cls(**made)


def _value(value: Any, kind: Any, limits: Mapping[str, Any], path: str, faults: list[str]) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if typing.get_origin(kind) is tuple:
        return _items(value, typing.get_args(kind)[0], limits, path, faults)
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            faults.append(f"{path} must be a section, not {brief(value)}")
        return value
    if kind is Any:
        return value
    converted = _convert(value, kind)
    if converted is None:
        wanted = "printable text" if kind is str and isinstance(value, str) else _KINDS[kind]
        faults.append(f"{path} must be {wanted}, not {brief(value)}")
        return None
    low, high, above, choices = (limits.get(key) for key in ("low", "high", "above", "choices"))
    if choices and converted not in choices:
        faults.append(f"{path} must be one of {', '.join(choices)}, not {brief(value)}{nearest(converted, choices, 1)}")
    outside = (low is not None and converted < low) or (high is not None and converted > high)
    if outside or (above is not None and converted <= above):
        told = high if high is None or high < VAST or converted > high else None
        faults.append(f"{path} must be {_range(low, told, above)}, not {brief(value)}")
    return converted


def _items(value: Any, inner: Any, limits: Mapping[str, Any], path: str, faults: list[str]) -> Any:
    items = [value] if isinstance(value, str | int | float) else value
    if not isinstance(items, Sequence) or len(items) > ITEMS:
        what = f"must be a list, not {brief(value)}" if not isinstance(items, Sequence) else f"has over {ITEMS} items"
        faults.append(f"{path} {what}")
        return None
    if dataclasses.is_dataclass(inner):
        return tuple(_build(inner, item, f"{path}[{i}]", {}, faults) for i, item in enumerate(items))  # type: ignore[arg-type]
    return tuple(_value(item, inner, limits, path, faults) for item in items)


def _range(low: float | None, high: float | None, above: float | None) -> str:
    parts = [("at least", low), ("above", above), ("at most", high)]
    return " and ".join(f"{word} {int(x) if x == int(x) else x}" for word, x in parts if x is not None)


_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _convert(value: Any, kind: type) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    try:
        if kind is str:
            return str(value) if isinstance(value, str | int | float) and str(value).isprintable() else None
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if number != number or abs(number) == float("inf"):
        return None
    if kind is int:
        if number != int(number):
            return None
        try:
            return int(value)
        except ValueError:  # text such as 1e3
            return int(number)
    return number


def join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def as_mapping(config: Any) -> dict[str, Any]:
    """A config as plain nested dicts and lists, ready for YAML or JSON."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return as_mapping(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def changed(config: Any) -> dict[str, Any]:
    """As :func:`as_mapping`, but only what differs from its field's default."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            below = changed(value)
            found |= {field.name: below} if below else {}
        elif field.default is dataclasses.MISSING or value != field.default:
            found[field.name] = _plain(value)
    return found
