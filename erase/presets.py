"""From a request to a config with every value filled in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import (
    SHORT,
    PretrainConfig,
    ResolvedConfig,
    RunConfig,
    as_mapping,
    build,
    changed,
    merge,
    with_protocol,
)  # fmt: skip
from .errors import Faults, UserError, nearest
from .files import digest, shipped
from .methods import METHODS, Method, default_policy, find_method, refusal
from .optim import check_kinds
from .packs import read_about
from .sources import CHECKPOINTS, HUB, find_source, read_config
from .text import brief
from .untrusted import TEXT_BYTES, open_regular, reason
from .yamls import parse_yaml

SECTIONS = ("model", "data", "method", "optimizer", "unlearn", "sample", "score", "runtime")


def family_of(source: str, download: bool = True) -> str:
    """Which presets suit a model: a pack says so itself; others are ImageNet's by their id or latent size."""
    if source in HUB:
        return HUB[source]
    root = find_source(source, download)
    about = read_about(root)
    if about is not None:
        return str(about.get("family", "digits"))
    return "imagenet512" if read_config(root, 1)["sample_size"] == 64 else "imagenet256"


def load_yaml(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = parse_yaml(file.read(TEXT_BYTES).decode())
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {reason(error)}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} must hold sections such as 'unlearn:', not {brief(content)}")
    return dict(content)


def load_preset(name: str) -> dict[str, Any]:
    """Its values over those of its base. Raises UserError for a name that no preset has."""
    return _over_base(_read_preset(name), (name,))


def _read_preset(name: str) -> dict[str, Any]:
    root = shipped("configs")
    presets = (path for path in root.rglob("*.yaml") if path.parent.name != "tables")
    known = sorted(str(path.relative_to(root).with_suffix("")) for path in presets)
    if name not in known:
        family, _, pair = name.partition("/")
        if any(path.startswith(f"{family}/") for path in known) and any(path.endswith(f"/{pair}") for path in known):
            raise UserError(f"there is no preset {name}; give your own settings by --config FILE")
        raise UserError(f"unknown preset {name!r}{nearest(name, known)}")
    return load_yaml(root / f"{name}.yaml")


def _over_base(values: Mapping[str, Any], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values over those of the preset that their key ``base`` names, and so on. Raises UserError for a circle."""
    own = {key: value for key, value in values.items() if key != "base"}
    if "base" not in values:
        return own
    name = values["base"]
    if not isinstance(name, str):
        raise UserError(f"base must be the name of a preset, not {brief(name)}")
    if name in names:
        raise UserError(f"base: {' -> '.join((*names, name))} is a circle")
    below = _protocol_written_out(_over_base(_read_preset(name), (*names, name)))
    short = {key for key, value in own.items() if isinstance(value, str) and isinstance(below.get(key), Mapping)}
    own |= {key: {SHORT[key]: own[key]} for key in short & SHORT.keys()}
    return laid_over(below, _protocol_written_out(own))


def laid_over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` over ``base``; another method's options do not carry over."""
    wanted, known = (section.get("name") for section in map(_method_section, (values, base)))
    if wanted and known not in (None, wanted):
        base = {**base, "method": {"name": wanted}}
    return merge(base, values)


def _method_section(values: Mapping[str, Any]) -> Mapping[str, Any]:
    section = values.get("method")
    return section if isinstance(section, Mapping) else {}


def resolve(
    request: RunConfig, words: Mapping[str, Any] | None = None, family: str | None = None, download: bool = True
) -> ResolvedConfig:
    """The request over its preset. ``words`` are dotted settings of the command line, already nested.

    ``family``: whose preset to take, where the model itself is not to be asked; else a hub id of unknown family is
    fetched if ``download``.

    Raises UserError for an unknown preset, method, policy or key, a value of the wrong type or out of range, or a
    method that cannot run under the policy.
    """
    faults = Faults()
    asked: dict[str, Any] = {}
    for section in SECTIONS:
        value = getattr(request, section)
        if value is not None:
            asked[section] = value
    asked = merge(_written_out(asked, faults), _written_out(words or {}, faults))
    base: dict[str, Any] = {}
    with faults.gathered():
        base = _written_out(_base(request, asked, family, download), faults)
    values = laid_over(base, asked)
    if request.forget and "forget" not in asked:
        asked_for = [request.forget] if isinstance(request.forget, str) else request.forget
        values["forget"] = [str(c) for c in asked_for]
    if request.seed is not None and "seed" not in asked:
        values["seed"] = request.seed
    values = {"forget": [], "seed": 0, **values}
    for section in SECTIONS:
        values.setdefault(section, {})
    _fill_policy(values)
    config = _built(values, faults)
    faults.tell()
    assert config is not None
    return config


def _fill_policy(values: dict[str, Any]) -> None:
    """The method's own default where neither preset, file nor words name a policy."""
    name, optimizer = values["method"].get("name"), values["optimizer"]
    if name in METHODS and "policy" not in optimizer:
        values["optimizer"] = {**optimizer, "policy": default_policy(METHODS[name])}


def _built(values: dict[str, Any], faults: Faults) -> ResolvedConfig | None:
    """The config, with every fault in ``values`` noted: fields first, then what does not go together."""
    method: type[Method] | None = None
    with faults.gathered():
        method = find_method(str(values["method"].get("name", "sfron")))
    if method is None:
        build(ResolvedConfig, values, faults=faults)
        return None
    values = {**values, "method": {**values["method"], "name": method.name}}
    config: ResolvedConfig | None
    config = build(ResolvedConfig, values, types_of={"method": method.Options}, faults=faults)
    if config is None:  # its seed or classes were wrong, and the rest can still be looked at
        rest = {**values, "seed": 0, "forget": []}
        config = build(ResolvedConfig, rest, types_of={"method": method.Options}, faults=Faults())
    for check in (_check_policy, _check_update, _check_method, _check_kinds):
        with faults.gathered():
            check(method, config)
    return config


def _check_policy(method: type[Method], config: ResolvedConfig) -> None:
    why = refusal(method, config.optimizer.policy)
    if why:
        raise UserError(why)


def _check_method(method: type[Method], config: ResolvedConfig) -> None:
    method.check(config)


def _check_kinds(method: type[Method], config: ResolvedConfig) -> None:
    check_kinds(config.optimizer)


def _check_update(method: type[Method], config: ResolvedConfig) -> None:
    plan = config.unlearn
    update = plan.update or method.updates[0]
    if update not in method.updates:
        raise UserError(f"{method.name} has {' or '.join(method.updates)} updates only, not unlearn.update={update}")
    if update == "joint" and (plan.forget.steps, plan.retain.steps) != (1, 1):
        raise UserError(
            "a joint update takes one step a round; unlearn.forget.steps and unlearn.retain.steps must be 1"
        )


def _written_out(values: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """``method: sfron`` as ``method: {name: sfron}``, and a sampling protocol's name as its values.

    A section that is neither a mapping nor such a name is noted and left out.
    """
    result = dict(values)
    for section in SECTIONS:
        if isinstance(result.get(section), str) and section in SHORT:
            result[section] = {SHORT[section]: result[section]}
        if not isinstance(result.get(section, {}), Mapping):
            faults.found.append(f"{section} must be a section or a name, not {brief(result.pop(section))}")
    with faults.gathered():
        return _protocol_written_out(result)
    result.pop("sample")
    return result


def _protocol_written_out(values: Mapping[str, Any]) -> dict[str, Any]:
    sample = values.get("sample")
    if isinstance(sample, str):
        sample = {SHORT["sample"]: sample}
    return {**values, "sample": with_protocol(sample)} if isinstance(sample, Mapping) else dict(values)


def _base(request: RunConfig, asked: Mapping[str, Any], family: str | None, download: bool) -> dict[str, Any]:
    """The preset's or the config file's values."""
    if request.config is not None or request.preset is not None:
        return base_values(request.preset, request.config, "")
    method = find_method(str(asked.get("method", {}).get("name", "sfron")))
    policy = str(asked.get("optimizer", {}).get("policy", default_policy(method)))
    why = refusal(method, policy)
    if why:
        raise UserError(why)  # there is no such preset
    source = str(asked.get("model", {}).get("source", "digits"))
    family = family or family_of(source, download)
    return laid_over(load_preset(f"{family}/{method.name}-{policy}"), method.recorded(_about(source)))


def _about(source: str) -> Mapping[str, Any]:
    """What a pack says of itself; nothing for other models, and for one that is not there."""
    with contextlib.suppress(UserError):  # what is wrong with it is said where it is loaded
        return (read_about(find_source(source, download=False)) if source not in HUB else None) or {}
    return {}


def base_values(preset: str | None, config: str | None, default: str) -> dict[str, Any]:
    """The values of a config file, a named preset, or the default preset."""
    if config is not None:
        if preset is not None:
            raise UserError("give a preset or a config file, not both")
        return _over_base(load_yaml(Path(config)))
    return load_preset(preset or default)


def resolve_pretrain(values: Mapping[str, Any], words: Mapping[str, Any] | None = None) -> PretrainConfig:
    """A recipe's values under the words of the command line.

    Raises UserError for every wrong field and, of those that are right, every two that do not fit together.
    """
    from .recipe import recipe_faults  # imports torch

    faults, layers = Faults(), list[dict[str, Any]]()
    for layer in (values, words or {}):
        with faults.gathered():
            layers.append(_protocol_written_out(layer))
            continue
        layers.append({key: value for key, value in layer.items() if key != "sample"})
    config: PretrainConfig = build(PretrainConfig, merge(*layers), faults=faults)
    levels = len(config.vae.channels) if config.instruments is None else None
    wrong = [fault.split(" ")[0] for fault in faults.found]  # fields in whose places stand defaults nobody asked for
    faults.found += [fault for fault in recipe_faults(config, levels) if not any(key in fault for key in wrong)]
    faults.tell()
    return config


def config_hash(config: ResolvedConfig) -> str:
    """A digest of everything that may change a result: all but ``runtime``.

    Of the values that are not a field's default alone, so that a new field leaves the hashes of old runs as they are.
    """
    return digest({key: value for key, value in changed(config).items() if key != "runtime"})


def training_key(config: ResolvedConfig) -> str:
    """A digest of what the training does: of every value, written or default, and of nothing that comes after it.

    A default that changes makes it another training, which :func:`config_hash` would not tell.
    """
    values = as_mapping(config)
    return digest({name: values[name] for name in ("forget", "seed", "method", "optimizer", "unlearn")})


def output_folder(request: RunConfig, config: ResolvedConfig, forget: Sequence[int]) -> Path:
    """``request.output``, or ``runs/<model>-<classes>-<method>-<policy>-s<seed>``."""
    if request.output:
        return Path(request.output)
    source = Path(config.model.source)
    name = source.stem if source.suffix in CHECKPOINTS else source.name
    model = "".join(c if c.isalnum() or c in "._" else "-" for c in name) or "model"
    classes = "+".join(str(label) for label in forget)
    return Path("runs") / f"{model}-{classes}-{config.method.name}-{config.optimizer.policy}-s{config.seed}"


def with_classes(config: ResolvedConfig, forget: Sequence[int]) -> ResolvedConfig:
    """The config with its classes as ids, so that a class's name and its index are one run."""
    return dataclasses.replace(config, forget=tuple(str(label) for label in forget))
