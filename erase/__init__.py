"""Make a class-conditional diffusion transformer forget a class, and measure that it did.

Importing this module does not import torch; its names do when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Model": "model",
    "PretrainConfig": "config",
    "RunConfig": "config",
    "UserError": "errors",
    "calculate_metrics": "compat",
    "fid": "fidelity",
    "grid": "report.compare",
    "load_model": "model",
    "pretrain": "pretraining",
    "report": "report",
    "run": "unlearning",
    "sample": "sampling",
    "save_model": "model",
    "score": "evaluation",
}
__all__ = [
    "Model", "PretrainConfig", "RunConfig", "UserError", "calculate_metrics", "fid", "grid", "load_model", "pretrain",
    "report", "run", "sample", "save_model", "score",
]  # fmt: skip

if TYPE_CHECKING:
    from . import report
    from .compat import calculate_metrics
    from .config import PretrainConfig, RunConfig
    from .errors import UserError
    from .evaluation import score
    from .fidelity import fid
    from .model import Model, load_model, save_model
    from .pretraining import pretrain
    from .report.compare import grid
    from .sampling import sample
    from .unlearning import run


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'erase' has no attribute {name!r}")
    home = importlib.import_module(f".{_HOMES[name]}", __name__)
    value = home if name == _HOMES[name] else getattr(home, name)  # erase.report is a package that can be called
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
