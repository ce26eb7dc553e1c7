"""Optimizer policies: which objective steps with which optimizer state."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from .config import ObjectiveConfig, OptimizerConfig, OptimizerSide
from .errors import UserError, nearest


def make_optimizer(side: OptimizerSide, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """One torch optimizer; the learning rate is set at each step."""
    betas = (side.beta1, side.beta2)
    if side.kind == "sgd":
        return torch.optim.SGD(parameters, lr=0.0, momentum=side.beta1, weight_decay=side.weight_decay)
    rule: Any = torch.optim.AdamW if side.kind == "adamw" else torch.optim.Adam
    return rule(parameters, lr=0.0, betas=betas, eps=side.eps, weight_decay=side.weight_decay, fused=True)


class Shared:
    """One optimizer state for both objectives: the baseline of the published methods.

    A mask restricts the gradient, not the step: masked weights still move by the momentum of the other objective.
    """

    name = "shared"

    def __init__(self, parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> None:
        self.optimizers = {"shared": make_optimizer(config.retain, parameters)}

    def choose(self, objective: str) -> torch.optim.Optimizer:
        return self.optimizers["shared"]

    def step(self, objective: str, lr: float) -> None:
        """One step on the gradients in ``.grad`` with this objective's learning rate."""
        optimizer = self.choose(objective)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()


class Dual(Shared):
    """An optimizer state of its own for each objective, over the same parameters (DualOptim, arXiv 2504.15827).

    Masked weights have zero moments in the forget state: without weight decay, forget steps leave them bit-identical.
    """

    name = "dual"

    def __init__(self, parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> None:
        parameters = list(parameters)
        self.optimizers = {
            "forget": make_optimizer(config.forget, parameters),
            "retain": make_optimizer(config.retain, parameters),
        }

    def choose(self, objective: str) -> torch.optim.Optimizer:
        return self.optimizers[objective]


POLICIES: dict[str, type[Shared]] = {policy.name: policy for policy in (Shared, Dual)}


def make_policy(config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter]) -> Shared:
    check_policy(config.policy)
    return POLICIES[config.policy](parameters, config)


def check_policy(name: str) -> None:
    if name not in POLICIES:
        raise UserError(f"unknown optimizer policy {name!r}{nearest(name, POLICIES)}")


def cosine(step: int, steps: int) -> float:
    """(1 + cos(pi step / steps)) / 2: 1 at the first step, towards 0 at the last."""
    return 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def scheduled(objective: ObjectiveConfig, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and loss weight of an objective at round ``step`` of ``steps``."""
    fall = cosine(step, steps)
    rise = min(1.0, (step + 1) / objective.warmup) if objective.warmup else 1.0
    lr = objective.lr * rise * (fall if objective.lr_schedule == "cosine" else 1.0)
    return lr, objective.weight * (fall if objective.weight_schedule == "cosine" else 1.0)
