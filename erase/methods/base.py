"""The form of a method: what it needs beforehand, its two losses, and how it edits gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Options:
    """Settings of a method; each method adds its own fields."""

    name: str = ""


@dataclass
class Beforehand:
    """What :meth:`Method.precompute` may use: named parameters, and batches of either set without label dropout.

    ``batches(objective, samples)`` yields batches of at least ``samples`` samples in all (whole batches).
    """

    module: torch.nn.Module
    batches: Callable[[str, int], Iterator[Any]]


class Method:
    """One way to forget. It owns no loop, optimizer, data or device.

    ``needs`` names what it takes (shown by ``erase methods``), ``objectives`` the gradients it steps on, in order.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("forget images", "retain images")
    objectives: ClassVar[tuple[str, ...]] = ("forget", "retain")
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any, task: Any) -> None:
        self.options = options
        self.task = task

    def precompute(self, beforehand: Beforehand) -> Tensors:
        """Tensors to be saved in the run folder; empty if the method needs none."""
        return {}

    def start(self, precomputed: Tensors, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        """Takes the (saved) tensors and the named parameters, on their device."""

    def loss(self, objective: str, batch: Any) -> torch.Tensor:
        """The scalar to minimise for ``objective``."""
        return self.forget_loss(batch) if objective == "forget" else self.retain_loss(batch)

    def forget_loss(self, batch: Any) -> torch.Tensor:
        raise NotImplementedError(f"{self.name} has no forget objective")

    def retain_loss(self, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = self.task.loss(batch).mean()
        return loss

    def edit_gradients(self, objective: str) -> None:
        """Changes ``.grad`` in place before clipping and the step."""

    def report(self, objective: str) -> dict[str, torch.Tensor]:
        """Numbers of the last step of ``objective`` for metrics.jsonl (0-dim tensors)."""
        return {}
