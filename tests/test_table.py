"""``erase table``: which cells there are, what is run, kept and run again."""

import itertools
import json
import os
import time
from pathlib import Path

import pytest
import yaml

from erase.config import RunConfig
from erase.errors import UserError
from erase.files import shipped
from erase.presets import config_hash, resolve
from erase.table import golden, work
from erase.table.cells import held
from erase.table.config import load_table
from erase.table.plan import make_plan
from erase.table.pool import gpus, inline, processes
from erase.table.run import run_table

from .table_helpers import Piece, Stub, entry, looks, scores, seen_gpu, sleep, square
from .test_sources import hub_cache, old_layout, pipeline

ROW = {"method": "sfron", "optimizer": "dual"}
PLAIN = {"title": "T", "classes": [5, [8, 3]], "seeds": [0, 1], "rows": [ROW]}


@pytest.fixture
def table(tmp_path):
    """Writes a table and runs it with a stub; what its JSON holds."""

    def run(runner=None, name="mine", **values):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**PLAIN, **values}))
        return run_table(str(path), str(tmp_path / "out"), runner=runner or Stub())

    return run


def plan(**values):
    from erase.config import build
    from erase.table.config import TableConfig

    return make_plan(build(TableConfig, {**PLAIN, **values}))


def keys(made):
    return [cell.key for line in made.lines for cell in line.cells]


def entries(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "cells.jsonl").read_text().splitlines()]


def test_cells_are_rows_by_trials_by_classes_by_seeds():
    made = plan(
        rows=[
            {"method": "sfron", "policies": ["shared", "dual"]},
            {**ROW, "name": "own", "classes": [1], "seeds": [7]},
        ],
        trials=[{"unlearn.forget.lr": 1e-4}, {"unlearn.forget.lr": "1e-3"}],
    )
    assert [(line.name, len(line.cells)) for line in made.lines] == [
        ("sfron shared (unlearn.forget.lr=0.0001)", 4),
        ("sfron shared (unlearn.forget.lr=0.001)", 4),
        ("sfron dual (unlearn.forget.lr=0.0001)", 4),
        ("sfron dual (unlearn.forget.lr=0.001)", 4),
        ("own dual (unlearn.forget.lr=0.0001)", 1),
        ("own dual (unlearn.forget.lr=0.001)", 1),
    ]
    assert [(cell.forget, cell.seed) for cell in made.lines[0].cells] == [
        ((5,), 0),
        ((5,), 1),
        ((3, 8), 0),
        ((3, 8), 1),
    ]
    assert len(set(keys(made))) == 18


def test_a_cell_is_keyed_by_the_config_that_erase_run_would_resolve():
    words = {"unlearn": {"forget": {"lr": 3e-4}}, "sample": {"per_class": 30}}
    config = resolve(RunConfig(["3", "8"], method="sfron", optimizer="dual", seed=1), words)
    made = plan(set={"sample": {"per_class": 30}}, rows=[{**ROW, "set": {"unlearn.forget.lr": 3e-4}}])
    assert keys(made)[-1] == config_hash(config)


def test_nested_and_dotted_settings_are_the_same_and_later_layers_win():
    first = plan(set={"unlearn.rounds": 9, "sample.steps": 4}, rows=[{**ROW, "set": {"unlearn": {"rounds": 5}}}])
    second = plan(set={"sample": {"steps": 4}}, rows=[{**ROW, "trials": [{"unlearn.rounds": 5}]}])
    assert keys(first) == keys(second)
    assert keys(first) != keys(plan(set={"sample.steps": 4}))


def test_a_policy_that_cannot_run_is_left_out_of_a_row_of_policies(table, tmp_path):
    content = table(rows=[{"method": "finetune", "policies": ["shared", "dual"]}])
    assert content["left_out"].keys() == {"finetune dual"}
    text = (tmp_path / "out" / "mine.md").read_text()
    assert "Left out: finetune dual: finetune has one objective, so there is nothing to keep apart" in text
    assert [row["name"] for row in content["rows"]] == ["original", "finetune"]


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"rows": [{"method": "finetune", "optimizer": "dual"}]}, ["rows[0] (finetune)", "one objective"]),
        ({"rows": []}, ["at least one row"]),
        ({"rows": [{"method": "sfrom", "optimizer": "dual"}]}, ["rows[0] (sfrom)", "did you mean 'sfron'"]),
        ({"rows": [{"optimizer": "dual"}]}, ["rows[0] (no method)"]),
        ({"rows": [{"method": "sfron"}]}, ["rows[0] (sfron): give optimizer or policies"]),
        ({"rows": [{**ROW, "policies": ["dual"]}]}, ["give optimizer or policies"]),
        ({"rows": [{"method": "sfron", "policies": ["dule"]}]}, ["unknown optimizer policy 'dule'"]),
        ({"rows": [ROW, ROW]}, ["two rows are called 'sfron dual'"]),
        ({"rows": [{**ROW, "metod": 1}]}, ["unknown key 'rows[0].metod'; did you mean 'rows[0].method'"]),
        ({"rows": [ROW, 3]}, ["rows[1] must be a section"]),
        ({"rows": [{**ROW, "set": {"unlearn.forget.lrr": 1}}]}, ["rows[0] (sfron)", "'unlearn.forget.lr'"]),
        ({"rows": [{**ROW, "set": [1]}]}, ["rows[0].set must be a section"]),
        ({"rows": [{**ROW, "set": {"optimizer.policy": "shared"}}]}, ["rows[0]", "optimizer.policy is not set"]),
        ({"set": {"seed": 3}}, ["seed is not set under set"]),
        ({"trials": [{"unlearn.rounds": -1}]}, ["rows[0] (sfron)", "unlearn.rounds must be at least 0"]),
        ({"classes": [12]}, ["rows[0] (sfron)", "class 12 is not in the model"]),
        ({"classes": []}, ["has no classes"]),
        ({"classes": [[3, 8], [8, 3]]}, ["twice"]),
        ({"classes": [[3, 3]]}, ["class 3 (3) is given twice"]),
        ({"seeds": [-1]}, ["seeds must be at least 0"]),
        ({"kind": "compere"}, ["kind must be one of compare, search, sensitivity"]),
        ({"kind": "sensitivity"}, ["sweep must give one setting"]),
        ({"kind": "sensitivity", "sweep": {"unlearn.forget.lr": [0, 1]}}, ["numbers above 0"]),
        ({"kind": "sensitivity", "sweep": {"unlearn.forget.lr": [1, 2]}, "trials": [{}]}, ["no trials"]),
        ({"sweep": {"unlearn.forget.lr": [1, 2]}}, ["sweep is for kind sensitivity"]),
        ({"model": "nowhere"}, ["no model at 'nowhere'"]),
        ({"kind": 3, "seeds": ["x"], "rows": [{"method": []}]}, ["kind must", "; seeds must", "; rows[0].method must"]),
        (
            {"rows": [{"method": "sfrom", "optimizer": "dual"}, {**ROW, "classes": [12]}]},
            ["rows[0] (sfrom)", "; rows[1] (sfron): class 12"],
        ),
    ],
)
def test_a_wrong_table_runs_nothing_and_names_what_is_wrong(table, tmp_path, values, parts):
    runner = Stub()
    with pytest.raises(UserError) as raised:
        table(runner, **values)
    for part in parts:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (runner.golden, runner.cells) == ([], [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted((shipped("configs") / "tables").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_table_resolves_all_its_cells(path, tmp_path, monkeypatch):
    if path.stem == "paper-table2":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        hub_cache(tmp_path, lambda root: old_layout((pipeline(root), root)[1], names=False))
    made = make_plan(load_table(path))
    assert made.config.title
    assert len(keys(made)) >= 2


def test_the_shipped_comparison_of_policies_is_every_digit_three_times_under_both():
    made = make_plan(load_table(shipped("configs") / "tables" / "digits-policies.yaml"))
    assert [(line.policy, len(line.cells)) for line in made.lines] == [("shared", 30), ("dual", 30)]


def test_cells_that_are_there_are_not_run_again(table, tmp_path):
    first, again, more = Stub(), Stub(), Stub()
    table(first)
    assert len(first.cells) == 4
    table(again)
    assert again.cells == []
    table(more, seeds=[0, 1, 2])
    assert [(task.request.forget, task.request.seed) for task in more.cells] == [([5], 2), ([3, 8], 2)]
    assert len({row["key"] for row in entries(tmp_path)}) == len(entries(tmp_path)) == 6


def test_tables_in_one_folder_share_cells_and_show_their_own(table, tmp_path):
    table()
    other = Stub()
    content = table(other, name="other", seeds=[1], classes=[5], rows=[{**ROW, "name": "called otherwise"}])
    assert other.cells == []
    assert [row["name"] for row in content["rows"]] == ["original", "called otherwise"]
    assert content["rows"][1]["counts"]["cells"] == 1
    assert {path.name for path in (tmp_path / "out").glob("*.md")} == {"mine.md", "other.md"}


def test_two_rows_that_are_one_run_run_once(table):
    runner = Stub()
    content = table(runner, rows=[ROW, {**ROW, "name": "same"}])
    assert len(runner.cells) == 4
    assert [row["counts"]["done"] for row in content["rows"][1:]] == [4, 4]


def test_a_line_that_a_kill_cut_short_is_run_again(table, tmp_path):
    table()
    path = tmp_path / "out" / "cells.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    runner = Stub()
    table(runner)
    assert len(runner.cells) == 1
    assert path.read_bytes() == whole


def test_a_damaged_line_is_named(table, tmp_path):
    table()
    path = tmp_path / "out" / "cells.jsonl"
    path.write_text("<<<<<<< ours\n" + path.read_text())
    with pytest.raises(UserError, match=r"cells\.jsonl line 1 is no cell"):
        table()


def test_a_stopped_table_is_rendered_and_continued(table, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        table(Stub(stop_after=3))
    assert "1 of 4 cells are missing" in (tmp_path / "out" / "mine.md").read_text()
    rest = Stub()
    content = table(rest)
    assert len(rest.cells) == 1
    assert (content["done"], content["missing"]) == (4, 0)


def test_a_failed_cell_is_shown_does_not_stop_the_rest_and_is_tried_again(table, tmp_path):
    def outcome(task):
        return {"error": "RuntimeError: out | of luck"} if task.request.seed == 1 else entry()

    content = table(Stub(outcome))
    assert content["done"] == 2
    assert content["failed"] == {
        "sfron dual, class 5, seed 1": "RuntimeError: out | of luck",
        "sfron dual, class 3+8, seed 1": "RuntimeError: out | of luck",
    }
    assert "Failed: sfron dual, class 5, seed 1: RuntimeError" in (tmp_path / "out" / "mine.md").read_text()
    assert "2 of 4" in (tmp_path / "out" / "mine.md").read_text()
    again = Stub()
    assert table(again)["failed"] == {}
    assert [task.request.seed for task in again.cells] == [1, 1]


def test_a_cell_s_line_holds_what_the_table_needs(table, tmp_path):
    table(trials=[{"unlearn.forget.lr": 1e-3}])
    row = entries(tmp_path)[2]
    assert (row["row"], row["method"], row["optimizer"], row["trial"]) == (
        "sfron", "sfron", "dual", {"unlearn.forget.lr": 1e-3},
    )  # fmt: skip
    assert (row["forget"], row["seed"], row["error"]) == ([3, 8], 0, None)
    assert row["erased"] == scores()
    golden_runs = json.loads((tmp_path / "out" / "golden.json").read_text())
    assert "cache" not in golden_runs
    assert [run["hash"] for run in golden_runs.values()] == [row["golden"]]


def test_rendering_alone_runs_nothing(table, tmp_path):
    table()
    (tmp_path / "out" / "mine.md").unlink()

    def never(*_):
        raise AssertionError

    content = run_table(str(tmp_path / "mine.yaml"), str(tmp_path / "out"), only_render=True, runner=never)
    assert content["done"] == 4
    assert (tmp_path / "out" / "mine.md").is_file()


def test_a_folder_is_one_table_s_while_it_runs(table, tmp_path):
    pytest.importorskip("fcntl")
    with held(tmp_path / "out"), pytest.raises(UserError, match="another table is being run"):
        table()
    table()


@pytest.mark.parametrize("name", ["cells", "golden", "other-cells"])
def test_a_table_may_not_overwrite_the_cells(table, name):
    with pytest.raises(UserError, match="rename"):
        table(name=name)


def test_a_shipped_table_is_found_by_its_name(tmp_path):
    (tmp_path / "cells.jsonl").touch()
    content = run_table("digits-policies", str(tmp_path), only_render=True)
    assert content["missing"] == 60
    text = (tmp_path / "digits-policies.md").read_text()
    assert "Written by `erase table digits-policies`, with this folder as `--output`." in text


def test_a_table_that_is_not_there_is_named_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"no file digits-polices and no shipped table.*'digits-policies'"):
        run_table("digits-polices", str(tmp_path))


def test_where_no_cells_are_nothing_is_rendered(tmp_path):
    with pytest.raises(UserError, match=r"holds no cells\.jsonl"):
        run_table("digits-policies", str(tmp_path / "none"), only_render=True)
    assert not (tmp_path / "none").exists()


def test_a_cell_that_diverged_is_run_again_only_if_asked(table, tmp_path):
    def outcome(task):
        return {"error": "BadNumberError: loss is inf at step 3"} if task.request.seed else entry()

    assert table(Stub(outcome))["diverged"] == 2
    again = Stub()
    content = table(again)
    assert (again.cells, content["diverged"], len(content["failed"])) == ([], 2, 2)
    asked = Stub()
    content = run_table(str(tmp_path / "mine.yaml"), str(tmp_path / "out"), retry=True, runner=asked)
    assert (len(asked.cells), content["failed"], content["done"]) == (2, {}, 4)


def test_finished_cells_that_kept_less_are_told_of(table, tmp_path, capsys):
    table()
    for keep in ("results", "samples"):
        run_table(str(tmp_path / "mine.yaml"), str(tmp_path / "out"), keep=keep, runner=Stub())
    assert capsys.readouterr().err.count("4 finished cells kept less than --keep samples asks for") == 1
    for cell in entries(tmp_path):
        (tmp_path / "out" / "cells" / cell["key"] / "samples").mkdir(parents=True)
    run_table(str(tmp_path / "mine.yaml"), str(tmp_path / "out"), keep="samples", runner=Stub())
    assert "kept less" not in capsys.readouterr().err


class TestGolden:
    @pytest.fixture
    def code(self, monkeypatch):
        """Sets the digest of the code."""
        return lambda text: monkeypatch.setattr(golden, "code_digest", lambda model: text)

    def test_it_is_short_and_of_its_row_s_settings(self, table):
        runner = Stub()
        table(runner, set={"unlearn.forget.lr": 0.5})
        (task,) = runner.golden
        config = resolve(task.request, task.settings)
        assert (config.unlearn.rounds, config.unlearn.finish, config.seed) == (2, 1, 0)
        assert (config.sample.per_class, config.sample.steps, config.unlearn.forget.batch_size) == (2, 2, 8)
        assert (config.unlearn.forget.lr, config.optimizer.policy, config.runtime.threads) == (0.5, "dual", 1)

    def test_of_a_folder_of_images_it_takes_few_and_a_class_that_is_there(self, table, tmp_path):
        for label in (2, 3, 5, 8):
            (tmp_path / "images" / str(label)).mkdir(parents=True)
        few = {"set": {"data.source": str(tmp_path / "images"), "sample.retain_total": 10000}, "classes": [5, 8]}
        runner = Stub()
        table(runner, **few)
        (task,) = runner.golden
        other = Stub()
        table(other, name="other", **{**few, "classes": [8, 3, 5]})
        assert (other.golden, [cell.request.forget for cell in other.cells]) == ([], [[3], [3]]), "cells are shared"
        config = resolve(task.request, task.settings)
        assert task.request.forget == [2], "the first that the folder has"
        assert (config.data.retain_images, config.sample.retain_total) == (32, 16)
        assert (config.score.gate_images, config.score.reference_images) == (64, 64)

    def test_it_runs_beside_the_cells_and_what_a_killed_one_left_goes(self, table, tmp_path):
        left = tmp_path / "out" / "cells" / ".golden-left"
        left.mkdir(parents=True)
        runner = Stub()
        table(runner)
        assert runner.golden[0].folder.parent.parent == tmp_path / "out" / "cells"
        assert not left.exists()

    def test_a_method_shortens_its_own_options(self, table, monkeypatch):
        from erase.methods import METHODS

        monkeypatch.setattr(METHODS["sfron"], "quick", {"fisher_samples": 16}, raising=False)
        runner = Stub()
        table(runner, set={"method.gamma": 2.0})
        assert runner.golden[0].settings["method"] == {"gamma": 2.0, "fisher_samples": 16}

    def test_one_run_a_setting_not_a_class_or_seed(self, table):
        runner = Stub()
        table(runner, trials=[{"unlearn.forget.lr": 1e-3}, {"unlearn.forget.lr": 1e-4}])
        assert len(runner.golden) == 2
        other = Stub()
        table(other, name="other", classes=[9], seeds=[5], trials=[{"unlearn.forget.lr": 1e-3}])
        assert other.golden == []

    def test_the_same_code_is_trusted(self, table, code):
        code("a")
        table()
        again = Stub(numbers={"loss": 99.0})
        table(again)
        assert (again.golden, again.cells) == ([], [])

    @pytest.mark.parametrize(
        ("now", "same"),
        [({"loss": 0.5}, True), ({"loss": 0.50049}, True), ({"loss": 0.5006}, False), ({"loss": 0.5, "b": 1.0}, False)],
    )
    def test_other_code_must_give_the_same_numbers(self, table, code, tmp_path, capsys, now, same):
        code("a")
        table()
        code("b")
        again = Stub(numbers=now)
        content = table(again)
        assert len(again.golden) == 1
        assert len(again.cells) == (0 if same else 4)
        assert ("4 cells are stale" in capsys.readouterr().err) == (not same)
        assert (content["done"], content["stale"]) == (4, 0)
        third = Stub(numbers={"loss": 77.0})
        table(third)
        assert (third.golden, third.cells) == ([], []), "what was compared once is trusted"

    def test_what_older_code_has_cached_does_not_stand_in_when_its_cells_are_run_again(self, table, code):
        caches = []
        for name, loss in (("a", 0.5), ("b", 0.5), ("c", 0.6), ("d", 0.6)):
            code(name)
            runner = Stub(numbers={"loss": loss})
            table(runner, seeds=[len(caches)])
            caches.append({task.cache for task in runner.cells})
        (first,), (second,), (third,), (fourth,) = caches
        assert first == second
        assert third not in (first, first.parent)
        assert third == fourth

    def test_code_that_is_taken_back_makes_its_cells_valid_again(self, table, code):
        runs = []
        for name, loss in (("a", 0.5), ("b", 0.6), ("c", 0.5)):
            code(name)
            runner = Stub(numbers={"loss": loss})
            table(runner)
            runs.append(len(runner.cells))
        assert runs == [4, 4, 0]

    def test_small_changes_do_not_add_up(self, table, code):
        for number in range(4):
            code(str(number))
            runner = Stub(numbers={"loss": 0.5 * (1 + 0.0005 * number)})
            table(runner)
            assert len(runner.cells) == (4 if number in (0, 3) else 0)

    def test_stale_cells_are_counted_and_not_shown(self, table, code, tmp_path):
        code("a")
        table()
        code("b")
        with pytest.raises(KeyboardInterrupt):
            table(Stub(numbers={"loss": 3.0}, stop_after=1))
        content = json.loads((tmp_path / "out" / "mine.json").read_text())
        assert (content["done"], content["stale"]) == (1, 3)
        assert "3 of 4 cells are stale" in (tmp_path / "out" / "mine.md").read_text()

    def test_a_golden_run_that_fails_makes_nothing_stale(self, table, code, tmp_path, capsys):
        code("a")
        table()
        code("b")
        broken = Stub(numbers={"error": "OSError: no space"})
        assert table(broken)["done"] == 4
        assert broken.cells == []
        assert "the golden run failed, OSError: no space" in capsys.readouterr().err
        assert "cannot be judged" not in (tmp_path / "out" / "mine.md").read_text(), "they were, under the first code"
        mended = Stub()
        table(mended)
        assert (len(mended.golden), mended.cells) == (1, []), "it is tried again"

    def test_a_golden_run_that_failed_at_first_is_no_other_code(self, table, code, tmp_path, capsys):
        """Killed for memory, say: what its cells have cached is not older code's."""
        code("a")
        broken = Stub(numbers={"error": "the process ended with code -9"})
        assert table(broken)["done"] == len(broken.cells) == 4
        assert "4 of 4 cells cannot be judged" in (tmp_path / "out" / "mine.md").read_text()
        mended = Stub()
        assert table(mended)["done"] == len(mended.cells) == 4
        assert {task.cache for task in mended.cells} == {task.cache for task in broken.cells}
        said = capsys.readouterr().err
        assert "its golden run had failed; 4 cells are stale and run again" in said
        assert "other numbers" not in said
        assert "cache" not in json.loads((tmp_path / "out" / "golden.json").read_text())

    def test_the_digest_knows_libraries_and_the_model(self, monkeypatch, tmp_path):
        import erase

        from .helpers import make_model

        erase.save_model(make_model(), tmp_path / "pack")
        first = golden.code_digest(str(tmp_path / "pack"))
        assert golden.code_digest(str(tmp_path / "pack")) == first
        assert golden.code_digest("digits") != first
        monkeypatch.setattr(golden, "versions", lambda: {"torch": "99"})
        assert golden.code_digest(str(tmp_path / "pack")) != first


def test_what_other_code_left_in_a_cell_s_folder_is_not_continued(monkeypatch, tmp_path):
    """A finished run folder is otherwise taken as it is."""
    seen = []

    def fake(request, settings):
        seen.append(sorted(path.name for path in Path(request.output).glob("*")))
        Path(request.output).mkdir(parents=True, exist_ok=True)
        for name in ("results.json", "config.yaml", "grid.png", "metrics.jsonl"):
            (Path(request.output) / name).write_text("x")
        (Path(request.output) / "samples").mkdir(exist_ok=True)
        models = {side: scores() for side in ("original", "erased")}
        return {"models": models, "seconds": {}, "versions": {}, "device": "cpu"}, Path(request.output)

    monkeypatch.setattr(work, "run_in_folder", fake)
    found = []
    for hash_, keep in (("a", "samples"), ("a", "results"), ("b", "all")):
        request = RunConfig([3], output=str(tmp_path / "key"))
        found.append(
            work.do_cell(work.CellTask("n", "key", hash_, request, {}, tmp_path / "key", keep, tmp_path / "cache"))
        )
    assert seen == [[], ["config.yaml", "grid.png", "results.json", "samples"], []]
    assert {path.name for path in (tmp_path / "key").iterdir()} == {
        "results.json", "config.yaml", "grid.png", "metrics.jsonl", "samples",
    }  # fmt: skip
    assert found[0]["peak_memory"] > 10 << 20
    assert found[1]["peak_memory"] is None, "nothing was run, so nothing was measured"


def test_peak_memory_forgets_what_came_before():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux alone can reset it")
    size = 300 << 20
    block = bytearray(b"x") * size
    work.reset_peak()
    with_block = work.peak_memory(gpu=False)
    del block
    work.reset_peak()
    assert with_block - work.peak_memory(gpu=False) > size / 2


def test_pieces_of_work_have_processes_of_their_own_and_fail_alone():
    pieces = [Piece(value) for value in (3, 13, 99, 4)]
    found = {task.value: result for task, result in processes(square, pieces, jobs=2, threads=1)}
    assert found[3] == {"square": 9, "bars": "1", "threads": "1"}
    assert found[4]["square"] == 16
    assert found[13] == {"error": "ValueError: no luck"}
    assert found[99] == {"error": "the process ended with code 7"}


def test_each_place_has_a_gpu_of_its_own_in_turn(monkeypatch):
    monkeypatch.setattr("erase.table.pool.gpus", lambda: ["3", "5"])
    seen = [result for _, result in processes(seen_gpu, [Piece(number) for number in range(4)], 2, 1)]
    assert {one["gpu"] for one in seen} == {"3", "5"}
    for name in ("3", "5"):
        times = sorted((one["from"], one["to"]) for one in seen if one["gpu"] == name)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))


def test_gpus_have_the_names_that_they_are_called_by(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 7")
    assert gpus() == ["GPU-a", "7"]


def test_leaving_the_pool_ends_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("erase.table.pool.PATIENCE", 1.0)  # this work never looks whether it should end
    running = processes(sleep, [Piece(tmp_path / "pid"), Piece(tmp_path)], jobs=2, threads=1)
    assert "IsADirectoryError" in next(running)[1]["error"]
    number = number_in(tmp_path / "pid")
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def number_in(path):
    for _ in range(6000):
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.05)
    raise TimeoutError(path)


def test_leaving_the_pool_lets_its_processes_finish_and_save(tmp_path):
    running = processes(looks, [Piece(tmp_path / "pid"), Piece(tmp_path)], jobs=2, threads=1)
    assert "IsADirectoryError" in next(running)[1]["error"]
    number_in(tmp_path / "pid")
    running.close()
    assert (tmp_path / "saved").exists()


QUICK = {
    "unlearn.rounds": 1, "unlearn.finish": 0, "sample.per_class": 2, "sample.steps": 1, "score.bootstrap": 0,
    "runtime.device": "cpu", "method.fisher_samples": 8, "unlearn.forget.batch_size": 4, "unlearn.retain.batch_size": 4,
}  # fmt: skip


def test_real_cells_on_the_digits(tmp_path):
    path, out = tmp_path / "real.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump({"classes": [4, [1, 2]], "seeds": [1], "set": QUICK, "rows": [ROW]}))
    content = run_table(str(path), str(out), runner=inline)
    assert (content["done"], content["failed"]) == (2, {})
    for row in entries(tmp_path):
        folder = out / "cells" / row["key"]
        results = json.loads((folder / "results.json").read_text())
        assert results["config_hash"] == row["key"]
        assert [item["index"] for item in results["forget"]] == row["forget"]
        assert row["erased"]["fid"] == pytest.approx(results["models"]["erased"]["fid"], rel=1e-5)
        assert {item.name for item in folder.iterdir()} == {"results.json", "config.yaml", "grid.png"}
        assert row["peak_memory"] > 100 << 20
    (run,) = json.loads((out / "golden.json").read_text()).values()
    assert run["numbers"]["moved"] > 0
    assert run["numbers"]["erased.pixel.0004"] > 0
    assert {"0.loss", "1.grad_norm", "original.fid"} < run["numbers"].keys()
    again = Stub()
    run_table(str(path), str(out), runner=again)
    assert (again.golden, again.cells) == ([], [])
