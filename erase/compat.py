"""torch-fidelity's function under its own name and its own keys, by this package's metrics."""

from __future__ import annotations

from pathlib import Path

from .errors import UserError
from .evaluation import score
from .extractors import INCEPTION
from .report.scores import aliases


def calculate_metrics(
    input1: str | Path,
    input2: str | Path | None = None,
    *,
    isc: bool = False,
    fid: bool = False,
    kid: bool = False,
    prc: bool = False,
    feature_extractor: str = INCEPTION,
    feature_extractor_weights_path: str | None = None,
    batch_size: int | None = None,
    cuda: bool = True,
) -> dict[str, float]:
    """What ``torch_fidelity.calculate_metrics`` gives, for scripts that call it: ``frechet_inception_distance``, ....

    ``input1``: generated images, a folder or an .npz; ``input2``: real ones, as the reference of :func:`erase.score`.
    ``cuda``: use a GPU if there is one. Raises UserError if nothing is asked for, and as :func:`erase.score`.
    """
    asked = [name for name, wanted in (("isc", isc), ("fid", fid), ("kid", kid), ("prc", prc)) if wanted]
    if not asked:
        raise UserError("no metric is asked for; set isc, fid, kid or prc to True")
    rows = score(
        input1,
        asked,
        input2,
        feature_extractor,
        bootstrap=0,
        batch=batch_size,
        weights=feature_extractor_weights_path,
        device="auto" if cuda else "cpu",
    )
    if len(rows) != 1:
        raise UserError(f"{input1} is a run, which has two sets; give one of its folders under samples/")
    return aliases(rows[0]["metrics"])
