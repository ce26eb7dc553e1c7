"""How many samples go through a module at once: fewer, once the device's memory did not hold them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from tqdm import tqdm

from .errors import StoppedError

Made = TypeVar("Made")


class Room:
    """``size``: samples at once, at most; None for all that there are. ``doing`` names the work in what is said."""

    def __init__(self, doing: str, size: int | None = None, setting: str = "") -> None:
        self.doing, self.size, self.setting = doing, size, setting

    def fit(self, total: int, attempt: Callable[[int], Made]) -> Made:
        """What ``attempt(size)`` gives for ``total`` samples, repeated with half the size while memory runs out.

        An attempt must leave nothing behind that the next one would take for its own.
        """
        while True:
            size = max(1, min(total, self.size or total))
            try:
                return attempt(size)
            except torch.OutOfMemoryError as error:
                self.check(size, error)
            self.halve(size)  # out here the failed attempt's tensors are free again

    def check(self, size: int, error: BaseException) -> None:
        """Raises StoppedError where ``size`` cannot be halved."""
        if size <= 1:
            raise StoppedError(
                f"{self.doing}: the device's memory does not hold a single sample; free some of it, or try "
                "runtime.checkpointing=true or runtime.precision=bf16; what was saved is kept"
            ) from error

    def halve(self, size: int) -> None:
        """Half of ``size`` from now on, which it says on stderr."""
        self.size = (size + 1) // 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        setting = f" ({self.setting}={self.size} starts so)" if self.setting else ""
        tqdm.write(
            f"{self.doing}: out of memory with {size} samples at once, {self.size} from now on{setting}",
            file=sys.stderr,
        )
