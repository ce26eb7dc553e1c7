"""The gradient of an objective on a step's batches: taken at once, or added up over micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator

from .data.latents import Batch
from .methods import Method

Values = Mapping[str, torch.Tensor]


class Backward:
    """Leaves the (edited) gradient of a method's objective in ``.grad``; at most ``micro_batch`` samples at once."""

    def __init__(
        self,
        accelerator: Accelerator,
        method: Method,
        parameters: Mapping[str, torch.nn.Parameter],
        micro_batch: int | None = None,
    ) -> None:
        self.accelerator, self.method, self.parameters = accelerator, method, parameters
        self.micro_batch = micro_batch

    def __call__(
        self,
        objective: str,
        batches: Mapping[str, Batch],
        weight: float = 1.0,
        reduce: Callable[[Values], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Leaves the (edited) gradient of ``weight`` x loss in ``.grad``; the loss.

        With micro-batches the loss is the same function of all values: where it is no mean, a first pass without
        gradient finds its derivative by each value, and a second one takes the parts' gradients with these factors.
        """
        method, size = self.method, self.micro_batch
        whole = size is None or sum(map(len, batches.values())) <= size  # a joint loss holds both graphs
        mean = reduce is None and method.additive(objective)
        reduce = reduce or (lambda values: method.reduce(objective, values[objective]))
        for parameter in self.parameters.values():
            parameter.grad = None
        if whole:
            with self.accelerator.autocast():
                values = {side: method.values(side, batch) for side, batch in batches.items()}
                loss = reduce(values)
            self.accelerator.backward(loss * weight)
        else:
            parts = [(side, part) for side, batch in batches.items() for part in batch.parts(size or 1)]
            values, loss = self._in_parts(objective, parts, weight, None if mean else reduce)
        method.observe({side: value.detach() for side, value in values.items()})
        method.edit_gradients(objective, weight)
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, side: str, batch: Batch) -> torch.Tensor:
        with self.accelerator.autocast():
            parts = [batch] if self.micro_batch is None else batch.parts(self.micro_batch)
            return self.method.reduce(side, torch.cat([self.method.values(side, part) for part in parts]))

    def _in_parts(
        self,
        objective: str,
        parts: list[tuple[str, Batch]],
        weight: float,
        reduce: Callable[[Values], torch.Tensor] | None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The values of all parts and the loss; its gradient is added up in ``.grad``. No ``reduce``: it is a mean."""
        sides = list(dict.fromkeys(side for side, _ in parts))
        seen: dict[str, list[torch.Tensor]] = {side: [] for side in sides}
        factors: dict[str, list[torch.Tensor]] = {}
        loss = torch.zeros((), device=self.accelerator.device)
        if reduce is not None:
            with torch.no_grad(), self.accelerator.autocast():
                for side, part in parts:
                    seen[side].append(self.method.values(side, part))
            leaves = {side: torch.cat(values).requires_grad_() for side, values in seen.items()}
            loss = reduce(leaves)
            slopes = torch.autograd.grad(loss, list(leaves.values()))
            lengths = {side: [len(value) for value in seen[side]] for side in sides}
            factors = {side: list(slope.split(lengths[side])) for side, slope in zip(sides, slopes, strict=True)}
            seen = {side: [] for side in sides}
        total = sum(len(part) for _, part in parts)
        for side, part in parts:
            with self.accelerator.autocast():
                values = self.method.values(side, part)
                if reduce is None:
                    piece = self.method.reduce(objective, values) * (len(part) / total)
                    loss = loss + piece.detach()
                else:
                    piece = (values * factors[side][len(seen[side])]).sum()
            self.accelerator.backward(piece * weight)
            seen[side].append(values.detach())
        return {side: torch.cat(values) for side, values in seen.items()}, loss


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
        return self._gradient()

    def _gradient(self) -> list[torch.Tensor]:
        parameters = self.backward.parameters.values()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
