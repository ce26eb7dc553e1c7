"""Shared fixtures. No test may reach a network, the user's cache, or the shipped pack."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from .helpers import make_transformer

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    os.environ["ERASE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny():
    """A two-layer DiT with 12 label slots, tied, no weight at zero."""
    return make_transformer()
