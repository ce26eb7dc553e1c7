"""A compiled transformer, for as long as a context lasts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .errors import UserError


def check_compile(wanted: bool, device: str, order: int = 1) -> None:
    """Raises UserError where ``runtime.compile`` cannot work. ``device``: cpu or cuda; ``order`` of derivatives."""
    if not wanted:
        return
    if order == 2:
        raise UserError("runtime.compile has no second derivative, which method.order=2 needs; leave one of them out")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("runtime.compile needs triton, which is not installed; leave it false")
    if device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError("runtime.compile needs a C++ compiler on a CPU, and there is no g++; leave it false")


@contextmanager
def compiled(transformer: Any, wanted: bool, drawing: bool = False) -> Iterator[None]:
    """Inside, the transformer runs compiled, if ``wanted``; the names of weights stay as they are.

    Block by block, since all have the same code: one is compiled for all. For ``drawing`` on a CPU as a whole, which
    runs the embedder that all blocks share once and saves several times as much. Hooks are not seen meanwhile.
    """
    whole = drawing and transformer.device.type == "cpu"
    parts = ([transformer] if whole else list(transformer.transformer_blocks)) if wanted else []
    if wanted:
        print("runtime.compile: compiling, so the first step of each kind takes up to minutes", file=sys.stderr)
    for part in parts:
        part.compile()
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether any part of it runs compiled."""
    return any(part._compiled_call_impl is not None for part in module.modules())
