"""Training state in safetensors: module weights, optimizer states, and a step count."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from .errors import UserError
from .files import write_tensors


def save_state(
    path: Path,
    step: int,
    key: str,
    weights: Mapping[str, torch.Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Writes ``step``, the config's ``key``, named weights and the optimizers' states as one safetensors file."""
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    for label, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer/{label}/{index}/{name}"] = torch.as_tensor(value)
    write_tensors(path, tensors, {"step": str(step), "key": key})


def load_state(
    path: Path, key: str, weights: Mapping[str, torch.Tensor], optimizers: Mapping[str, torch.optim.Optimizer]
) -> int:
    """Restores what :func:`save_state` wrote, in place; the step, or 0 if there is no state of this ``key``."""
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kinds
        raise UserError(f"the saved state {path} is damaged ({error}); delete it to start again") from None
    if about.get("key") != key:
        return 0
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(tensors[f"weights/{name}"])
    for label, optimizer in optimizers.items():
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer/{label}/"):
                index, field = name.removeprefix(f"optimizer/{label}/").split("/")
                states.setdefault(int(index), {})[field] = tensor
        if states:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return int(about["step"])
