"""Two processes give the same as one: over the same folders and files, and over halves that are merged."""

import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from erase.classifier import save_instrument
from erase.extractors import find_extractor
from erase.fidelity import fid
from erase.pictures import find_pictures
from erase.rows import Rows, append_row, read_rows
from erase.streaming import moments

from .helpers import write_image
from .test_classifier import make_instrument

pytest.importorskip("fcntl")
FOLDERS, IMAGES = 6, 30
CLAIM = """
import pathlib, sys
from erase.rows import Rows
with Rows(pathlib.Path(sys.argv[1])) as held:
    assert held.claim("a" * 16)
    print("held", flush=True)
    input()
"""


def child(root, half, ready, answer):
    """Streams a half, and when the other process has, too, scores all folders beside it."""
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    extractor = find_extractor(str(root / "pack"), device="cpu")
    found = next(moments(find_pictures(root / f"half{half}"), extractor, 7))[1]
    ready.wait(300)
    folders = [root / str(i) for i in range(FOLDERS)]
    rows = fid(folders, root / "real", str(root / "pack"), root / "out.jsonl", device="cpu")
    answer.send((pickle.dumps(found), [row["fid"] for row in rows]))


def fill(folder, seed, count=IMAGES):
    draws = np.random.default_rng(seed)
    for i, image in enumerate(draws.integers(0, 256, size=(count, 16, 16, 3)).astype(np.uint8)):
        write_image(folder / f"{i:05d}.png", image)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Folders, after two processes have scored them all at the same time into one file."""
    root = tmp_path_factory.mktemp("two")
    save_instrument(make_instrument(), root / "pack" / "classifier", {})
    for i in range(FOLDERS):
        fill(root / str(i), i)
    fill(root / "real", 99, 40)
    for half, (start, stop) in enumerate([(0, 17), (17, 40)]):
        for i in range(start, stop):
            image = root / f"half{half}" / f"{i:05d}.png"
            image.parent.mkdir(exist_ok=True)
            image.write_bytes((root / "real" / f"{i:05d}.png").read_bytes())
    forks = multiprocessing.get_context("fork")
    ready, pipes = forks.Barrier(2), [forks.Pipe(duplex=False) for _ in range(2)]
    both = [forks.Process(target=child, args=(root, half, ready, pipes[half][1])) for half in range(2)]
    for one in both:
        one.start()
    for _, answer in pipes:
        answer.close()  # theirs: a child that ends without a word is noticed at once
    said = [receive.recv() if receive.poll(600) else None for receive, _ in pipes]
    for one in both:
        one.join()
    assert None not in said, "too slow"
    return root, said


def test_two_at_once_give_what_one_gives(two):
    root, said = two
    alone = fid([root / str(i) for i in range(FOLDERS)], root / "real", str(root / "pack"), device="cpu")
    assert [values for _, values in said] == [[row["fid"] for row in alone]] * 2


def test_each_folder_was_scored_by_one_of_them_and_no_line_is_torn(two):
    root, _ = two
    lines = (root / "out.jsonl").read_bytes().split(b"\n")
    assert len(lines) == FOLDERS + 1
    assert lines[-1] == b""
    assert len(read_rows(root / "out.jsonl")) == FOLDERS


def test_halves_streamed_in_two_processes_merge_into_the_whole(two):
    root, said = two
    first, second = (pickle.loads(found) for found, _ in said)
    _, whole, _ = next(moments(find_pictures(root / "real"), find_extractor(str(root / "pack"), device="cpu"), 7))
    halves = (first.statistics()["sigma"] + second.statistics()["sigma"]) / 2  # without the means' difference
    first.merge(second)
    merged, wanted = first.statistics(), whole.statistics()
    assert first.count == whole.count == 40
    for name in ("mu", "sigma"):
        assert np.abs(merged[name] - wanted[name]).max() <= 1e-12 * np.abs(wanted[name]).max()
    assert np.abs(halves - wanted["sigma"]).max() > 1e-3 * np.abs(wanted["sigma"]).max()


def test_a_row_appended_by_another_is_found_and_kept(tmp_path):
    path = tmp_path / "out.jsonl"
    row = {"name": "a", "key": "0" * 16}
    with Rows(path) as mine, Rows(path) as other:
        assert mine.find(row["key"]) is None
        other.put(row)
        assert mine.find(row["key"]) == row
        with path.open("ab") as file:
            file.write(b'{"name": "b", "ke')  # stopped half way
        mine.put({"name": "c", "key": "1" * 16})
    assert [one["name"] for one in read_rows(path).values()] == ["a", "c"]


def test_a_claim_ends_with_its_process(tmp_path):
    path = tmp_path / "out.jsonl"
    child = subprocess.Popen([sys.executable, "-c", CLAIM, str(path)], stdin=-1, stdout=-1, text=True)
    assert child.stdout.readline() == "held\n"
    with Rows(path) as mine:
        assert not mine.claim("a" * 16)
        assert mine.claim("b" * 16)
        child.kill()
        child.communicate()
        assert mine.claim("a" * 16)


def test_an_output_file_that_cannot_be_written_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        append_row(tmp_path / "file" / "out.jsonl", {"name": "a", "key": "0" * 16})
