"""One process at a time in a folder, whatever becomes of it."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from erase.errors import UserError
from erase.locks import LOCK, beside, held, held_place

HOLD = """
import sys, time
from pathlib import Path
from erase.locks import held
with held(Path(sys.argv[1]), ""):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_told_and_the_first_not_disturbed(tmp_path):
    folder = tmp_path / "a" / "b"
    with held(folder, "busy"):
        with pytest.raises(UserError, match="busy"), held(folder, "busy"):
            pass
        assert (folder / LOCK).exists()
        with pytest.raises(UserError, match="busy"), held(folder, "busy"):
            pass
    with held(folder, "busy"):
        (folder / "file").write_text("")
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_an_empty_folder_does_not_stay(tmp_path):
    with held(tmp_path / "new", "busy"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_death_releases(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="busy"), held(tmp_path, "busy"):
            pass
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    with held(tmp_path, "busy"):
        pass


def test_a_folder_that_is_moved_takes_its_lock_along(tmp_path):
    with held(tmp_path / "a", "busy"):
        os.replace(tmp_path / "a", tmp_path / "b")
        with held(tmp_path / "a", "busy"):
            assert (tmp_path / "b" / LOCK).exists()
            with pytest.raises(UserError), held(tmp_path / "b", "busy"):
                pass


def test_of_the_processes_of_one_run_the_main_one_holds_for_all(tmp_path, monkeypatch):
    with held(tmp_path / "a", "busy"), held_place(tmp_path / "a", "busy"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with held(tmp_path / "a", "busy"), held_place(tmp_path / "a", "busy"):
            pass
        monkeypatch.setenv("RANK", "0")
        for hold in (held, held_place):
            with pytest.raises(UserError, match="busy"), hold(tmp_path / "a", "busy"):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_stays_held_whatever_lies_there(tmp_path):
    folder = tmp_path / "a"
    with held_place(folder, "busy"):
        with held(folder, "busy"):
            os.replace(folder, tmp_path / "b")
        with pytest.raises(UserError, match="busy"), held_place(folder, "busy"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_who_can_write_nothing_beside_a_folder_holds_no_place(tmp_path, monkeypatch):
    from erase import locks

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(locks, "_open", refused)
    with held_place(tmp_path / "a", "busy"):
        assert not beside(tmp_path / "a").exists()
    with pytest.raises(UserError, match="Permission denied"), held(tmp_path / "a", "busy"):
        pass


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the output folder"), held(tmp_path / "file" / "x", "busy"):
        pass


def test_a_file_system_without_locks_is_said_and_worked_on(tmp_path, monkeypatch, capsys):
    import fcntl

    def missing(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    with held(tmp_path / "run", "busy"):
        pass
    assert "no locks (No locks available); start one run only" in capsys.readouterr().err
