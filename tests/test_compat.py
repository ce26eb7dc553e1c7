"""torch-fidelity's function under its own name: the same arguments, keys and values."""

import numpy as np
import pytest
import torch_fidelity

import erase
from erase.errors import UserError

from .test_fidelity import folder, pack, pixels  # noqa: F401

NAMES = {
    "frechet_inception_distance", "kernel_inception_distance_mean", "kernel_inception_distance_std",
    "inception_score_mean", "inception_score_std", "precision", "recall", "f_score",
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("compat")
    return folder(root / "a", pixels(30)), folder(root / "b", pixels(40, seed=1))


def test_all_metrics_come_under_torch_fidelitys_keys(folders, pack):  # noqa: F811
    found = erase.calculate_metrics(
        *folders, isc=True, fid=True, kid=True, prc=True, feature_extractor=pack, cuda=False, batch_size=7
    )
    assert found.keys() == NAMES
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    assert found["frechet_inception_distance"] == pytest.approx(erase.fid(folders[0], folders[1], pack)[0]["fid"])
    alone = erase.calculate_metrics(folders[0], isc=True, feature_extractor=pack, cuda=False)
    assert alone == {name: found[name] for name in ("inception_score_mean", "inception_score_std")}


def test_the_arguments_are_torch_fidelitys():
    theirs = torch_fidelity.calculate_metrics.__doc__
    for name in erase.calculate_metrics.__kwdefaults__:
        assert f"{name} (" in theirs or f"{name}:" in theirs, name


def test_precision_is_of_the_first_set(folders, pack):  # noqa: F811
    first, second = (
        erase.calculate_metrics(*pair, prc=True, feature_extractor=pack) for pair in (folders, folders[::-1])
    )
    assert (first["precision"], first["recall"]) == (second["recall"], second["precision"])
    assert first["precision"] != first["recall"]


def test_nothing_asked_for_is_an_error(folders):
    with pytest.raises(UserError, match="no metric is asked for"):
        erase.calculate_metrics(*folders)
