"""Mean and covariance of features that stream by, in float64; memory does not grow with their number."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UserError
from .fid import Statistics

ROWS = 512  # a fixed block, so that the sums do not depend on the batches that features arrive in


class Moments:
    """Running mean (d) and scatter (d x d, sum of outer products about the mean) of n x d features.

    Each full block of features is one matrix product, merged by the pairwise update of Chan, Golub and LeVeque (1983),
    which does not cancel where the mean is large beside the spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = None
        self.scatter: Any = None
        self._waiting: list[torch.Tensor] = []
        self._rows = 0

    def add(self, features: torch.Tensor) -> None:
        """Takes n x d features, on any device; sums stay there."""
        self._waiting.append(features)
        self._rows += len(features)
        if self._rows >= ROWS:
            rows = torch.cat(self._waiting)
            full = len(rows) - len(rows) % ROWS
            for block in rows[:full].split(ROWS):
                self._take(block)
            self._waiting, self._rows = [rows[full:]], len(rows) - full

    def _take(self, block: torch.Tensor) -> None:
        values = block.double()
        mean = values.mean(0)
        centred = values - mean
        self._merge(len(block), mean, centred.T @ centred)

    def _merge(self, count: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
        if self.count == 0:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        total, step = self.count + count, mean - self.mean
        self.mean = self.mean + step * (count / total)
        self.scatter += scatter
        self.scatter += torch.outer(step, step).mul_(self.count * count / total)
        self.count = total

    def _flush(self) -> None:
        if self._rows:
            self._take(torch.cat(self._waiting))
        self._waiting, self._rows = [], 0

    def cpu(self) -> Moments:
        """A copy on the CPU."""
        self._flush()
        copy = Moments()
        if self.count:
            copy._merge(self.count, self.mean.cpu(), self.scatter.cpu())
        return copy

    def merge(self, other: Moments) -> None:
        """Adds what another has seen."""
        self._flush()
        other._flush()
        if other.count:
            self._merge(other.count, other.mean, other.scatter.clone())

    def statistics(self) -> Statistics:
        """``mu`` (d) and ``sigma`` (d x d, over n - 1), float64. Raises UserError for n < 2 or a value not finite."""
        self._flush()
        if self.count < 2:
            raise UserError(f"a Frechet distance needs at least 2 images, not {self.count}")
        sigma = self.scatter / (self.count - 1)
        if not torch.isfinite(sigma).all():
            raise UserError("the extractor gave a feature that is not finite")
        return {"mu": self.mean.cpu().numpy(), "sigma": sigma.cpu().numpy()}
