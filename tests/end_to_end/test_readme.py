"""Every command and the Python example of the README, as they stand there (made small by settings at their end)."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from erase.report.table import result_table

from .conftest import Finished
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


def test_every_command_of_the_readme_runs(tmp_path: Path, full_run: Finished) -> None:
    assert len(commands()) >= 5
    for words in commands():
        small = {"run": QUICK, "pretrain": TINY}.get(words[0], ())
        if "my-digits" in words and words[0] == "run":
            small = (*QUICK, "method.fisher_samples=16")
        done = command(*words, *small, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr[-2000:])


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


def test_the_figures_of_the_first_command_are_a_committed_cell() -> None:
    """What the README says `erase run --forget 3` ends with is one of the cells that the table is made of."""
    lines = (ROOT / "docs" / "results" / "digits-sfron.jsonl").read_text().splitlines()
    wanted = {"policy": "dual", "class": 3, "seed": 0, "words": []}
    (cell,) = [row for row in map(json.loads, lines) if wanted.items() <= row.items()]
    shown = README.split("<!-- run -->")[1].split("<!-- /run -->")[0]
    for line in result_table({"models": cell}).splitlines():
        assert f"\n{line}\n" in shown


def test_results_table_is_the_committed_cells() -> None:
    """The table of the README is what the script prints from the committed cells."""
    cells = ROOT / "docs" / "results" / "digits-sfron.jsonl"
    shown = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "digits_table.py"), "show", str(cells)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    inside = README.split("<!-- table -->")[1].split("<!-- /table -->")[0]
    assert inside.strip() == shown.strip()
