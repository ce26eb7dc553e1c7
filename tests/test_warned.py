"""What a finished run is told of."""

import json

import pytest

from erase.warned import retain_growth, warnings_of


def results(before=(0.98, 0.99), after=(0.0, 0.98)):
    sides = (("original", before), ("erased", after))
    return {"models": {side: {"fa": fa, "ra": ra} for side, (fa, ra) in sides}}


def write(path, losses, joint=False, **more):
    name = "retain_loss" if joint else "loss"
    rows = [{"step": i, "objective": "joint" if joint else "retain", name: x, **more} for i, x in enumerate(losses)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_that_went_well_is_told_nothing(tmp_path):
    assert warnings_of(results(), write(tmp_path / "m", [0.2] * 50)) == []
    assert warnings_of(results((None, None), (None, None)), tmp_path / "none") == []


@pytest.mark.parametrize("after", [0.98, 0.95, 1.0])
def test_nothing_forgotten(tmp_path, after):
    (said,) = warnings_of(results(after=(after, 0.99)), tmp_path / "none")
    assert said.startswith("nothing was forgotten: FA 98.0 % before")
    assert warnings_of(results(after=(0.9, 0.99)), tmp_path / "none") == []


def test_the_others_harmed(tmp_path):
    (said,) = warnings_of(results(after=(0.0, 0.6)), tmp_path / "none")
    assert said.startswith("the other classes are harmed: RA 99.0 % before, 60.0 % after")


@pytest.mark.parametrize("joint", [False, True])
def test_a_retain_loss_that_runs_away(tmp_path, joint):
    (said,) = warnings_of(results(), write(tmp_path / "m", [0.2] * 40 + [0.9] * 10, joint))
    assert said.startswith("the retain loss ran away: it grew 4.5-fold")
    one_peak = [0.2] * 44 + [9.0] + [0.2] * 5
    assert warnings_of(results(), write(tmp_path / "m", one_peak, joint)) == []


def test_too_few_steps_tell_nothing_of_growth():
    assert retain_growth([{"objective": "retain", "loss": float(i + 1)} for i in range(9)]) is None


def test_skipped_steps_are_counted(tmp_path):
    (said,) = warnings_of(results(), write(tmp_path / "m", [None] * 3, skipped=True))
    assert said.startswith("3 steps were skipped")
