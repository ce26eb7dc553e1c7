"""Random label: the forget images are given the label of another class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..config import setting
from . import base

FORMS = ("relabel", "distill")


@dataclass(frozen=True)
class Options(base.Options):
    form: str = setting(
        "relabel",
        "relabel: train the other label on the forget images; distill: draw the forgotten label's prediction to the "
        "other's",
        choices=FORMS,
    )


class RandomLabel(base.Method):
    """Another retained class for each forget image, drawn anew at each step.

    ``relabel`` is what the published DiT code does. It teaches the other classes to draw the forgotten one and gives
    the forgotten label no gradient of its own, so the class is not expected to go.
    """

    name = "random_label"
    summary = "the forgotten label taught another class: by its prediction (all presets), or by relabelled images"
    Options = Options

    def other(self, batch: Any) -> torch.Tensor:
        """The label that stands in for each sample's own."""
        labels: torch.Tensor = self.task.random_class(batch)
        return labels

    def forget_values(self, batch: Any) -> torch.Tensor:
        other = self.other(batch)
        values: torch.Tensor
        if self.options.form == "relabel":
            values = self.task.loss(self.task.relabelled(batch, other))
        else:
            values = self.task.distance(batch, other)
        return values
