"""Stopped by a signal, started twice, redone: through the command line."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from erase import sampling
from erase.data.latents import Batch, LatentStream
from erase.locks import held

from .conftest import quick as command

QUICK = ("unlearn.rounds=3", "unlearn.finish=1", "method.fisher_samples=64", "sample.per_class=2", "sample.steps=2")


def content(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, but for its times."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    results = json.loads(found.pop("results.json"))
    results.pop("seconds")
    return {**found, "results.json": json.dumps(results).encode()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("whole")
    done = command("run", "-f", "4", "-o", "run", *QUICK, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    return home / "run"


def test_a_signal_saves_and_says_how_to_continue(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in the unlearning and one in the sampling; the third start ends as if there had been none."""
    words = ("run", "-f", "4", "-o", "my run", *QUICK)
    batch, sample = LatentStream.batch, sampling.sample

    def stopped_batch(stream: LatentStream, step: int) -> Batch:
        if (stream.name, step) == ("retain", 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(stream, step)

    def stopped_sample(*given: object, **named: object) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return sample(*given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LatentStream, "batch", stopped_batch)
        first = command(*words, cwd=tmp_path)
    assert first.returncode == 143
    last = first.stderr.strip().splitlines()[-1]
    assert last.startswith("erase: stopped, and what was done is saved; to continue: erase run -f 4 -o 'my run' ")
    assert len(list((tmp_path / "my run" / "state").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "sample", stopped_sample)
        second = command(*words, cwd=tmp_path)
    assert second.returncode == 130
    assert not (tmp_path / "my run" / "results.json").exists()
    third = command(*words, cwd=tmp_path)
    assert third.returncode == 0, third.stderr[-2000:]
    assert content(tmp_path / "my run") == content(whole)


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with held(tmp_path / "run", ""):
        done = command("run", "-f", "4", "-o", "run", *QUICK, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "another process is working in run; wait for it" in line


def test_force_redoes_a_finished_run(whole: Path, tmp_path: Path) -> None:
    before, mark = content(whole), whole / "mark"
    words = ("run", "-f", "4", "-o", "run", *QUICK)
    mark.write_text("of the old folder")
    assert command(*words, cwd=whole.parent).returncode == 0
    assert mark.exists()
    assert command(*words, "unlearn.rounds=2", "--force", cwd=whole.parent).returncode == 2
    done = command(*words, "--force", cwd=whole.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not mark.exists()
    assert content(whole) == before
    assert [path.name for path in whole.parent.iterdir()] == ["run"]


def test_an_exchange_that_was_cut_short_is_ended_by_the_next_start(whole: Path) -> None:
    (whole.parent / ".other.redone").mkdir()
    for name in ("config.yaml", "results.json"):
        (whole.parent / ".other.redone" / name).write_bytes((whole / name).read_bytes())
    done = command("run", "-f", "4", "-o", "other", *QUICK, "--json", cwd=whole.parent)
    assert json.loads(done.stdout) == json.loads((whole / "results.json").read_text())
    assert sorted(path.name for path in whole.parent.iterdir()) == ["other", "run"]
