"""The GPU check at its tiny size on a CPU."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="asserts what a CPU gives")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = sys.modules["gpu_check"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def output(script, tmp_path_factory):
    path = tmp_path_factory.mktemp("check") / "cpu.json"
    script.main(["--tiny", "--output", str(path)])
    return path


def test_every_section_gives_finite_figures_and_no_share_on_a_cpu(script, output):
    content = json.loads(output.read_text())
    assert content["finished"] == list(script.SECTIONS) == list(content["rows"])
    assert content["hardware"]["device"] == "cpu"
    for section, rows in content["rows"].items():
        assert rows
        for row in rows:
            assert "error" not in row
            assert all(math.isfinite(v) and v >= 0 for v in row.values() if isinstance(v, int | float))
            if section not in ("finite", "roundtrip"):
                assert row["tflops"] > 0
            if section not in ("matmul", "finite", "roundtrip"):
                assert row["share"] is None
                assert row["peak_bytes"] is None


def test_figures_say_their_settings(script, output):
    rows = json.loads(output.read_text())["rows"]
    settings = {(row["batch"], row["policy"], row["checkpointing"]) for row in rows["unlearn"]}
    assert len(settings) == len(rows["unlearn"]) == 2 * 2 * 2
    assert all(row["finite"] for row in rows["unlearn"])
    for row in rows["unlearn"]:
        assert row["images_per_second"] == pytest.approx(2 * row["batch"] * row["steps_per_second"])
    by = {(row["batch"], row["policy"], row["checkpointing"]): row["predicted_bytes"] for row in rows["unlearn"]}
    assert by[2, "dual", False] > by[2, "shared", False] > by[2, "shared", True]
    (finite,), (trip,) = rows["finite"], rows["roundtrip"]
    assert finite["finite"]
    assert finite["taken"] == finite["steps"] == script.TINY.finite
    assert trip["equal"]
    assert trip["tied"]
    assert trip["bytes"] > 4 * trip["parameters"]


def test_the_table_holds_every_section(script, output):
    table = output.with_suffix(".md").read_text()
    assert [line for line in table.splitlines() if line.startswith("## ")] == [f"## {name}" for name in script.SECTIONS]
    assert script.NOTES["step"] in table
    assert "unfinished" not in table


def test_what_is_there_is_not_measured_again(script, output, tmp_path):
    """A killed run left two rows of a section; a failed row is tried again."""
    content = json.loads(output.read_text())
    content["finished"] = ["matmul"]
    content["rows"] = {"matmul": content["rows"]["matmul"], "unlearn": content["rows"]["unlearn"][:2]}
    content["rows"]["unlearn"][0]["tflops"] = 123.0
    content["rows"]["unlearn"][1] |= {"tflops": 0.0, "error": "RuntimeError: no"}
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    script.main(["--tiny", "--output", str(path), "--only", "unlearn"])
    rows = json.loads(path.read_text())["rows"]
    assert list(rows) == ["matmul", "unlearn"]
    assert rows["matmul"] == content["rows"]["matmul"]
    assert len(rows["unlearn"]) == 8
    assert [row["tflops"] for row in rows["unlearn"]].count(123.0) == 1
    assert all(row["tflops"] > 0 and "error" not in row for row in rows["unlearn"])


def test_a_failure_is_a_row_and_the_others_go_on(script, tmp_path, monkeypatch):
    def broken(*words):
        raise ValueError("no picture")

    monkeypatch.setattr(script, "decode", broken)
    path = tmp_path / "some.json"
    with pytest.raises(SystemExit, match="some figures could not be measured"):
        script.main(["--tiny", "--output", str(path), "--only", "vae"])
    content = json.loads(path.read_text())
    assert [row.get("error") for row in content["rows"]["vae"]] == ["ValueError: no picture", None]
    assert content["finished"] == ["matmul"]


def test_shares_are_of_the_matrix_rate_on_a_gpu(script, tmp_path):
    record = script.Record(
        tmp_path / "gpu.json", {"size": "tiny", "hardware": {"device": "cuda"}, "notes": {}, "versions": {}}
    )
    record.add("matmul", {"size": 1}, lambda size: {"tflops": 100.0})
    record.add("matmul", {"size": 2}, lambda size: {"tflops": 800.0})
    record.add("unlearn", {"batch": 1}, lambda batch: {"tflops": 400.0, "peak_bytes": 3 << 29})
    assert record.content["rows"]["unlearn"][0]["share"] == 0.5
    assert "| 1 | 400 | 1.50 |" in (tmp_path / "gpu.md").read_text()
    assert "50.0%" in (tmp_path / "gpu.md").read_text()


def test_it_refuses_a_cpu_at_full_size_and_figures_of_another_machine(script, output, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main(["--output", str(tmp_path / "x.json")])
    assert "torch sees no GPU; --tiny runs on a CPU" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["--tiny", "--output", str(output), "--only", "unlearnt"])
    content = json.loads(output.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**content, "hardware": {"device": "cuda", "name": "another"}}))
    with pytest.raises(SystemExit, match="figures of another machine or size"):
        script.main(["--tiny", "--output", str(other)])
