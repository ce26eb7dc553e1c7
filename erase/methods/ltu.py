"""LTU: learning to unlearn (ECCV 2024, arXiv 2407.10494), carried over from classifiers to diffusion.

From the paper's abstract: three phases (meta-tune, meta-test, meta-update) with support and query sets, a small subset
of the retain set, and gradients that are harmonised. There is no official code. Our adaptation: the forget
feedback is a class-erasure loss in place of membership-inference models, which tell members of a class from
non-members and so would not remove it; support and query of the retain side hold different classes, those of the
forget side different images; the generic first- and second-order updates below, with plain gradient descent inside;
how a conflict is harmonised, by projection of the forget gradient; the subset's share; and retain labels are dropped
as in DiT's training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import rng
from ..config import setting
from ..errors import UserError
from . import base, erasure
from .surgery import conflict_weight


@dataclass(frozen=True)
class Options(erasure.Options):
    inner_lr: float = setting(1e-2, "size of the meta-tune step (plain gradient descent)", low=0.0)
    query_weight: float = setting(1.0, "weight of the query loss", low=0.0)
    order: int = setting(
        1, "1: the query's gradient at the tuned weights; 2: through the meta-tune step", low=1, high=2
    )
    harmonise: str = setting(
        "forget", "on conflict project the forget gradient, both, or none", choices=("forget", "symmetric", "none")
    )
    retain_share: float = setting(0.1, "share of each retained class that is at hand", above=0.0, high=1.0)


class LearningToUnlearn(erasure.Erasure):
    """For each objective k: theta_k' = theta - a grad l_k(S_k); G_k = grad [l_k(theta; S_k) + mu l_k(theta_k'; Q_k)].

    First order drops the derivative of theta_k' by theta. On conflict G_f loses its component along G_r.
    """

    name = "ltu"
    summary = "meta-gradients over support and query sets, harmonised, from a small retain subset"
    memory = 3
    updates = ("joint",)
    Options = Options

    @classmethod
    def check(cls, config: Any) -> None:
        for side in cls.objectives:
            if getattr(config.unlearn, side).batch_size < 2:
                raise UserError(
                    f"ltu halves each batch into support and query; unlearn.{side}.batch_size must be 2 or more"
                )
        if config.method.order == 2 and config.runtime.micro_batch is not None:
            raise UserError(
                "method.order=2 differentiates through its own step, which cannot be cut: no runtime.micro_batch"
            )
        if config.method.order == 2 and config.runtime.checkpointing:
            raise UserError(
                "method.order=2 differentiates through its own step, which no runtime.checkpointing can repeat"
            )

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        self.parameters = dict(parameters)

    def training_sets(self, sets: base.Sets, seed: int) -> base.Sets:
        """The retain set is cut to a share of each class, at least two images; a mirrored one goes with its own."""
        if len(np.unique(sets["forget"].rows % sets["forget"].moments.images)) < 2:
            raise UserError("ltu needs two forget images or more: support and query share none")
        retain = sets["retain"]
        items, chosen = retain.rows % retain.moments.images, []
        for label in np.unique(retain.labels):
            images = np.unique(items[retain.labels == label])
            order = rng.generator(seed, f"ltu/subset/{label}").permutation(len(images))
            chosen.append(images[order[: max(2, round(self.options.retain_share * len(images)))]])
        return {**sets, "retain": retain.part(np.isin(items, np.concatenate(chosen)))}

    def gradients(self, batches: Mapping[str, Any], take: base.TakeGradient) -> dict[str, base.Gradient]:
        meta = self.second_order if self.options.order == 2 else self.first_order
        halves = {"forget": by_image(batches["forget"]), "retain": by_class(batches["retain"])}
        gradients = {side: meta(side, *halves[side], take) for side in self.objectives}
        forget, retain = gradients["forget"], gradients["retain"]
        if self.options.harmonise != "none":
            gradients["forget"] = without_conflict(forget, retain)
        if self.options.harmonise == "symmetric":
            gradients["retain"] = without_conflict(retain, forget)
        return gradients

    def first_order(self, side: str, support: Any, query: Any, take: base.TakeGradient) -> base.Gradient:
        weights: list[torch.Tensor] = list(self.parameters.values())
        tune = take(side, {side: support})
        kept = [p.detach().clone() for p in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, tune, alpha=-self.options.inner_lr)
        test = take(side, {side: query})
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)
        return list(torch._foreach_add(tune, test, alpha=self.options.query_weight))

    def second_order(self, side: str, support: Any, query: Any, take: base.TakeGradient) -> base.Gradient:
        """G = g_S + mu (I - a H_S) grad l(theta'; Q), by differentiating through the meta-tune step."""

        def total() -> tuple[torch.Tensor, torch.Tensor]:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
                first = self.loss(side, support)
                tune = torch.autograd.grad(first, list(self.parameters.values()), create_graph=True, allow_unused=True)
                tuned = {
                    name: p if g is None else p - self.options.inner_lr * g
                    for (name, p), g in zip(self.parameters.items(), tune, strict=True)
                }
                query_loss = self.at(tuned, lambda: self.loss(side, query))
                return first + self.options.query_weight * query_loss, first

        return take.whole(side, total)

    def at(self, weights: Mapping[str, torch.Tensor], evaluate: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The value of ``evaluate`` with these weights in the parameters' place."""
        task, module = self.task, self.task.module

        def call(*words: Any, **named: Any) -> Any:
            return torch.func.functional_call(module, dict(weights), words, named, tie_weights=False)

        self.task = dataclasses.replace(task, module=call)
        try:
            return evaluate()
        finally:
            self.task = task


def by_image(batch: Any) -> tuple[Any, Any]:
    """Two parts that share no image, at any step: even and odd image numbers, mirrored or not.

    A batch of one kind alone is halved by its images.
    """
    return _parts(batch, batch.items % 2 == 0)


def by_class(batch: Any) -> tuple[Any, Any]:
    """Two parts that share no class: classes take turns in the batch's order, which differs at each step.

    An image whose label was dropped goes with its class. A batch of one class is halved by its images.
    """
    order = list(dict.fromkeys(batch.classes.tolist()))
    first = torch.tensor(order[::2], device=batch.classes.device)
    return _parts(batch, torch.isin(batch.classes, first))


def _parts(batch: Any, chosen: torch.Tensor) -> tuple[Any, Any]:
    if chosen.all() or not chosen.any():  # a small batch may hold one kind alone
        chosen = torch.isin(batch.items, batch.items.unique()[::2])
    if chosen.all():  # one image, drawn again
        chosen = torch.arange(len(batch), device=chosen.device) % 2 == 0
    return batch.part(chosen), batch.part(~chosen)


def without_conflict(gradient: base.Gradient, other: base.Gradient) -> base.Gradient:
    """``gradient`` projected on the normal plane of ``other`` if they point against each other."""
    weight = conflict_weight(gradient, other, 0.0)
    return list(torch._foreach_add(gradient, torch._foreach_mul(other, weight)))
