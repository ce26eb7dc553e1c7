"""Retraining from scratch without the class: the reference that unlearning is measured against."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ..config import DitRecipe, build
from . import base, finetune


class Retrain(finetune.Finetune):
    """Fresh weights, trained on the retain set alone by the pack's own recipe (or the preset's); kept in the cache."""

    name = "retrain"
    summary = "train from scratch on the retain set: the gold reference"
    needs = ("retain images", "the time of a training")
    keeps_weights = True

    @classmethod
    def recorded(cls, about: Mapping[str, Any]) -> dict[str, Any]:
        """The DiT recipe under which ``erase pretrain`` made the pack. Raises UserError for one that cannot be."""
        recipe: Any = about
        for key in ("provenance", "recipe", "dit"):
            recipe = recipe.get(key) if isinstance(recipe, Mapping) else None
        if not isinstance(recipe, Mapping):
            return {}
        known = {field.name: recipe[field.name] for field in dataclasses.fields(DitRecipe) if field.name in recipe}
        made: DitRecipe = build(DitRecipe, known, "the pack's erase.json: provenance.recipe.dit")
        retain = {"batch_size": made.batch_size, "lr": made.lr, "warmup": made.warmup}
        plan = {"finish": made.steps, "average": made.ema, "label_dropout": made.label_dropout}
        return {"unlearn": {**plan, "retain": retain}}

    def start(self, precomputed: base.Tensors, parameters: Mapping[str, torch.nn.Parameter], seed: int = 0) -> None:
        with torch.no_grad():
            for name, value in self.task.fresh_weights(seed).items():
                parameters[name].copy_(value)
