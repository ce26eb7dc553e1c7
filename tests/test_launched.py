"""What a command makes of a launcher."""

import pytest

from erase import launched
from erase.errors import UserError

from .test_cli import call, refused  # noqa: F401


def as_one_of_two(monkeypatch, rank):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (launched.launched(), launched.launched_rank()) == (1, 0)
    launched.admit("table")
    assert launched.may_speak()


@pytest.mark.parametrize("rank", [0, 1])
def test_the_commands_that_share_their_work_run_in_all_processes(monkeypatch, rank):
    as_one_of_two(monkeypatch, rank)
    for command in launched.SHARED:
        launched.admit(command)
    assert launched.may_speak() == (rank == 0)


@pytest.mark.parametrize(
    ("name", "text"), [("WORLD_SIZE", "abc"), ("WORLD_SIZE", "-2"), ("RANK", "1.5"), ("RANK", "x")]
)
def test_a_launcher_s_number_that_is_none_is_one_line(call, monkeypatch, name, text):  # noqa: F811
    as_one_of_two(monkeypatch, 0)
    monkeypatch.setenv(name, text)
    refused(call("methods"), f"{name} must be a number", repr(text))


def test_others_run_in_the_main_process_alone(monkeypatch):
    as_one_of_two(monkeypatch, 0)
    launched.admit("methods")
    as_one_of_two(monkeypatch, 1)
    with pytest.raises(SystemExit) as end:
        launched.admit("methods")
    assert end.value.code in (None, 0)


def test_a_table_starts_its_own(monkeypatch):
    as_one_of_two(monkeypatch, 0)
    with pytest.raises(UserError, match="start it without torchrun"):
        launched.admit("table")


@pytest.mark.parametrize(("asked", "started"), [(2, None), (1, None), (2, 2)])
def test_one_process_in_the_place_of_several_is_said(monkeypatch, capsys, asked, started):
    """The environments that accelerate launch makes: with --cpu, and with --multi_gpu, which is torchrun."""
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    if asked > 1:
        monkeypatch.setenv("MASTER_PORT", "29500")
    if started:
        monkeypatch.setenv("WORLD_SIZE", str(started))
    launched.admit("methods")
    launched.admit("run")
    assert ("this is one process" in capsys.readouterr().err) == ((asked, started) == (2, None))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    from erase import processes

    as_one_of_two(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match=r"more processes than GPUs \(1\)"):
        processes.start("auto")
    with pytest.raises(UserError, match="cuda:0 is one GPU"):
        processes.start("cuda:0")
    assert processes.count() == 1
