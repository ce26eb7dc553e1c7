"""``torchrun -m erase run``: the whole flow in two processes, and one of them killed on the way; and by accelerate."""

import json
from pathlib import Path

import pytest

from ..test_processes import accelerate, torchrun
from .conftest import quick

WORDS = (
    "unlearn.rounds=4", "unlearn.finish=1", "method.fisher_samples=64", "sample.per_class=3", "sample.steps=2",
    "sample.block=2", "runtime.device=cpu", "runtime.threads=1", "runtime.save_every=2",
)  # fmt: skip
ENDED = "one of 2, 0 left"  # no thread of the group: one at work while Python ends aborts the process


def words(output: Path) -> tuple[str, ...]:
    return ("run", "--forget", "3", "--output", str(output), "--json", *WORDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one process, and one of two."""
    folder = tmp_path_factory.mktemp("home")
    assert quick(*words(folder / "one"), cwd=folder).returncode == 0
    done = torchrun("tests.counted", *words(folder / "two"), cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count(ENDED) == 2
    assert json.loads(done.stdout) == json.loads((folder / "two" / "results.json").read_text()), "said once"
    return folder


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}


SAMPLE = (
    "--per-class", "3", "sample.steps=2", "sample.block=2", "runtime.device=cpu", "runtime.threads=1",
)  # fmt: skip


def test_the_samples_of_a_model_are_the_same_bytes(home: Path) -> None:
    about = quick("sample", str(home / "two"), "--output", str(home / "again"), *SAMPLE, cwd=home)
    assert about.returncode == 0, about.stderr
    drawn = files(home / "two" / "samples" / "erased")
    assert len(drawn) == 30
    assert drawn == files(home / "again")
    assert files(home / "one" / "samples" / "original") == files(home / "two" / "samples" / "original")


def test_accelerate_starts_two_as_well(home: Path) -> None:
    words = ("sample", str(home / "two"), "--output", str(home / "accelerated"), "--classes", "3", *SAMPLE)
    about = accelerate("tests.counted", *words, cwd=home)
    assert about.returncode == 0, about.stderr
    assert about.stderr.count(ENDED) == 2
    drawn = files(home / "accelerated")
    assert len(drawn) == 3
    assert drawn.items() <= files(home / "two" / "samples" / "erased").items()


def test_the_run_is_that_of_one_process(home: Path) -> None:
    one, two = (json.loads((home / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["protocol"] == two["protocol"]
    assert one["models"]["original"] == two["models"]["original"]
    assert two["models"]["erased"]["fid"] == pytest.approx(one["models"]["erased"]["fid"], rel=1e-2)
    names = [sorted(p.relative_to(home / name) for p in (home / name).rglob("*")) for name in ("one", "two")]
    assert names[0] == names[1]
    rows = [
        [json.loads(x) for x in (home / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1]) == 9
    for first, second in zip(*rows, strict=True):
        assert second == {
            key: pytest.approx(value, rel=1e-3) if isinstance(value, float) else value for key, value in first.items()
        }


def test_a_killed_peer_ends_the_run_and_one_process_continues_it(home: Path) -> None:
    folder = home / "killed"
    done = torchrun("tests.killed_peer", *words(folder), cwd=home)
    assert done.returncode != 0
    assert done.stderr.count("erase: another process of this run has ended; to continue: torchrun") == 1
    assert not (folder / "results.json").exists()
    before = (folder / "metrics.jsonl").read_text().splitlines()
    assert quick(*words(folder), cwd=home).returncode == 0
    after = (folder / "metrics.jsonl").read_text().splitlines()
    assert after[:4] == before[:4], "the rows of the last saved state, and of no other run"
    assert len(after) == 9
    scores = [json.loads((home / name / "results.json").read_text())["models"]["erased"] for name in ("one", "killed")]
    assert scores[1]["fid"] == pytest.approx(scores[0]["fid"], rel=1e-2)
