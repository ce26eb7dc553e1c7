"""The benchmark at its tiny size: that it runs, that both sides do the same work, and how it takes turns."""

import json
import math
from pathlib import Path

import pytest

from scripts.benchmark.__main__ import QUICK, SECTIONS, contents, files_in, main
from scripts.benchmark.table import short
from scripts.benchmark.timing import Times, in_turns, phases_in_turns

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERASE_CACHE", str(path / "cache"))  # the sections put their own in its place
        patch.setenv("OMP_NUM_THREADS", "1")
        main(["--quick", "--output", str(path)])
    return path


def rows(folder, section):
    return json.loads((folder / f"benchmark-{section}.json").read_text())["rows"]


@pytest.mark.parametrize("section", QUICK)
def test_every_section_gives_finite_figures_of_both_clocks(folder, section):
    content = json.loads((folder / f"benchmark-{section}.json").read_text())
    assert content["threads"] == 1
    assert content["rows"]
    for row in content["rows"]:
        figures = [row["seconds"], row["cpu_seconds"]] if section == "growth" else []
        figures += [row[name] for name in ("ratio", "cpu_ratio") if name in row]
        assert all(math.isfinite(value) and value > 0 for value in figures)
        assert figures or row["phase"] == "encode"


def test_a_step_and_its_floor_start_from_the_same_loss(folder):
    found = rows(folder, "step")
    assert [row["method"] for row in found] == ["sfron", "salun", "eupmu", "surgery", "ltu"]
    for row in found:
        ours, floor = row["first_losses"]
        assert ours == pytest.approx(floor, rel=1e-6)


def test_both_fisher_diagonals_and_both_samplers_agree(folder):
    assert rows(folder, "fisher")[0]["difference_of_largest"] < 1e-5
    found = rows(folder, "sample")
    assert [row["batch"] for row in found] == [1, 2, 2]
    assert all(row["levels"] <= 2 for row in found)
    assert found[-1]["files"] == 20


def test_end_to_end_is_the_sum_of_its_phases(folder):
    *phases, whole = rows(folder, "published")
    assert [row["phase"] for row in phases] == ["encode", "fisher", "steps"]
    for clock in ("seconds", "cpu_seconds"):
        for side in ("erase", "published"):
            assert whole[clock][side] == pytest.approx(sum(row[clock].get(side, 0) for row in phases))
    assert "published" not in phases[0]["seconds"]  # it encodes at every use
    assert all(0 < share < 1 for share in whole["mask_share"].values())


def test_growth_is_against_the_first_of_each_axis(folder):
    found = rows(folder, "growth")
    assert {row["axis"] for row in found} == {
        "retain_images", "forgotten_classes", "parameters", "sampled_images",
    }  # fmt: skip
    first, second = found[:2]
    assert (first["value"], second["value"]) == (64, 128)
    assert first["growth"]["seconds"] == 1
    assert second["growth"]["seconds"] == pytest.approx(second["seconds"] / first["seconds"])


def test_a_section_that_is_there_is_not_measured_again(folder, capsys):
    path = folder / "benchmark-fisher.json"
    before = path.read_text()
    path.write_text(before.replace('"rows": [', '"rows": [{"images": 12345, "ratio": 2.0, "cpu_ratio": 2.0}, '))
    main(["--quick", "--only", "fisher", "--output", str(folder)])
    assert "12345" in path.read_text()
    assert "--again measures it anew" in capsys.readouterr().err
    assert "12345" in (folder / "benchmark.md").read_text()
    path.write_text(before)


def test_the_page_holds_every_section_with_its_aim(folder):
    page = (folder / "benchmark.md").read_text()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [s for s in SECTIONS if s in QUICK]
    assert "at most 1.06" in page
    assert "at least 2.0" in page


def test_wrong_words_end_with_a_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "steps"])
    assert stopped.value.code == 2
    assert "--only takes some of step," in capsys.readouterr().err


def test_sides_take_turns_and_the_order_turns_round():
    order = []
    times = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, warm=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert len(times.wall["a"]) == len(times.cpu["b"]) == 3


def test_a_ratio_is_the_median_of_each_repeats_own():
    """One that is not the ratio of medians, which a machine that slows down under way would bend."""
    times = Times(wall={"a": [2.0, 40.0, 9.0], "b": [1.0, 10.0, 3.0]}, cpu={"a": [1.0] * 3, "b": [2.0] * 3})
    row = times.row("a", "b", per=2)
    assert row["ratio"] == 3.0
    assert row["cpu_ratio"] == 0.5
    assert row["seconds"] == {"a": 4.5, "b": 1.5}


def test_phases_alternate_until_both_sides_have_ended():
    order = []

    def side(name, parts):
        for part in parts:
            order.append(name)
            yield part

    found = phases_in_turns({"a": side("a", ["x", "y", "y"]), "b": side("b", ["y"])})
    assert "".join(order) == "abaa"
    assert set(found) == {"x", "y"}
    assert set(found["x"].wall) == {"a"}
    assert set(found["y"].wall) == {"a", "b"}


def test_readme_shows_what_was_measured():
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- speed -->\n")[1].split("\n<!-- /speed -->")[0]
    assert shown == short(contents(files_in(ROOT / "docs" / "results")))
