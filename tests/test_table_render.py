"""What a table says of cells whose scores are known."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from erase.table.numbers import choose
from erase.table.run import run_table

from .table_helpers import Stub, entry, scores

ROW = {"method": "sfron", "optimizer": "dual"}


@pytest.fixture
def table(tmp_path):
    """A table whose cells are ``outcome(task)``: what its JSON holds, and its Markdown."""

    def run(outcome, **values):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"title": "T", "classes": [0, 1], "seeds": [0, 1, 2], "rows": [ROW], **values}))
        content = run_table(str(path), str(tmp_path / "out"), runner=Stub(outcome))
        assert content == json.loads((tmp_path / "out" / "mine.json").read_text())
        return content, (tmp_path / "out" / "mine.md").read_text()

    return run


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def by_class_and_seed(task):
    """FA 0.1 x class + 0.01 x seed."""
    return entry(scores(0.1 * task.request.forget[0] + 0.01 * task.request.seed))


def test_over_classes_the_deviation_is_that_of_the_seeds_averages(table):
    content, text = table(by_class_and_seed)
    row = content["rows"][1]
    assert row["over_classes"]["fa"] == pytest.approx({"mean": 0.06, "std": 0.01, "n": 3})  # over all 6 cells: 0.055
    assert row["classes"]["1"]["fa"] == pytest.approx({"mean": 0.11, "std": 0.01, "n": 3})
    assert "| **sfron** | dual | all | 6.0 ± 1.0 |" in text
    assert "| sfron | dual | 1 | 11.0 ± 1.0 |" in text
    assert lines_of(text, "| sfron | dual |")[0].startswith(
        "| sfron | dual | 0.002 | 6.0 ± 1.0 | 98.0 ± 0.0 | 2.00 ± 0.00 |"
    )


def test_a_seed_that_lacks_a_class_does_not_move_the_average_over_classes(table):
    def outcome(task):
        lost = (task.request.forget, task.request.seed) == ([0], 2)
        return {"error": "lost"} if lost else by_class_and_seed(task)

    content, text = table(outcome)
    row = content["rows"][1]
    assert lines_of(text, "| sfron | dual |")[0].split(" | ")[8:10] == ["5 of 6", "2"], "two whole seeds"
    assert row["over_classes"]["fa"] == pytest.approx({"mean": 0.055, "std": 0.00707107, "n": 2})
    assert row["counts"]["done"] == 5


def test_the_original_is_scored_once_a_class(table):
    def outcome(task):
        return entry(original=scores(0.9 + 0.1 * task.request.forget[0], 0.97, 1.5 + task.request.forget[0]))

    content, text = table(outcome)
    original = content["rows"][0]
    assert original["name"] == "original"
    assert original["over_classes"]["fa"] == pytest.approx({"mean": 0.95, "std": None, "n": 1})
    assert original["classes"]["1"]["fid"]["mean"] == 2.5
    assert lines_of(text, "| original |")[0].startswith("| original |  |  | 95.0 | 97.0 | 2.00 | - | - |")


def test_the_retrained_model_is_the_floor_class_by_class(table):
    fid = {("retrain", 0): 1.0, ("retrain", 1): 2.0, ("sfron", 0): 1.1, ("sfron", 1): 2.5}

    def outcome(task):
        return entry(scores(fid=fid[task.request.method, task.request.forget[0]]))

    content, text = table(outcome, rows=[ROW, {"method": "retrain", "optimizer": "shared"}])
    original, sfron, floor = content["rows"]
    assert original["over_classes"]["fid_excess"]["mean"] == pytest.approx(0.5)
    assert sfron["over_classes"]["fid_excess"] == pytest.approx({"mean": 0.3, "std": 0, "n": 3})
    assert sfron["over_classes"]["fid_ratio"]["mean"] == pytest.approx(0.9)
    assert floor["over_classes"]["fid_excess"]["mean"] == 0
    assert (sfron["counts"]["near_retrained"], sfron["counts"]["with_retrained"]) == (3, 6)
    head, line = lines_of(text, "| method |")[0].split(" | "), lines_of(text, "| sfron | dual |")[0].split(" | ")
    assert dict(zip(head, line, strict=True))["FID ≤ 1.2 x"] == "3"


def test_bounds_are_counted_with_their_ends(table):
    def outcome(task):
        ra = {0: 0.96, 1: 0.9599, 2: 0.99}[task.request.seed]
        return entry(scores(0.02 if task.request.forget == [0] else 0.021, ra))

    content, text = table(outcome)
    assert content["rows"][1]["counts"] == {
        "cells": 6, "done": 6, "forgotten": 3, "retained": 4, "near_retrained": 0, "with_retrained": 0,
    }  # fmt: skip
    head, line = lines_of(text, "| method |")[0].split(" | "), lines_of(text, "| sfron | dual |")[0].split(" | ")
    shown = dict(zip(head, line, strict=True))
    assert (shown["FA ≤ 2 %"], shown["RA ≤ 2 down"], "FID ≤ 1.2 x" in shown) == ("3", "4", False)


def test_time_is_of_unlearning_and_memory_of_the_largest(table):
    def outcome(task):
        return entry(seconds=30.0 + task.request.seed, peak=(1 + task.request.seed) * 2**30)

    content, text = table(outcome)
    assert content["rows"][1]["seconds"] == pytest.approx(31 * 2 / 3, abs=1e-4)
    assert content["rows"][1]["peak_memory"] == 3 * 2**30
    assert "| 6 of 6 | 3 | 6 | 6 | 11 | 21 | 3.00 GiB |" in text


def test_what_is_computed_once_counts_for_every_policy_of_the_method(table):
    def outcome(task):
        first = task.name == "sa dual, class 0, seed 0"
        return {**entry(), "seconds": {"precompute": 44.0 if first else 0.1, "unlearn": 20.0, "total": 80.0}}

    content, _ = table(outcome, rows=[{"method": "sa", "policies": ["dual", "shared"]}, ROW])
    assert [row["seconds_beforehand"] for row in content["rows"][1:]] == [44.0, 44.0, 0.1]


def test_the_time_of_a_continued_cell_is_not_known(table):
    def outcome(task):
        return {**entry(seconds=3.0), "continued": True} if task.request.seed else entry(seconds=30.0)

    assert table(outcome)[0]["rows"][1]["seconds"] == 20.0
    content, text = table(lambda task: {**entry(), "continued": True}, seeds=[5])
    assert content["rows"][1]["seconds"] is None
    assert "| 2 of 2 | 1 | 2 | 2 | 10 | - | 1.00 GiB |" in text


def test_a_row_says_its_forget_rate_wherever_it_was_set(table):
    rows = [
        ROW,
        {**ROW, "name": "slow", "set": {"unlearn.forget.lr": 1e-5}},
        {"method": "finetune", "optimizer": "shared"},
    ]
    content, text = table(lambda task: entry(), rows=rows)
    assert [row.get("forget_lr") for row in content["rows"]] == [None, 2e-3, 1e-5, None]
    assert "| slow | dual | 1e-05 |" in text
    assert "| finetune | shared |  |" in text


def test_a_class_that_always_fails_leaves_no_average_over_the_others(table):
    def outcome(task):
        return {"error": "diverged"} if task.request.forget == [1] else entry()

    content, text = table(outcome)
    row = content["rows"][1]
    assert row["over_classes"]["fa"] is None
    assert row["classes"]["0"]["fa"]["n"] == 3
    assert lines_of(text, "| sfron | dual |")[0].endswith("| 3 of 6 | 0 | 3 | 3 | 10 | 20 | 1.00 GiB |")


def test_without_every_class_s_retrained_model_there_is_no_excess_over_classes(table):
    def outcome(task):
        return {"error": "lost"} if (task.request.method, task.request.forget) == ("retrain", [1]) else entry()

    content, _ = table(outcome, rows=[ROW, {"method": "retrain", "optimizer": "shared"}])
    for row in content["rows"][:2]:
        assert row["over_classes"]["fid_excess"] is None
        assert row["classes"]["0"]["fid_excess"]["mean"] == 0


def test_notes_stand_under_the_table(table):
    _, text = table(lambda task: entry(), notes=["Mind the <gap>."])
    assert "\n\nMind the \\<gap\\>.\n\n## Class by class\n" in text


def test_scores_that_are_missing_are_dashes(table):
    nothing = dict.fromkeys(scores())
    content, text = table(lambda task: entry(nothing, nothing))
    assert content["rows"][1]["over_classes"]["fid"] is None
    assert "| sfron | dual | 0.002 | - | - | - | - | - |" in text
    assert content["rows"][1]["counts"]["forgotten"] == 0


def test_a_table_of_failures_alone_can_be_rendered(table):
    for kind in ({}, {"kind": "search"}, {"kind": "sensitivity", "sweep": {"unlearn.forget.lr": [1e-4, 1e-3]}}):
        content, text = table(lambda task: {"error": "no luck"}, **kind)
        assert content["done"] == 0
        assert "Failed: sfron dual" in text


RATES = (1e-4, 1e-3, 1e-2)


def search(table, numbers, **values):
    """``numbers[rate]``: (fa, ra, fid), or a function of the task."""

    def outcome(task):
        found = numbers[task.settings["unlearn"]["forget"]["lr"]]
        return entry(scores(*(found(task) if callable(found) else found)))

    return table(outcome, kind="search", trials=[{"unlearn.forget.lr": rate} for rate in RATES], **values)


def test_a_search_chooses_the_lowest_fid_among_the_trials_whose_every_cell_is_good(table):
    def one_cell_bad(task):
        return (0.03 if (task.request.forget, task.request.seed) == ([1], 2) else 0.0, 0.98, 0.5)

    content, text = search(table, {1e-4: (0.02, 0.97, 1.8), 1e-3: (0.0, 0.965, 1.7), 1e-2: one_cell_bad})
    (row,) = content["rows"]
    assert row["chosen"] == 1
    assert row["settings"] == {"unlearn.forget.lr": 1e-3}
    assert row["trials"][2]["worst_fa"] == 0.03
    assert row["trials"][1]["worst_ra_drop"] == pytest.approx(0.015)
    assert [trial["good"] for trial in row["trials"]] == [True, True, False]
    assert lines_of(text, "| sfron | dual | unlearn.forget.lr=0.001 |") == [
        "| sfron | dual | unlearn.forget.lr=0.001 | 0.0 | 0.0 | 1.50 | 1.70 | 6 of 6 | **chosen** |"
    ]


def test_a_search_without_a_good_trial_takes_the_lowest_fa_and_then_the_lower_fid(table):
    content, text = search(table, {1e-4: (0.3, 0.98, 1.0), 1e-3: (0.1, 0.98, 2.0), 1e-2: (0.1, 0.98, 1.9)})
    assert content["rows"][0]["chosen"] == 2
    assert "**chosen**, none being good" in text


def test_the_chosen_settings_hold_the_row_s_own_too(table):
    content, _ = search(
        table, dict.fromkeys(RATES, (0.0, 0.98, 1.0)), set={"sample.per_class": 30}, rows=[{**ROW, "name": "mine"}]
    )
    assert content["rows"][0]["settings"] == {"sample.per_class": 30, "unlearn.forget.lr": 1e-4}


def trial(fa, fid, good=True, done=4):
    return {"cells": 4, "done": done, "mean_fa": fa, "mean_fid": fid, "good": good}


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        ([trial(0.0, 2.0), trial(0.0, 1.0)], 1),
        ([trial(0.0, 2.0), trial(0.0, 1.0, good=False)], 0),
        ([trial(0.0, 2.0, good=False), trial(0.0, 1.0, good=False, done=3)], 0),
        ([trial(0.0, 1.0, good=False, done=3)], None),
        ([trial(None, None, good=False)], None),
        ([], None),
    ],
)
def test_only_whole_trials_are_chosen(trials, chosen):
    assert choose(trials) == chosen


SWEEP = {"kind": "sensitivity", "sweep": {"unlearn.forget.lr": [1e-2, "1e-4", 1e-3]}}


def test_a_sensitivity_gives_the_mean_and_the_ends_at_each_value(table, tmp_path):
    def outcome(task):
        return entry(scores(fid=1000 * task.settings["unlearn"]["forget"]["lr"] + task.request.seed))

    content, text = table(outcome, rows=[{"method": "sfron", "policies": ["shared", "dual"]}], **SWEEP)
    assert content["axis"] == "unlearn.forget.lr"
    assert content["original_fid"] == 2.0
    assert [row["value"] for row in content["rows"]] == [1e-4, 1e-3, 1e-2] * 2
    assert content["rows"][0]["fid"] == pytest.approx({"mean": 1.1, "low": 0.1, "high": 2.1, "n": 6})
    assert "| sfron | shared | 0.001 | 0.0 (0.0 to 0.0) | 98.0 (98.0 to 98.0) | 2.00 (1.00 to 3.00) | 6 of 6 |" in text
    assert "![T](mine.png)" in text
    with Image.open(tmp_path / "out" / "mine.png") as opened:
        page = np.asarray(opened.convert("RGB"))
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x55, 0x55, 0x55)):
        where = np.argwhere((page == np.array(colour)).all(2))
        assert len(where) > 100, colour
    line = np.bincount(where[:, 0]).argmax()  # now of the original model's grey
    assert where[where[:, 0] == line][:, 1].min() > page.shape[1] / 2, "its dashed line is in the right panel"


def test_every_cell_is_a_line_of_the_csv(table, tmp_path):
    table(lambda task: {"error": "a, b"} if task.request.seed == 1 else by_class_and_seed(task))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "mine-cells.csv").read_text())))
    assert len(rows) == 6
    assert [(row["forget"], row["seed"], row["state"], row["error"]) for row in rows[:2]] == [
        ("0", "0", "done", ""), ("0", "1", "failed", "a, b"),
    ]  # fmt: skip
    assert rows[5]["erased_fa"] == "0.12"
    assert rows[5]["unlearn_seconds"] == "20.0"


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_the_csv_is_the_table(table, tmp_path):
    table(by_class_and_seed)
    rows = read_csv(tmp_path / "out" / "mine.csv")
    assert [(row["row"], row["classes"]) for row in rows] == [
        *(("original", label) for label in ("0", "1", "all")), *(("sfron", label) for label in ("0", "1", "all")),
    ]  # fmt: skip
    last = rows[-1]
    assert (last["fa_mean"], last["fa_std"], last["fa_n"], last["fa_top1_mean"]) == ("0.06", "0.01", "3", "0.06")
    assert (last["forget_lr"], last["seconds"], last["seconds_beforehand"], last["done"]) == (
        "0.002",
        "20.0",
        "10.0",
        "6",
    )
    assert rows[4]["fa_mean"] == "0.11"


def test_the_csv_of_a_search_and_of_a_sensitivity(table, tmp_path):
    search(table, {1e-4: (0.5, 0.97, 1.8), 1e-3: (0.0, 0.965, 1.7), 1e-2: (0.0, 0.2, 9.0)})
    rows = read_csv(tmp_path / "out" / "mine.csv")
    assert [(row["trial"], row["mean_fid"], row["chosen"]) for row in rows] == [
        ("unlearn.forget.lr=0.0001", "1.8", "False"),
        ("unlearn.forget.lr=0.001", "1.7", "True"),
        ("unlearn.forget.lr=0.01", "9.0", "False"),
    ]
    table(lambda task: entry(), kind="sensitivity", sweep={"unlearn.forget.lr": [1e-4, 1e-3]}, classes=[2])
    rows = read_csv(tmp_path / "out" / "mine.csv")
    assert [(row["unlearn.forget.lr"], row["fid_mean"], row["failed"]) for row in rows] == [
        ("0.0001", "2.0", "0"), ("0.001", "2.0", "0"),
    ]  # fmt: skip


def test_a_failed_cell_is_a_cross_in_the_picture(table, tmp_path):
    def pixels(outcome):
        table(outcome, kind="sensitivity", sweep={"unlearn.forget.lr": [1e-4, 1e-3, 1e-2]}, seeds=[0])
        with Image.open(tmp_path / "out" / "mine.png") as opened:
            page = np.asarray(opened.convert("RGB"))
        shutil.rmtree(tmp_path / "out")
        place = np.argwhere((page == np.array((0x00, 0x72, 0xB2))).all(2))
        return place[(place[:, 1] > page.shape[1] / 2) & (place[:, 0] < 0.2 * page.shape[0])]  # top of the FID

    def diverged(task):
        return {"error": "inf"} if task.settings["unlearn"]["forget"]["lr"] == 1e-2 else high(task)

    def high(task):
        return entry(scores(fid=2.0 + (task.request.forget == [0])), scores(fid=9.0))  # the lines are at the bottom

    assert len(pixels(high)) == 0
    assert len(cross := pixels(diverged)) > 20
    assert cross[:, 1].min() > 1200, "at the greatest rate"
