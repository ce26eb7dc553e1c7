"""The arithmetic of docs/scaling.md against figures worked out by hand."""

import json

import pytest

from scripts import scaling
from scripts.scaling import Work, half_drawn, one_class, preset, reduce_seconds, seconds, whole_cells, work

F256 = 2 * 118.64e9  # the DiT paper's multiplications and additions, XL/2 at 256


@pytest.fixture(scope="module")
def job():
    return work("256", preset("256", "sfron", "dual"))


def test_the_document_holds_these_tables():
    text = scaling.DOC.read_text(encoding="utf-8")
    held = text.split(scaling.BEGIN)[1].split(scaling.END)[0]
    assert held.strip() == scaling.tables().strip(), "python -m scripts.scaling --write"


def test_operations_of_a_run_by_hand(job):
    """512 + 10,000 images of two models, 25 guided steps; 500 rounds of 16 + 16; Fisher of 2,000 + 2,000."""
    assert job.flops["sample"] == pytest.approx(2 * 10_512 * 25 * 2 * F256, rel=2e-3)
    assert job.flops["steps"] == pytest.approx(500 * 32 * 3 * F256, rel=2e-3)
    assert job.flops["beforehand"] == pytest.approx(4000 * 3 * F256, rel=2e-3)
    assert job.blocks == 2 * 106
    assert job.backwards == 1000


def test_other_methods_take_their_own_passes():
    flops = {
        method: work("256", preset("256", method, "shared")).flops["steps"] / (16 * F256)
        for method in ("salun", "eupmu", "sa")
    }
    assert flops == pytest.approx({"salun": 7000, "eupmu": 8000, "sa": 6000}, rel=2e-3)
    relabelled = work("256", preset("256", "salun", "shared", {"method": {"form": "relabel"}}))
    assert relabelled.flops["steps"] / (16 * F256) == pytest.approx(6000, rel=2e-3)


def test_recomputed_blocks_cost_a_fourth_pass_at_512():
    job = work("512", preset("512", "sfron", "dual"))
    assert job.flops["steps"] / job.flops["beforehand"] == pytest.approx(500 * 32 * 4 / (4000 * 3))


def test_a_stage_is_shared_no_finer_than_it_can_be(job):
    one, eight, many = (seconds(job, count, 675_000_000) for count in (1, 8, 64))
    assert one["exchange"] == 0
    assert eight["steps"] == pytest.approx(one["steps"] / 8)
    assert many["steps"] == pytest.approx(one["steps"] / 16)  # a side's batch is 16
    assert many["sample"] == pytest.approx(one["sample"] * 4 / 212)  # 212 blocks over 64
    assert many["encode"] == pytest.approx(one["encode"] / 64)


def test_gradients_go_twice_through_a_ring():
    assert reduce_seconds(1, 10**9) == 0
    inside = reduce_seconds(8, 10**9)
    assert inside == pytest.approx(2 * 7 / 8 * 4e9 / (450e9 * 0.7))
    assert reduce_seconds(64, 10**9) > 9 * inside


def test_cells_go_to_the_gpu_that_is_free_first():
    assert whole_cells([1, 4, 3, 2], 1) == 10
    assert whole_cells([1, 4, 3, 2], 2) == 5
    assert whole_cells([3.0] * 1000, 64) == 16 * 3


def test_a_cell_of_a_table_draws_one_model():
    job = Work({"encode": 4.0, "beforehand": 2.0, "steps": 6.0, "sample": 8.0, "decode": 2.0, "score": 2.0}, (4,), 3, 6)
    cell, original = half_drawn(job), half_drawn(job, only=True)
    assert cell.flops == {"encode": 0.0, "beforehand": 2.0, "steps": 6.0, "sample": 4.0, "decode": 1.0, "score": 1.0}
    assert sum(original.flops.values()) == 6.0
    assert original.flops["sample"] == 4.0
    assert (cell.blocks, original.backwards) == (3, 0)


def test_a_measured_rate_takes_the_place_of_the_assumed_one(tmp_path, monkeypatch):
    results = tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    rows = {"unlearn": [{"tflops": 300.0}, {"tflops": 500.0}, {"error": "out of memory"}], "vae": [{"error": "x"}]}
    (results / "gpu-some.json").write_text(json.dumps({"rows": rows}))
    before = scaling.speeds()
    monkeypatch.setattr(scaling, "ROOT", tmp_path)
    assert scaling.measured() == {"unlearn": 500e12}
    changed = [new for old, new in zip(before, scaling.speeds(), strict=True) if old != new]
    assert changed == ["| unlearn | 500 | 51% | measured |"]


def test_the_total_is_the_last_row():
    assert one_class("256")[-1].startswith("| total | 289")
