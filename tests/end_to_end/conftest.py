"""One full run of the newcomer's command, shared by the tests that look at what it leaves behind."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Finished:
    folder: Path
    results: dict
    stdout: str


def erase(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user runs it."""
    command = [sys.executable, "-m", "erase", *words]
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True, check=False
    )


def quick(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same door without a new process: what ``main`` prints, and the code it exits with."""
    from erase.cli import main

    out, err = io.StringIO(), io.StringIO()
    argv, home = sys.argv, Path.cwd()
    sys.argv = ["erase", *words]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as exit_:
            main()
    finally:
        sys.argv = argv
        os.chdir(home)
    return subprocess.CompletedProcess(words, int(exit_.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """``erase run --forget 3`` under the protocol of every table."""
    home = tmp_path_factory.mktemp("home")
    done = erase("run", "--forget", "3", cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = home / "runs" / "digits-3-sfron-dual-s0"
    return Finished(folder, json.loads((folder / "results.json").read_text()), done.stdout)
