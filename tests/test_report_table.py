"""``erase report`` of a table's folder."""

import json

import pytest
import yaml

from erase.report.page import write_report
from erase.table.run import run_table

from .page_helpers import Page
from .table_helpers import Stub, entry, scores
from .test_cli import call, refused  # noqa: F401
from .test_report_page import EVIL, check_safe

ROW = {"method": "sfron", "policies": ["shared", "dual"]}
RATES = [1e-4, 1e-3, 1e-2]


def make_table(root, outcome, name="mine", **values):
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"title": "T", "classes": [0, 1], "seeds": [0, 1, 2], "rows": [ROW], **values}))
    run_table(str(path), str(root / "out"), runner=Stub(outcome))
    return root / "out"


def by_rate(task):
    rate = task.settings["unlearn"]["forget"]["lr"]
    return entry(scores(fa=0.5 if rate < 1e-3 else 0.0, fid=2 + 100 * rate + 0.1 * task.request.seed))


def titles(page, class_):
    """The hover texts of the dots of a class, as the page's source has them."""
    return [part.partition("</title>")[0] for part in page.source.split(f'class="{class_}"><title>')[1:]]


def test_every_cell_is_a_dot_with_its_value(tmp_path):
    def outcome(task):
        return entry(scores(fa=0.1 * task.request.seed, fid=2 + task.request.forget[0] + 0.2 * task.request.seed))

    folder = make_table(tmp_path, outcome)
    about = write_report(folder)
    page = Page(folder / "report.html")
    check_safe(page)
    assert about == {"output": str(folder / "report.html"), "kind": "table", "sections": ["mine"]}
    dots = titles(page, "dot cell")
    assert len(dots) == 2 * 2 * 6
    assert "sfron dual, class 1, seed 2: 20" in dots
    assert "sfron dual, class 1, seed 2: 3.4" in dots
    for part in (
        "10.0 ± 10.0",
        "2.70 ± 0.20",
        "12 done, 0 failed",
        f"erase table {folder.parent / 'mine.yaml'} --output {folder}",
    ):
        assert part in page.text


def test_dots_that_coincide_are_one_with_their_number(tmp_path):
    folder = make_table(tmp_path, lambda task: entry(scores()), seeds=[0, 1, 2, 3])
    write_report(folder)
    page = Page(folder / "report.html")
    assert page.source.count(">8</text>") == 4  # 2 classes x 4 seeds, FA and FID, two policies
    assert len(titles(page, "dot many cell")[0].splitlines()) == 8


def test_a_search_marks_the_chosen_trial(tmp_path):
    trials = [{"unlearn.forget.lr": rate} for rate in RATES]
    folder = make_table(tmp_path, by_rate, kind="search", trials=trials)
    write_report(folder)
    page = Page(folder / "report.html")
    check_safe(page)
    assert titles(page, "dot chosen") == ["unlearn.forget.lr=0.001: 0"] * 2 + ["unlearn.forget.lr=0.001: 2.2"] * 2
    assert len(titles(page, "dot tried")) == len(titles(page, "dot good")) == 4
    assert len(page.all("tr", "chosen")) == 2
    assert "unlearn.forget.lr=0.001 0.0 0.0 0.00 2.20 6 of 6 chosen" in page.text


def test_a_sensitivity_is_drawn_against_its_setting(tmp_path):
    folder = make_table(tmp_path, by_rate, kind="sensitivity", sweep={"unlearn.forget.lr": RATES})
    write_report(folder)
    page = Page(folder / "report.html")
    check_safe(page)
    places = [(float(a["cx"]), float(a["cy"])) for a in page.all("circle", "dot-s s0")]
    fa, fid = places[:3], places[3:]
    assert fa[0][1] < fa[1][1] == fa[2][1], "half of FA lies above none"
    assert fid[0][1] > fid[1][1] > fid[2][1]
    first, second, third = (x for x, _ in fa)
    assert second - first == pytest.approx(third - second, abs=0.1), "a factor of ten is one length"
    assert "3.10 (3.00 to 3.20)" in page.text


def test_failed_cells_say_why_and_all_is_text(tmp_path):
    def outcome(task):
        return {"error": EVIL} if task.request.seed == 1 else entry()

    folder = make_table(tmp_path, outcome, title=EVIL, rows=[{**ROW, "name": EVIL}])
    write_report(folder)
    page = Page(folder / "report.html")
    check_safe(page)
    assert "<script" not in page.source
    assert f"{EVIL} shared, class 0, seed 1: {EVIL}" in page.text
    assert "8 done, 4 failed, 0 missing, 0 stale" in page.text


def test_tables_of_failures_alone_have_a_page(tmp_path):
    for kind in ({}, {"kind": "search"}, {"kind": "sensitivity", "sweep": {"unlearn.forget.lr": RATES}}):
        folder = make_table(tmp_path, lambda task: {"error": "no luck"}, kind.get("kind", "compare"), **kind)
    about = write_report(folder)
    assert about["sections"] == ["compare", "search", "sensitivity"]
    page = Page(folder / "report.html")
    check_safe(page)
    assert "no luck" in page.text
    assert [a["href"] for a in page.all("a")] == ["#compare", "#search", "#sensitivity"]


def test_one_table_of_a_folder_is_asked_for_by_its_name(tmp_path):
    make_table(tmp_path, lambda task: entry(), "first")
    folder = make_table(tmp_path, lambda task: entry(), "second")
    for word in ("second", "second.json", "second.md", "second.csv"):
        about = write_report(folder / word)
        assert about == {"output": str(folder / "second.html"), "kind": "table", "sections": ["second"]}


def test_a_damaged_table_is_one_line(call, tmp_path):  # noqa: F811
    folder = make_table(tmp_path, lambda task: entry())
    content = json.loads((folder / "mine.json").read_text())
    for harmed in ({**content, "rows": [{"name": "x"}]}, {**content, "config": 3}, {**content, "failed": None}):
        (folder / "mine.json").write_text(json.dumps(harmed))
        refused(call("report", folder), "mine.json is not what erase table has written")
    (folder / "mine.json").write_text("{")
    refused(call("report", folder), "mine.json is not valid JSON")
    assert not (folder / "report.html").exists()
