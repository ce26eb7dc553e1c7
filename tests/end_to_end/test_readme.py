"""Every command and the Python example of the README, as they stand there (made small by settings at their end)."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from erase.report.table import result_table

from .conftest import quick as command
from .test_pretrain import TINY
from .test_run import QUICK

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("erase ")]


def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    assert len(commands()) >= 5
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "cells.jsonl").touch()
    (mine,) = blocks("yaml")
    (tmp_path / "mine.yaml").write_text(mine)
    shutil.copytree(RESULTS, tmp_path / "docs" / "results" / "digits", ignore=shutil.ignore_patterns("cells"))
    for words in [["run", "--forget", "3"], *commands()]:  # the first of the two commands stands apart
        small = {"run": QUICK, "pretrain": TINY, "table": ("--render",), "sample": ("sample.steps=2",)}.get(
            words[0], ()
        )
        if "ga" in words:  # which computes nothing beforehand
            small = [word for word in small if "fisher_samples" not in word]
        done = command(*words, *small, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr[-2000:])
    (example,) = blocks("py")  # the first run's model in stock diffusers
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_imagenet_command_of_the_readme_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the weights: what they would do, and a table's plan as far as the model that is missing."""
    lines = [line.split("  #")[0].strip() for block in blocks("shell") for line in block.splitlines()]
    asked = [shlex.split(line)[1:] for line in lines if line.startswith("erase ")]
    assert {words[0] for words in asked} == {"run", "table"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for words in asked:
        done = command(*words, *(("--dry-run",) if words[0] == "run" else ()), cwd=tmp_path)
        assert done.returncode == (0 if words[0] == "run" else 2), (words, done.stderr[-2000:])
        if words[0] == "run":
            assert "- '207'" in done.stdout
        else:
            assert "no model at 'facebook/DiT-XL-2-256'" in done.stderr


def test_the_two_commands_are_what_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for line in ("pip install . && erase run --forget 3", "pip install '.[test]' && pytest"):
        assert f"\n{line}\n" in script
        assert f"\n{line}\n" in README


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0.0 <= float(done.stdout.strip().splitlines()[-1]) <= 1.0


def test_every_linked_file_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


RESULTS = ROOT / "docs" / "results" / "digits"


def test_the_figures_of_the_first_command_are_a_committed_cell() -> None:
    """What the README says `erase run --forget 3` ends with is one of the cells that the table is made of."""
    wanted = {"row": "sfron", "optimizer": "dual", "forget": [3], "seed": 0, "trial": {}}
    (cell,) = [row for row in map(json.loads, (RESULTS / "cells.jsonl").open()) if wanted.items() <= row.items()]
    shown = README.split("<!-- run -->")[1].split("<!-- /run -->")[0]
    for line in result_table({"models": cell}).splitlines():
        assert f"\n{line}\n" in shown


@pytest.mark.parametrize("name", [path.stem for path in RESULTS.glob("*.md")])
def test_committed_tables_are_what_the_committed_cells_give(name: str, tmp_path: Path) -> None:
    for kept in ("cells.jsonl", "golden.json"):
        shutil.copy(RESULTS / kept, tmp_path)
    done = command("table", name, "--output", str(tmp_path), "--render", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in [*RESULTS.glob(f"{name}.*"), RESULTS / f"{name}-cells.csv"]:
        assert path.suffix == ".png" or path.read_text() == (tmp_path / path.name).read_text()


def test_the_tables_of_the_readme_are_the_committed_ones() -> None:
    tables = re.findall(r"<!-- table (\S+) -->\n(.*?)\n<!-- /table -->", README, re.DOTALL)
    assert tables
    for name, shown in tables:
        assert shown.strip() in (RESULTS / f"{name}.md").read_text()
        assert "#" not in shown


def claim_table() -> str:
    """Of digits-claim the rows at a method's own rate, in short."""
    rows = json.loads((RESULTS / "digits-claim.json").read_text())["rows"]
    original = rows[0]["over_classes"]
    states = {"shared": "one", "dual": "two"}
    own = [row for row in rows[1:] if row["row"] == row["method"] != "retrain"]
    lines = [
        "| method | states | forget rate | FA % | FA ≤ 2 %, cells | RA lower by, points | RA ≤ 2 points lower, cells | "
        f"FID (original {original['fid']['mean']:.2f}) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in own:
        means, kept = row["over_classes"], row["counts"]
        spread = {
            name: f" ± {factor * means[name]['std']:.{digits}f}"
            for name, factor, digits in (("fa", 100, 1), ("fid", 1, 2))
        }
        lost = 100 * (original["ra"]["mean"] - means["ra"]["mean"])
        lines.append(
            f"| `{row['method']}` | {states[row['optimizer']]} | {row['forget_lr']:g} | "
            f"{100 * means['fa']['mean']:.1f}{spread['fa']} | {kept['forgotten']} of {kept['cells']} | {lost:.1f} | "
            f"{kept['retained']} of {kept['cells']} | {means['fid']['mean']:.2f}{spread['fid']} |"
        )
    return "\n".join(lines)


def test_the_claim_s_table_in_the_readme_is_that_of_the_committed_cells() -> None:
    assert f"<!-- claim -->\n{claim_table()}\n<!-- /claim -->" in README
