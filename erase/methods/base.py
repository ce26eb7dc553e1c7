"""The form of a method: what it needs beforehand, its two losses, and how it edits gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from ..config import setting

Tensors = dict[str, torch.Tensor]
Gradient = list[torch.Tensor]
Sets = dict[str, Any]
Values = Mapping[str, torch.Tensor]


class TakeGradient(Protocol):
    """One backward pass, after which the method edits ``.grad`` for ``side``; the gradient, by parameter."""

    def __call__(
        self, side: str, batches: Mapping[str, Any], reduce: Callable[[Values], torch.Tensor] | None = None
    ) -> Gradient: ...

    def whole(self, side: str, loss: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Gradient:
        """The same for a loss that cannot be cut into micro-batches: what to differentiate, and what to report."""
        ...


@dataclass(frozen=True)
class Options:
    """Settings of a method; each method adds its own fields."""

    name: str = setting("", "the method, see erase methods")


@dataclass
class Beforehand:
    """What :meth:`Method.precompute` may use.

    ``batches(source, samples)`` yields batches without label dropout, of at least ``samples`` samples in all (whole
    batches); the source is a side ("forget", "retain") or a set. ``replay(per_class)`` gives a set of that many images
    of each class drawn by the model itself. At most ``part`` samples go through the module at once.
    """

    module: torch.nn.Module
    batches: Callable[[Any, int], Iterable[Any]]
    replay: Callable[[int], Any] | None = None
    part: int | None = None

    def cut(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same samples in batches of at most ``part``."""
        return (piece for batch in batches for piece in batch.parts(self.part or len(batch)))

    def images(self, source: Any, count: int) -> Iterator[Any]:
        """``count`` images as batches of one."""
        single = (batch.part(slice(i, i + 1)) for batch in self.batches(source, count) for i in range(len(batch)))
        return itertools.islice(single, count)


def inner(first: Gradient, second: Gradient) -> torch.Tensor:
    """<first, second> over all parameters, 0-dim."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()


class Method:
    """One way to forget. It owns no loop, optimizer, data or device.

    ``needs`` names what it takes (shown by ``erase methods``) and ``objectives`` the gradients it steps on, in order.
    ``updates`` says how they may take turns, its default first: ``alternating`` (each gradient at the weights that the
    other's step left) or ``joint`` (both at the same weights). ``single_backward``: one pass gives one joint gradient.

    ``precomputed_from`` names the options on which :meth:`precompute` depends, and ``per_model`` says that neither
    classes nor seed matter to it, so that runs can share what was computed. ``keeps_weights``: the weights it ends with
    are worth a place in the cache. ``memory`` is what the method keeps, in fp32 copies of the weights. ``quick`` are
    options under which precomputing takes a moment.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ("forget images", "retain images")
    objectives: ClassVar[tuple[str, ...]] = ("forget", "retain")
    updates: ClassVar[tuple[str, ...]] = ("alternating", "joint")
    single_backward: ClassVar[bool] = False
    precomputed_from: ClassVar[tuple[str, ...]] = ()
    per_model: ClassVar[bool] = False
    keeps_weights: ClassVar[bool] = False
    memory: ClassVar[float] = 0
    quick: ClassVar[dict[str, Any]] = {}
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any, task: Any) -> None:
        self.options = options
        self.task = task

    @classmethod
    def check(cls, config: Any) -> None:
        """Raises UserError for settings of the whole run that this method cannot go with."""

    @classmethod
    def recorded(cls, about: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that a pack's own record (its erase.json) gives this method, in place of its default preset's."""
        return {}

    def precompute(self, beforehand: Beforehand) -> Tensors:
        """Tensors to be saved in the run folder; empty if the method needs none."""
        return {}

    def start(self, precomputed: Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        """Takes the (saved) tensors and the named parameters, on their device."""

    def training_sets(self, sets: Sets, seed: int) -> Sets:
        """The sets to train on, by objective, after :meth:`start`: the split's own, or others in their place."""
        return sets

    def values(self, objective: str, batch: Any) -> torch.Tensor:
        """Per-sample values that do not interact, fp32, n: all that a loss needs to know of a batch."""
        values: torch.Tensor = self.forget_values(batch) if objective == "forget" else self.task.loss(batch)
        return values

    def forget_values(self, batch: Any) -> torch.Tensor:
        raise NotImplementedError(f"{self.name} has no forget objective")

    def reduce(self, objective: str, values: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise, from all values of a step; a mean over samples unless :meth:`additive` says not."""
        return values.mean()

    def additive(self, objective: str) -> bool:
        """Whether :meth:`reduce` is a mean over samples, so that parts of a batch can be taken one after the other."""
        return True

    def loss(self, objective: str, batch: Any) -> torch.Tensor:
        """The scalar to minimise for ``objective``."""
        return self.reduce(objective, self.values(objective, batch))

    def observe(self, values: Values) -> None:
        """Sees the values (detached) behind each gradient, for reports and for what the next step needs."""

    def edit_gradients(self, objective: str, weight: float = 1.0) -> None:
        """Changes ``.grad``, the gradient of ``weight`` x loss, in place before clipping and the step."""

    def gradients(self, batches: Mapping[str, Any], take: TakeGradient) -> dict[str, Gradient]:
        """Joint updates: the gradient of each objective at the same weights, by parameter.

        Edits that need both gradients belong here.
        """
        return {side: take(side, {side: batches[side]}) for side in self.objectives}

    def after_step(self, batches: Mapping[str, Any], lr: float, evaluate: Callable[[str, Any], torch.Tensor]) -> None:
        """Joint updates: sees what the step did. ``evaluate(side, batch)`` is :meth:`loss` without gradient."""

    def state(self) -> Tensors:
        """The method's own state, as tensors that are written to disk and restored in place."""
        return {}

    def report(self, objective: str) -> Tensors:
        """Numbers of the last step of ``objective`` for metrics.jsonl (0-dim tensors)."""
        return {}
