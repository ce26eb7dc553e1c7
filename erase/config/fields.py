"""The machinery of a config: fields with a range and a sentence, built from plain mappings and written back.

:func:`build` reports every wrong field at once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError, nearest

Section = Mapping[str, Any]


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


def build(cls: type, values: Section, path: str = "", types_of: Mapping[str, type] | None = None) -> Any:
    """``cls`` from a mapping. Raises UserError naming every unknown key, wrong type and value out of range."""
    faults: list[str] = []
    result = _build(cls, values, path, types_of or {}, faults)
    if faults:
        raise UserError("config: " + "; ".join(faults))
    return result


def _build(cls: type, values: Any, path: str, types_of: Mapping[str, type], faults: list[str]) -> Any:
    if not isinstance(values, Mapping):
        faults.append(f"{path or 'the config'} must be a section, not {values!r}")
        return None
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            close = nearest(join(path, name), [join(path, key) for key in known])
            faults.append(f"unknown key {join(path, name)!r}{close}")
    made: dict[str, Any] = {}
    for name, field in known.items():
        if name not in values:
            continue
        kind = types_of.get(name, hints[name])
        if dataclasses.is_dataclass(kind):
            made[name] = _build(typing.cast(type, kind), values[name], join(path, name), {}, faults)
        else:
            made[name] = _value(values[name], kind, field.metadata, join(path, name), faults)
    return None if faults else cls(**made)


def _value(value: Any, kind: Any, limits: Mapping[str, Any], path: str, faults: list[str]) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    if typing.get_origin(kind) is tuple:
        items = [value] if isinstance(value, str | int | float) else value
        if not isinstance(items, Sequence):
            faults.append(f"{path} must be a list, not {value!r}")
            return None
        inner = typing.get_args(kind)[0]
        if dataclasses.is_dataclass(inner):
            return tuple(_build(inner, item, f"{path}[{i}]", {}, faults) for i, item in enumerate(items))  # type: ignore[arg-type]
        return tuple(_value(item, inner, limits, path, faults) for item in items)
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, Mapping):
            faults.append(f"{path} must be a section, not {value!r}")
        return value
    if kind is Any:
        return value
    converted = _convert(value, kind)
    if converted is None:
        faults.append(f"{path} must be {_KINDS[kind]}, not {value!r}")
        return None
    low, high, above, choices = (limits.get(key) for key in ("low", "high", "above", "choices"))
    if choices and converted not in choices:
        faults.append(f"{path} must be one of {', '.join(choices)}, not {value!r}{nearest(converted, choices, 1)}")
    elif (low is not None and converted < low) or (high is not None and converted > high):
        upper = "" if high is None else f" and at most {high:g}"
        faults.append(f"{path} must be at least {low:g}{upper}, not {value!r}")
    elif above is not None and converted <= above:
        faults.append(f"{path} must be above {above:g}, not {value!r}")
    return converted


_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _convert(value: Any, kind: type) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if kind is str:
        return str(value) if isinstance(value, str | int | float) else None
    try:
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
