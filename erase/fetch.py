"""Weights that others publish, in torch's hub cache."""

from __future__ import annotations

import os
import re
import urllib.error
from pathlib import Path

import torch

from .errors import UserError


def published_weights(url: str, what: str, instead: str, download: bool = True) -> Path:
    """The file of ``url`` in torch's hub cache ($TORCH_HOME), fetched if it is not there and ``download`` is true.

    Raises UserError saying that ``what`` are missing, which file to fetch and where to put it, or ``instead``.
    """
    name = url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if download and not offline:
        mark = re.search(r"-([0-9a-f]{8,})\.", name)  # how the SHA-256 begins
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=mark and mark[1])
            return path
        except (OSError, urllib.error.URLError, RuntimeError):
            pass
    raise UserError(f"{what} are missing: fetch {url} and put it at {path}, or {instead}")
