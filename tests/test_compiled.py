"""When blocks run compiled and when not. The compiler itself is slow and stays out of it."""

import copy

import pytest
import torch

from erase.compiled import check_compile, compiled, is_compiled
from erase.config import RunConfig
from erase.errors import UserError
from erase.presets import resolve
from erase.saliency import fisher_diagonal

from .helpers import make_batch, same
from .test_saliency import task_of
from .test_zoo import go


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the compiler: the same function, its calls noted."""
    seen = []

    def note(function, **settings):
        def noted(*words, **named):
            seen.append(torch.is_grad_enabled())
            return function(*words, **named)

        return noted

    monkeypatch.setattr(torch, "compile", note)
    return seen


def test_blocks_are_compiled_inside_the_context_alone_and_names_stay(tiny, calls):
    names, batch = list(tiny.state_dict()), make_batch(2)
    plain = task_of(tiny).loss(batch)
    with compiled(tiny, True):
        assert is_compiled(tiny)
        assert list(tiny.state_dict()) == names
        assert not is_compiled(copy.deepcopy(tiny))  # what is saved
        assert torch.equal(task_of(tiny).loss(batch), plain)
        assert len(calls) == 2  # blocks
    with pytest.raises(RuntimeError, match="no"), compiled(tiny, True):
        raise RuntimeError("no")
    assert not is_compiled(tiny)
    task_of(tiny).loss(batch)
    with compiled(tiny, False):
        assert not is_compiled(tiny)
    assert len(calls) == 2


def test_to_draw_on_a_cpu_the_whole_is_compiled_as_one(tiny, calls):
    batch = make_batch(2)
    plain = task_of(tiny).loss(batch)
    with compiled(tiny, True, drawing=True):
        assert is_compiled(tiny)
        assert torch.equal(task_of(tiny).loss(batch), plain)
        assert len(calls) == 1
    assert not is_compiled(tiny)


def test_the_warm_up_is_said_in_one_line(tiny, calls, capsys):
    with compiled(tiny, False):
        pass
    assert capsys.readouterr().err == ""
    with compiled(tiny, True):
        pass
    assert capsys.readouterr().err.count("\n") == 1


def test_hooks_would_see_nothing_inside_compiled_blocks(tiny, calls):
    batch = make_batch(2)
    with compiled(tiny, True), pytest.raises(ValueError, match="the Fisher diagonal of the plain module"):
        fisher_diagonal(tiny, task_of(tiny).loss, [batch])
    assert max(value.max() for value in fisher_diagonal(tiny, task_of(tiny).loss, [batch]).values()) > 0


def test_training_runs_compiled_and_the_fisher_diagonal_before_it_plain(tmp_path, monkeypatch, calls):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))
    _, plain = go(tmp_path / "a", "sfron", "dual")
    assert calls == []
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "another"))
    _, after = go(tmp_path / "b", "sfron", "dual", compile=True)
    assert calls == [True] * 7 * 2  # steps, blocks
    assert same(plain, after)


def asking(method="sfron", **options):
    method = {"name": method, **options}
    return resolve(RunConfig(["3"], method=method, runtime={"compile": True}))


def asked(config, device="cpu"):
    return config.runtime.compile, device, getattr(config.method, "order", 1)


def test_it_is_refused_where_it_cannot_work(monkeypatch):
    check_compile(*asked(asking("ltu")))
    with pytest.raises(UserError, match=r"no second derivative, which method\.order=2 needs"):
        check_compile(*asked(asking("ltu", order=2)))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        check_compile(*asked(asking()))
    check_compile(*asked(resolve(RunConfig(["3"]))))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs triton"):
        check_compile(*asked(asking(), "cuda"))
