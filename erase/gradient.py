"""The gradient of an objective on a step's batches: taken at once, or added up over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from . import processes
from .data.latents import Batch
from .methods import Method
from .room import Room

Values = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Part:
    """Rows of the batches, by side, that share a backward pass. ``idle``: they are another process's."""

    rows: Mapping[str, slice]
    idle: bool = False

    def __len__(self) -> int:
        return 0 if self.idle else sum(rows.stop - rows.start for rows in self.rows.values())


class Backward:
    """Leaves the (edited) gradient of a method's objective in ``.grad``.

    At most ``micro_batch`` samples go through the module at once, and fewer once memory did not hold them. Several
    processes share the samples of each batch, and all end with the same gradient. It is added up part by part: two
    processes end with the bits of one that takes each batch in two parts.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        method: Method,
        parameters: Mapping[str, torch.nn.Parameter],
        micro_batch: int | None = None,
    ) -> None:
        self.accelerator, self.method, self.parameters = accelerator, method, parameters
        self.room = Room("training", micro_batch, "runtime.micro_batch")
        self.cut = 1  # this process's parts of the last batches

    def __call__(
        self,
        objective: str,
        batches: Mapping[str, Batch],
        weight: float = 1.0,
        reduce: Callable[[Values], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Leaves the (edited) gradient of ``weight`` x loss in ``.grad``; the loss.

        In parts the loss is the same function of all values: where it is no mean, its derivative by each value is
        found first, and the parts' gradients are taken with these factors.
        """
        mean = reduce is None and self.method.additive(objective)
        whole = reduce or (lambda values: self.method.reduce(objective, values[objective]))

        def attempt(size: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            for parameter in self.parameters.values():
                parameter.grad = None
            parts = _parts(batches, size)
            self.cut, fits = len(parts), len(parts) == 1
            if fits and processes.count() == 1:
                return self._at_once(batches, weight, whole)
            if mean:
                return self._of_mean(objective, batches, parts, weight)
            return self._by_slopes(batches, parts, weight, whole, fits)

        values, loss = self.room.fit(_share(batches), attempt)  # a joint loss holds both graphs
        self.method.observe({side: value.detach() for side, value in values.items()})
        self.method.edit_gradients(objective, weight)
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, side: str, batch: Batch) -> torch.Tensor:
        """The loss of one side's batch, without gradient; in the parts of the gradient before, which round alike."""
        batches = {side: batch}

        def attempt(size: int) -> torch.Tensor:
            parts = _parts(batches, size, self.cut)
            with processes.one_memory():
                found = [self._values(batches, part) for part in parts]
            values = self._whole(batches, parts, found)
            with self.accelerator.autocast():
                return self.method.reduce(side, values[side])

        return self.room.fit(_share(batches), attempt)

    def _at_once(
        self, batches: Mapping[str, Batch], weight: float, reduce: Callable[[Values], torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        with self.accelerator.autocast():
            values = {side: self.method.values(side, batch) for side, batch in batches.items()}
            loss = reduce(values)
        self.accelerator.backward(loss * weight)
        return values, loss

    def _values(self, batches: Mapping[str, Batch], part: Part) -> dict[str, torch.Tensor]:
        with self.accelerator.autocast():
            return {side: self.method.values(side, batches[side].part(rows)) for side, rows in part.rows.items()}

    def _whole(
        self, batches: Mapping[str, Batch], parts: Sequence[Part], found: Sequence[Values]
    ) -> dict[str, torch.Tensor]:
        """The values of all samples of each side, from those ``found`` for the parts of each process; detached."""
        device = self.accelerator.device
        values = {side: torch.zeros(len(batch), device=device) for side, batch in batches.items()}
        for part, pieces in zip(parts, found, strict=True):
            if not part.idle:
                for side, value in pieces.items():
                    values[side][part.rows[side]] = value.detach().float()
        processes.sum_(values.values())  # the others' are zeros
        return values

    def _of_mean(
        self, objective: str, batches: Mapping[str, Batch], parts: Sequence[Part], weight: float
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The values of all samples and their mean loss, whose gradient is added up in ``.grad``."""
        total = len(batches[objective])
        loss, found = torch.zeros((), device=self.accelerator.device), []
        with processes.one_memory():
            for part in parts:
                values = self._values(batches, part)[objective]
                with self.accelerator.autocast():
                    piece = self.method.reduce(objective, values) * (len(part) / total)
                self.accelerator.backward(piece * weight)
                found.append({objective: values.detach()})
                loss = loss + piece.detach()
        self._add_up(loss)
        return self._whole(batches, parts, found), loss

    def _by_slopes(
        self,
        batches: Mapping[str, Batch],
        parts: Sequence[Part],
        weight: float,
        reduce: Callable[[Values], torch.Tensor],
        fits: bool,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The values of all samples and the loss that ``reduce`` makes of them, its gradient added up in ``.grad``.

        The values are found in a first pass. Its graph is kept if it ``fits``, else a second pass makes it anew.
        """
        with processes.one_memory(), torch.set_grad_enabled(fits):
            found = [self._values(batches, part) for part in parts]
        leaves = {side: v.requires_grad_() for side, v in self._whole(batches, parts, found).items()}
        loss = reduce(leaves)
        slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        with processes.one_memory():
            for part, first in zip(parts, found, strict=True):
                values = first if fits else self._values(batches, part)
                pulls = [(value * slopes[side][part.rows[side]]).sum() for side, value in values.items()]
                self.accelerator.backward(torch.stack(pulls).sum() * (0.0 if part.idle else weight))
        self._add_up()
        return leaves, loss.detach()

    def _add_up(self, *others: torch.Tensor) -> None:
        """Sums ``.grad`` (and ``others``) over all processes."""
        processes.sum_([*(p.grad for p in self.parameters.values() if p.grad is not None), *others])


def _share(batches: Mapping[str, Batch]) -> int:
    """As many samples of these batches as fall to any process: what all halve alike where one has no room."""
    return sum(math.ceil(len(batch) / processes.count()) for batch in batches.values())


def _parts(batches: Mapping[str, Batch], size: int, least: int = 1) -> list[Part]:
    """This process's rows of the batches, in ``least`` parts or more of at most ``size``, as equal as can be.

    A part holds a share of each side, or of one where ``size`` is less than a row of each. Where this process has no
    rows it takes one that counts nothing, so that its gradient is of the same form.
    """
    if size < len(batches):
        return [part for side, batch in batches.items() for part in _parts({side: batch}, size, least)]
    own = {side: processes.my_rows(len(batch)) for side, batch in batches.items()}
    most = max(rows.stop - rows.start for rows in own.values())
    if not most:
        return [Part({next(iter(batches)): slice(0, 1)}, idle=True)]
    fewest = max(least, math.ceil(sum(rows.stop - rows.start for rows in own.values()) / size))
    for count in range(min(fewest, most), most + 1):
        parts = [Part(_share_of(own, number, count)) for number in range(count)]
        if max(map(len, parts)) <= size:
            break
    return parts


def _share_of(own: Mapping[str, slice], number: int, count: int) -> dict[str, slice]:
    """Part ``number`` of ``count`` of each of these rows; empty ones are left out."""
    found = {}
    for side, rows in own.items():
        start, stop = (rows.start + (rows.stop - rows.start) * end // count for end in (number, number + 1))
        if stop > start:
            found[side] = slice(start, stop)
    return found


class Take:
    """The backward passes of one joint step, and their losses by objective (the first of each)."""

    def __init__(self, backward: Backward) -> None:
        self.backward = backward
        self.losses: dict[str, torch.Tensor] = {}

    def __call__(
        self, side: str, batches: Mapping[str, Batch], reduce: Callable[[Values], torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        loss = self.backward(side, batches, 1.0, reduce)
        self.losses.setdefault(side, loss)
        return self._gradient()

    def whole(self, side: str, loss: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        for parameter in self.backward.parameters.values():
            parameter.grad = None
        with self.backward.accelerator.autocast():
            value, shown = loss()
        self.backward.accelerator.backward(value)
        self.losses.setdefault(side, shown.detach())
        gradient = self._gradient()
        processes.copy_main_(gradient)  # every process has taken the whole
        return gradient

    def _gradient(self) -> list[torch.Tensor]:
        parameters = self.backward.parameters.values()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
