"""A disk that is full: every library's failure becomes one line that names the file, and what was there stays."""

import errno
import json
import resource
import shutil
import signal
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

from erase.convert import convert
from erase.errors import StoppedError, UserError
from erase.faults import ending, under_way
from erase.files import (
    check_writable,
    link,
    read_json,
    replacing,
    replacing_folder,
    write_json,
    write_tensors,
    write_text,
)  # fmt: skip
from erase.model import load_model, save_model
from erase.report.grid import Panel, Row, draw_panels
from erase.rows import append_row
from erase.samples import draw_samples

from .fuzzing import make_world
from .helpers import make_model


@contextmanager
def full(size=0):
    """No file of this process may grow beyond ``size`` bytes: the kernel refuses the write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def save_checkpoint(path):
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"a": torch.zeros(9999)}, file)


def save_image(path):
    with replacing(path, sync=False) as temporary:
        Image.effect_noise((64, 64), 50).save(temporary, "PNG")


def save_figure(path):
    from matplotlib.figure import Figure

    with replacing(path) as temporary:
        Figure().savefig(temporary, format="png")


def save_copy(path):
    with replacing_folder(path) as folder:
        shutil.copytree(path.parent / "source", folder / "copy")


WRITERS = {
    "text": lambda path: write_text(path, "x" * 9999),
    "json": lambda path: write_json(path, ["x"] * 9999),
    "safetensors": lambda path: write_tensors(path, {"a": torch.zeros(9999)}),
    "torch.save": save_checkpoint,
    "png": save_image,
    "matplotlib": save_figure,
    "copytree": save_copy,
    "diffusers": lambda path: save_model(make_model(), path),
    "grid": lambda path: draw_panels([Row("a")], [Panel("b", [[]])], path, "c"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_fails_names_its_file_and_leaves_the_old_one(tmp_path, name):
    path, write = tmp_path / "target", WRITERS[name]
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(b"x" * 99_999)
    folder = name in ("copytree", "diffusers")
    if folder:
        path.mkdir()
    old = path / "old" if folder else path
    old.write_text("old")
    with full(100), pytest.raises(OSError, match="File too large") as raised:
        write(path)
    line, code = ending(raised.value)
    assert code == 1
    assert line == f"{path}: File too large; make space, then the same command continues"
    assert old.read_text() == "old"
    assert {entry.name for entry in tmp_path.iterdir()} == {"source", "target"}  # no half-written file stays
    write(path)  # with space
    assert not (old.is_file() and old.read_bytes() == b"old")


def test_a_copy_across_file_systems_is_whole_or_absent(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 9999)

    def refuse(*names):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr("os.link", refuse)
    with full(100), pytest.raises(OSError, match="too large"):
        link(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x" * 9999


def test_a_row_that_does_not_fit_is_cut_off_by_the_next(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"name": "a", "key": 1})
    with full(path.stat().st_size + 9), pytest.raises(OSError, match="File too large") as raised:
        append_row(path, {"name": "b", "key": 2})
    assert ending(raised.value)[0].startswith(f"{path}: ")
    append_row(path, {"name": "b", "key": 2})
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_unwritable_from_the_start_is_wrong_use(tmp_path):
    world = make_world(tmp_path / "world")
    (tmp_path / "file").write_text("no folder")
    for attempt in (
        lambda: check_writable(tmp_path / "file" / "x", "the folder"),
        lambda: draw_samples(world / "pack", tmp_path / "file" / "x", per_class=2),
        lambda: convert(str(world / "x.pt"), str(tmp_path / "file" / "x.pt"), num_heads=2),
        lambda: draw_samples(world / "pack", "/proc/x", per_class=2),
    ):
        with pytest.raises(UserError, match="cannot write"):
            attempt()
    assert (tmp_path / "file").read_text() == "no folder"


def test_what_vanishes_under_way_is_the_machine_s_fault(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_model_at(tmp_path)
    missing = tmp_path / "gone.json"
    with pytest.raises(StoppedError, match=r"cannot read .*gone\.json: No such file") as raised, under_way():
        read_json(missing)
    assert ending(raised.value)[1] == 1
    missing.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"), under_way():
        read_json(missing)


def load_model_at(root):
    (root / "model_index.json").write_text("{}")
    (root / "erase.json").write_text(json.dumps({"classes": [0]}))
    (root / "model_index.json").write_text(json.dumps({"id2label": {"0": "a"}}))
    return load_model(str(root))


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (OSError(errno.ENOSPC, "x", "a\nb"), r"a\nb: No space left on device; make space", 1),
        (OSError(errno.EDQUOT, "x"), "Disk quota exceeded; make space", 1),
        (PermissionError(errno.EACCES, "x", "a"), "a: Permission denied; make it writable", 1),
        (FileNotFoundError(errno.ENOENT, "x", "a"), "a: No such file or directory; once it is back", 1),
        (OSError(errno.ENAMETOOLONG, "x", "a"), "a: File name too long", 2),
        (MemoryError(), "out of memory; a smaller", 1),
        (UserError("a\nb\x1b"), r"a b\x1b", 2),
        (ValueError("a\nb"), "ValueError: a b (--debug shows the traceback)", 1),
    ],
)
def test_every_ending_is_one_line(error, line, code):
    told, number = ending(error)
    assert told.startswith(line)
    assert number == code
    assert told.isprintable()
