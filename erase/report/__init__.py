"""Tables, grids, the model card, and the page: ``erase.report(path)`` writes it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType


class _Report(ModuleType):
    """This package, which can be called: a function of its name would hide it, or it the function."""

    def __call__(self, path: str | Path, output: str | Path | None = None) -> Path:
        """Writes one self-contained HTML page of a run or of a table's folder; where it lies.

        See :func:`erase.report.page.write_report`.
        """
        from .page import write_report

        return Path(write_report(path, output)["output"])


sys.modules[__name__].__class__ = _Report
