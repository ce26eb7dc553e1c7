"""A redone run takes the old one's place, and a kill at any moment leaves one of them whole."""

import pytest

from erase.errors import UserError
from erase.locks import beside, held
from erase.runfolder import exchange, held_run, settle, sweep, tidy


def make(folder, text, done=True):
    folder.mkdir()
    (folder / "results.json" if done else folder / "config.yaml").write_text(text)
    return folder


class KillError(Exception):
    pass


@pytest.mark.parametrize("place", range(5))
def test_an_exchange_that_is_cut_short_is_ended_by_the_next_start(tmp_path, monkeypatch, place):
    """Cut before or after each of the two renames, or before the old one is gone."""
    output, fresh = make(tmp_path / "run", "old"), make(tmp_path / ".run.redone", "new")
    from erase import runfolder

    real, count = runfolder.os.replace, [0]

    def killed(*words, **named):
        if count[0] == place:
            raise KillError
        real(*words)
        count[0] += 1
        if count[0] == place:
            raise KillError
        count[0] += 1

    with monkeypatch.context() as patch:
        patch.setattr(runfolder.os, "replace", killed)
        patch.setattr(runfolder.shutil, "rmtree", killed)
        with pytest.raises(KillError):
            exchange(output)
    whole = [path for path in (output, fresh, tmp_path / ".run.before") if (path / "results.json").is_file()]
    assert whole
    assert settle(output)
    assert (output / "results.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not settle(output)


def test_an_unfinished_redo_changes_nothing_yet(tmp_path):
    output = make(tmp_path / "run", "old")
    make(tmp_path / ".run.redone", "new", done=False)
    assert not settle(output)
    assert (output / "results.json").read_text() == "old"


def test_the_old_run_comes_back_where_the_new_one_is_lost(tmp_path):
    make(tmp_path / ".run.before", "old")
    assert not settle(tmp_path / "run")
    assert (tmp_path / "run" / "results.json").read_text() == "old"


def test_nobody_settles_a_folder_that_is_held(tmp_path):
    output = make(tmp_path / "run", "old")
    make(tmp_path / ".run.redone", "new")
    with held(output, ""), pytest.raises(UserError, match="another process is working in"):
        settle(output)


@pytest.mark.parametrize("enter", [settle, lambda output: held_run(output).__enter__()])
def test_nobody_comes_in_between_the_two_renames_of_an_exchange(tmp_path, monkeypatch, enter):
    """Where a lock in the folder alone would have gone with the old one."""
    output = make(tmp_path / "run", "old")
    make(tmp_path / ".run.redone", "new")
    from erase import runfolder

    real, told = runfolder.os.replace, []

    def replace(source, target):
        real(source, target)
        with pytest.raises(UserError, match="another process is working in"):
            enter(output)
        told.append(sorted(path.name for path in tmp_path.iterdir()))

    with held_run(output):
        monkeypatch.setattr(runfolder.os, "replace", replace)
        exchange(output)
    assert told == [[".run.before", ".run.lock", ".run.redone"], [".run.before", ".run.lock", "run"]]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (output / "results.json").read_text() == "new"


def test_locks_that_a_killed_process_left_in_a_finished_run_go(tmp_path):
    output = make(tmp_path / "run", "done")
    for path in (output / ".lock", beside(output)):
        path.write_text("")
        tidy(output)
        assert [path.name for path in output.iterdir()] == ["results.json"]
        assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with held_run(output):
        tidy(output)
        assert (output / ".lock").exists()
        assert beside(output).exists()


def test_what_a_killed_process_was_writing_goes_and_nothing_else(tmp_path):
    gone = [".config.yaml.ab12_cd9.yaml", ".results.json.abcdefgh.json", ".model.qwertyui", ".model.old-123"]
    stay = [".lock", ".gitignore", "results.json", ".hidden.txt"]
    for name in (*gone, *stay):
        (tmp_path / name).mkdir() if "model" in name else (tmp_path / name).write_text("")
    sweep(tmp_path.rglob(".*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
