"""Nobody ever sees half a file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from erase.errors import UserError, nearest
from erase.files import (
    cache_folder,
    digest,
    file_digests,
    once,
    read_json,
    read_tensors,
    replacing,
    replacing_folder,
    shipped,
    write_json,
    write_tensors,
)
from erase.leftovers import NEW

WRITE = """
import sys, time
from pathlib import Path
from erase import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as temporary:
    print(temporary, flush=True)
    time.sleep(60)
"""


def fail():
    raise RuntimeError("in the middle")


def half_write(context, name=None):
    """Writes into what ``context`` yields, and fails."""
    with context as temporary:
        (temporary / name if name else temporary).write_text("half")
        fail()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with replacing(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert names(path.parent) == ["a.txt"]


def test_a_file_stays_as_it_was_when_the_block_raises(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"):
        half_write(replacing(path))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    for name in ("first", "second"):
        with replacing_folder(path) as temporary:
            (temporary / name).write_text(name)
            (temporary / "sub").mkdir()
    assert names(path) == ["second", "sub"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_stays_as_it_was_when_the_block_raises(tmp_path):
    path = tmp_path / "folder"
    with replacing_folder(path) as temporary:
        (temporary / "old").write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"):
        half_write(replacing_folder(path), "half")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("make", [replacing, replacing_folder])
@pytest.mark.parametrize("name", ["page.html", "plain"])
def test_what_a_killed_process_was_writing_goes_when_it_is_written_again(tmp_path, make, name):
    child = subprocess.Popen([sys.executable, "-c", WRITE, make.__name__, str(tmp_path / name)], stdout=-1, text=True)
    left = Path(child.stdout.readline().strip())
    user = tmp_path / f".{name}.20261121{Path(name).suffix or NEW}"  # eight characters, as tempfile's
    user.write_text("")
    for alive in (True, False):
        with make(tmp_path / name) as temporary:
            assert temporary != left
            (temporary / "in" if make is replacing_folder else temporary).write_text("whole")
        assert left.exists() == alive
        child.kill()
        child.wait()
    child.stdout.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, user.name])


def test_two_processes_may_write_one_file_over_and_over(tmp_path):
    """Neither takes the other's temporary file for a killed one's."""
    again = "import pathlib, sys, erase.files as f; [f.write_json(pathlib.Path(sys.argv[1]), n) for n in range(300)]"
    children = [subprocess.Popen([sys.executable, "-c", again, str(tmp_path / "a.json")]) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert names(tmp_path) == ["a.json"]


def test_others_may_read_what_is_written(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    with replacing_folder(tmp_path / "b") as temporary:
        pass
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o644
    assert os.stat(tmp_path / "b").st_mode & 0o777 == 0o755


def test_json_comes_back_and_faults_are_named(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "Käse", "n": [1, None, 0.1]})
    assert read_json(path) == {"name": "Käse", "n": [1, None, 0.1]}
    assert "Käse" in path.read_text(encoding="utf-8")
    path.write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(path)
    with pytest.raises(UserError, match=r"cannot read .*b\.json: No such file"):
        read_json(tmp_path / "b.json")


def test_tensors_come_back_bit_equal(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor([True, False]), "c": torch.tensor(2)}
    write_tensors(tmp_path / "t.safetensors", tensors)
    found = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 64])
def test_damaged_tensors_are_named(tmp_path, content):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*t\.safetensors"):
        read_tensors(path)


def test_a_digest_differs_by_content(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"two")
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b != c
    assert len(a) == 16
    assert int(a, 16) >= 0


def test_a_digest_tells_apart_what_looks_alike_when_joined():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest("1") != digest(1)
    assert digest(None) != digest("None")
    assert digest() != digest("")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})


def test_once_makes_a_thing_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"x": torch.arange(3)}

    path = tmp_path / "sub" / "x.safetensors"
    first, second = once(path, make), once(path, make)
    assert len(calls) == 1
    assert torch.equal(first["x"], second["x"])


def test_once_makes_a_damaged_file_anew(tmp_path):
    path = tmp_path / "x.safetensors"
    once(path, lambda: {"x": torch.arange(3)})
    path.write_bytes(path.read_bytes()[:-4])
    assert once(path, lambda: {"x": torch.arange(5)})["x"].tolist() == [0, 1, 2, 3, 4]
    assert read_tensors(path)["x"].tolist() == [0, 1, 2, 3, 4]


def test_once_leaves_nothing_if_the_making_fails(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(RuntimeError):
        once(path, fail)
    assert names(tmp_path) == []


def test_the_cache_lies_where_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "c"))
    assert cache_folder("a", "b") == tmp_path / "c" / "a" / "b"
    assert (tmp_path / "c" / "a" / "b").is_dir()


def test_a_cache_that_cannot_be_made_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set ERASE_CACHE"):
        cache_folder("a")


def test_shipped_things_are_found():
    assert (shipped("configs") / "digits" / "sfron-dual.yaml").is_file()
    assert (shipped("assets") / "digits" / "data.safetensors").is_file()


def test_nearest_suggests_lists_or_stays_silent():
    assert nearest("sfrn", ["sfron", "finetune"]) == "; did you mean 'sfron'?"
    assert nearest("qqq", ["b", "a"]) == "; known: a, b"
    assert nearest("qqq", []) == ""
    assert nearest("qqq", [f"{i:02d}" for i in range(30)]).endswith("19, ...")


def test_a_file_that_keeps_its_size_and_time_is_read_again(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    os.utime(file, ns=(10**18, 10**18))
    first = file_digests(tmp_path, [file])
    file.write_bytes(b"two")
    os.utime(file, ns=(10**18, 10**18))
    assert file_digests(tmp_path, [file]) != first
