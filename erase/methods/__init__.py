"""The methods, by name. A new method is one file here and one line below."""

from __future__ import annotations

from typing import Any

from ..errors import UserError, nearest
from ..optim import POLICIES, check_policy
from .base import Beforehand, Method, Options
from .eupmu import EUPMU
from .finetune import Finetune
from .ga import GradientAscent
from .ltu import LearningToUnlearn
from .random_label import RandomLabel
from .retrain import Retrain
from .sa import SelectiveAmnesia
from .salun import SalUn
from .sfron import SFRon
from .surgery import Surgery

ALL: tuple[type[Method], ...] = (
    Finetune, GradientAscent, RandomLabel, SelectiveAmnesia, SalUn, SFRon, EUPMU, Surgery, LearningToUnlearn, Retrain,
)  # fmt: skip
METHODS: dict[str, type[Method]] = {method.name: method for method in ALL}


def find_method(name: str) -> type[Method]:
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest(name, METHODS)}")
    return METHODS[name]


def refusal(method: type[Method], policy: str) -> str | None:
    """Why this method cannot run under this policy, or None if it can."""
    check_policy(policy)
    if policy != "shared" and len(method.objectives) < 2:
        return f"{method.name} has one objective, so there is nothing to keep apart; use --optimizer shared"
    if policy != "shared" and method.single_backward:
        return f"{method.name} takes one backward pass for both losses, so it has one gradient; use --optimizer shared"
    return None


def default_policy(method: type[Method]) -> str:
    """``dual``, or ``shared`` for a method that has one gradient alone."""
    return "dual" if refusal(method, "dual") is None else "shared"


def matrix() -> list[dict[str, Any]]:
    """One row a method: name, summary, what it needs, how it updates, and for each policy None or why it cannot run."""
    return [
        {
            "method": method.name,
            "summary": method.summary,
            "needs": list(method.needs),
            "updates": list(method.updates),
            "policies": {policy: refusal(method, policy) for policy in POLICIES},
        }
        for method in METHODS.values()
    ]


__all__ = [
    "METHODS", "POLICIES", "Beforehand", "Method", "Options", "default_policy", "find_method", "matrix", "refusal",
]  # fmt: skip
