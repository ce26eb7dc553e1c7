"""Training state in safetensors: named weights, optimizer states, a step count, and a digest of it all."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .files import write_tensors

KEPT = 2
Tensors = dict[str, torch.Tensor]
Optimizers = Mapping[str, torch.optim.Optimizer]


def save_state(folder: Path, step: int, key: str, weights: Mapping[str, torch.Tensor], optimizers: Optimizers) -> None:
    """Writes ``step``, the config's ``key``, named weights and the optimizers' states to ``step-XXXXXXXX.safetensors``.

    The file's own metadata holds a digest of its content. The state before this one is kept too, and no other.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in _named(weights, optimizers)}
    about = {"step": str(step), "key": key}
    write_tensors(folder / f"step-{step:08d}.safetensors", tensors, {**about, "sha256": content_digest(tensors, about)})
    kept = [path for number, path in _states(folder) if number <= step][:KEPT]
    for _, path in _states(folder):
        if path not in kept:
            path.unlink()


def load_state(
    folder: Path, key: str, weights: Mapping[str, torch.Tensor], optimizers: Optimizers, last: int | None = None
) -> int:
    """Restores in place the newest whole state of this ``key``, of step ``last`` at most; its step, or 0 without one.

    A damaged one is named on stderr, and the one before it taken.
    """
    for number, path in _states(folder):
        try:
            about, tensors = _read(path)
        except Exception as error:  # safetensors raises its own kinds
            print(f"the saved state {path} is damaged ({' '.join(str(error).split())}); not used", file=sys.stderr)
            continue
        if about["key"] != key or (last is not None and number > last):
            continue
        if any(
            tensors.get(f"weights/{name}", tensor.new_empty(0)).shape != tensor.shape
            for name, tensor in weights.items()
        ):
            print(f"the saved state {path} is another version's; not used", file=sys.stderr)
            continue
        _restore(tensors, weights, optimizers)
        return number
    return 0


def is_finite(weights: Mapping[str, torch.Tensor], optimizers: Optimizers) -> bool:
    """Whether all that :func:`save_state` would write is."""
    found = [torch.isfinite(value).all().cpu() for _, value in _named(weights, optimizers)]
    return bool(torch.stack(found).all()) if found else True


def content_digest(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of names, kinds, shapes and bytes of CPU tensors and of ``about``."""
    total = hashlib.sha256(repr(sorted(about.items())).encode())
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        total.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _named(weights: Mapping[str, torch.Tensor], optimizers: Optimizers) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights.items():
        yield f"weights/{name}", tensor
    for label, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if value is not None:
                    yield f"optimizer/{label}/{index}/{name}", torch.as_tensor(value)


def _states(folder: Path) -> list[tuple[int, Path]]:
    """The state files, newest first."""
    found = [(re.fullmatch(r"step-(\d{8,})\.safetensors", path.name), path) for path in folder.glob("step-*")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _read(path: Path) -> tuple[dict[str, str], Tensors]:
    with safe_open(path, "pt") as file:
        about: dict[str, str] = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if about.pop("sha256", None) != content_digest(tensors, about):
        raise ValueError("its content is not what was written")
    return about, tensors


def _restore(tensors: Tensors, weights: Mapping[str, torch.Tensor], optimizers: Optimizers) -> None:
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(tensors[f"weights/{name}"])
    for label, optimizer in optimizers.items():
        states: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer/{label}/"):
                index, field = name.removeprefix(f"optimizer/{label}/").split("/")
                states.setdefault(int(index), {})[field] = tensor
        if states:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
