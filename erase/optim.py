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
    one_state = True

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
    one_state = False

    def __init__(self, parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> None:
        parameters = list(parameters)
        self.optimizers = {
            "forget": make_optimizer(config.forget, parameters),
            "retain": make_optimizer(config.retain, parameters),
        }

    def choose(self, objective: str) -> torch.optim.Optimizer:
        return self.optimizers[objective]


class BaseDelta(torch.optim.Optimizer):
    """Adam with base moments that all objectives feed and a delta for each (DualOptim+, arXiv 2605.21539).

    For objective k with gradient g, global count n and own count s, base moments bm, bv taken before this gradient::

        m_k <- b1 m_k + (1 - b1) (g - bm)        v_k <- b2 v_k + (1 - b2) (g^2 - bv)
        theta <- theta - lr (m_k / (1 - b1^s) + bm) / (sqrt|v_k / (1 - b2^s) + bv| + eps)

    Where the objectives agree the base carries the step, where they conflict the deltas do. Six moments a weight. v_k
    may be negative: a coordinate whose sum with bv crosses zero takes a large step, hence the absolute value.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], sides: dict[str, OptimizerSide], base: tuple[float, float]
    ) -> None:
        super().__init__(list(parameters), {"lr": 0.0})
        self.sides, self.base = sides, base

    def _moments(self, name: str, parameters: list[torch.nn.Parameter]) -> tuple[list[torch.Tensor], ...]:
        """First and second moments called ``name``, and their counter, made at zero where absent."""
        for p in parameters:
            for part in (f"{name}_m", f"{name}_v"):
                if part not in self.state[p]:
                    self.state[p][part] = torch.zeros_like(p)
        owner = self.state[parameters[0]]
        owner.setdefault(f"{name}_count", torch.zeros((), device=parameters[0].device))
        first, second = ([self.state[p][f"{name}_{part}"] for p in parameters] for part in "mv")
        return first, second, [owner[f"{name}_count"]]

    @torch.no_grad()
    def step(self, closure: Any = None, objective: str = "") -> None:  # type: ignore[override]
        side = self.sides[objective]
        everyone = self.param_groups[0]["params"]
        parameters = [p for p in everyone if p.grad is not None]
        if len(parameters) < len(everyone):  # a missing gradient is a zero one: the moments must decay alike
            for p in everyone:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            parameters = everyone
        lr, gradients = self.param_groups[0]["lr"], [p.grad for p in parameters]
        squares = torch._foreach_mul(gradients, gradients)
        base_m, base_v, (n,) = self._moments("base", parameters)
        own_m, own_v, (s,) = self._moments(objective, parameters)
        bm = _unbiased(base_m, self.base[0], n)
        bv = _unbiased(base_v, self.base[1], n)
        s += 1
        torch._foreach_lerp_(own_m, torch._foreach_sub(gradients, bm), 1 - side.beta1)
        torch._foreach_lerp_(own_v, torch._foreach_sub(squares, bv), 1 - side.beta2)
        direction = torch._foreach_add(_unbiased(own_m, side.beta1, s), bm)
        scale = torch._foreach_add(_unbiased(own_v, side.beta2, s), bv)
        torch._foreach_abs_(scale)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, side.eps)
        if side.weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * side.weight_decay)
        torch._foreach_addcdiv_(parameters, direction, scale, value=-lr)
        n += 1
        torch._foreach_lerp_(base_m, gradients, 1 - self.base[0])
        torch._foreach_lerp_(base_v, squares, 1 - self.base[1])


def _unbiased(moments: list[torch.Tensor], beta: float, count: torch.Tensor) -> list[torch.Tensor]:
    """moments / (1 - beta^count), and zero where nothing has been counted (or beta is 1)."""
    if beta == 1.0:
        return [torch.zeros_like(m) for m in moments]
    factor = torch.where(count > 0, 1 / (1 - beta ** count.double()).clamp(min=1e-300), 0.0).float()
    return list(torch._foreach_mul(moments, factor))


class DualPlus(Shared):
    """A common base state and a delta state for each objective (DualOptim+): between ``shared`` and ``dual``."""

    name = "dual_plus"
    one_state = False

    def __init__(self, parameters: Iterable[torch.nn.Parameter], config: OptimizerConfig) -> None:
        check_kinds(config)
        sides = {"forget": config.forget, "retain": config.retain}
        self.rule = BaseDelta(parameters, sides, (config.base.beta1, config.base.beta2))
        self.optimizers = {"dual_plus": self.rule}

    def step(self, objective: str, lr: float) -> None:
        for group in self.rule.param_groups:
            group["lr"] = lr
        self.rule.step(objective=objective)


POLICIES: dict[str, type[Shared]] = {policy.name: policy for policy in (Shared, Dual, DualPlus)}


def make_policy(config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter]) -> Shared:
    check_policy(config.policy)
    return POLICIES[config.policy](parameters, config)


def check_kinds(config: OptimizerConfig) -> None:
    """Raises UserError for an update rule that the policy has no form of."""
    for name, side in (("forget", config.forget), ("retain", config.retain)):
        if config.policy == DualPlus.name and side.kind != "adamw":
            raise UserError(f"dual_plus is a form of AdamW; optimizer.{name}.kind={side.kind} does not go with it")


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
