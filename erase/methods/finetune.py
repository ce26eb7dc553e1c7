"""Retain objective alone: fine-tuning, and the training of a DiT from scratch."""

from typing import ClassVar

from .base import Method, Options


class Finetune(Method):
    name = "finetune"
    summary = "train on the retain set alone and hope that the class fades"
    needs: ClassVar[tuple[str, ...]] = ("retain images",)
    objectives = ("retain",)
    updates = ("alternating",)
    Options = Options
