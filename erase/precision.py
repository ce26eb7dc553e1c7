"""The arithmetic of a run, one rule for training and for drawing."""

from __future__ import annotations

from typing import Any

import torch


def chosen(precision: str, device: torch.device | str) -> str:
    """``auto`` as what it means on ``device``: bf16 on a GPU, fp32 elsewhere."""
    if precision != "auto":
        return precision
    return "bf16" if torch.device(device).type == "cuda" else "fp32"


def arithmetic(device: torch.device, precision: str, compile: bool = False) -> list[str]:
    """What rounds differently, and so has places of its own in the cache."""
    parts = [device.type, chosen(precision, device)]
    return [*parts, "compiled whole" if device.type == "cpu" else "compiled"] if compile else parts


def autocast(precision: str, device: torch.device) -> Any:
    """A context in which matrix products run in the chosen precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=chosen(precision, device) == "bf16")


def restore_forward(module: Any) -> None:
    """Undoes what accelerate's ``prepare_model`` did to a module, which else stays in mixed precision for good.

    accelerate's own ``unwrap_model`` also strips decorators that belong to the class.
    """
    for name in ("forward", "_original_forward"):
        vars(module).pop(name, None)
