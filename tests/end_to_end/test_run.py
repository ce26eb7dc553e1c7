"""The run folder of the newcomer's command: what it must hold and what it must show."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from safetensors.torch import load_file

import erase
from erase.rng import image_seed

from .conftest import Finished
from .conftest import erase as fresh
from .conftest import quick as command

QUICK = ("unlearn.rounds=3", "unlearn.finish=1", "method.fisher_samples=64", "sample.per_class=3", "sample.steps=2")


def test_the_class_is_gone_and_the_others_stay(full_run: Finished) -> None:
    original, erased = full_run.results["models"]["original"], full_run.results["models"]["erased"]
    assert original["fa"] >= 0.9
    assert erased["fa"] <= 0.02
    assert erased["ra"] >= original["ra"] - 0.02
    assert erased["fid"] <= 1.3 * original["fid"]


def test_results_follow_the_contract(full_run: Finished) -> None:
    results = full_run.results
    assert results["version"] == 1
    assert results["complete"] is True
    assert results["forget"] == [{"index": 3, "name": "3"}]
    assert (results["method"], results["optimizer"], results["seed"]) == ("sfron", "dual", 0)
    assert results["protocol"]["samples"] == {"forget": 100, "retain_total": 900}
    assert {"sample_seed", "guidance_scale", "sampler", "steps", "classifier", "gate", "extractor", "reference"} < set(
        results["protocol"]
    )
    assert results["protocol"]["reference_count"] == 1797 - 183
    assert set(results["seconds"]) == {"precompute", "unlearn", "sample", "score", "total"}
    for row in results["models"].values():
        assert set(row["per_class_accuracy"]) == {str(c) for c in range(10)}
        assert row["metrics"]["fa"]["n"] == 100
        assert row["metrics"]["fid"]["low"] < row["fid"] < row["metrics"]["fid"]["high"]
        assert row["fa"] <= row["fa_top1"]


def test_the_folder_follows_the_contract(full_run: Finished) -> None:
    folder = full_run.folder
    assert yaml.safe_load((folder / "config.yaml").read_text())["forget"] == ["3"]
    assert not (folder / "state").exists()
    assert len(list((folder / "precomputed").glob("sfron-*.safetensors"))) == 1
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert {"loss", "grad_norm", "lr", "objective"} <= set(rows[0])
    for side in ("original", "erased"):
        assert len(list((folder / "samples" / side).glob("*/*.png"))) == 1000
        with Image.open(folder / "samples" / side / "0003" / "00007.png") as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")
    with Image.open(folder / "grid.png") as grid:
        assert grid.width > grid.height > 300
    assert "grid.png" in full_run.stdout
    assert "FA" in full_run.stdout


def test_saved_samples_are_what_the_api_draws_from_the_saved_model(full_run: Finished) -> None:
    model = erase.load_model(str(full_run.folder / "model"))
    numbers = range(4)
    drawn = erase.sample(model, [7] * 4, [image_seed(0, 7, i) for i in numbers])
    for number in numbers:
        with Image.open(full_run.folder / "samples" / "erased" / "0007" / f"{number:05d}.png") as image:
            assert np.abs(np.asarray(image).astype(int) - drawn[number]).max() <= 1


def test_saved_model_draws_the_same_in_stock_diffusers(full_run: Finished) -> None:
    from diffusers import DiTPipeline

    labels, seeds = [0, 3, 8, 9], [11, 12, 13, 14]
    ours = erase.sample(erase.load_model(str(full_run.folder / "model")), labels, seeds, guidance_scale=1.5, steps=20)
    pipe = DiTPipeline.from_pretrained(full_run.folder / "model")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.labels["3"] == 3
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    theirs = pipe(
        class_labels=labels, guidance_scale=1.5, num_inference_steps=20, generator=generators, output_type="np"
    ).images
    assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 2


def test_the_saved_model_is_a_pack_that_can_forget_again(full_run: Finished, tmp_path: Path) -> None:
    done = command(
        "run", "--forget", "5", "--model", str(full_run.folder / "model"), "-o", "again", *QUICK, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "again" / "model" / "README.md").read_text().count("5 (class 5)") == 1


def test_same_command_twice_gives_identical_weights_and_results(tmp_path: Path) -> None:
    for name, door in (("a", command), ("b", fresh)):
        done = door("run", "-f", "3", "-f", "8", "-o", name, *QUICK, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    weights = "model/transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("a", "b"))
    assert a.pop("seconds").keys() == b.pop("seconds").keys()
    assert a == b
    assert a["forget"] == [{"index": 3, "name": "3"}, {"index": 8, "name": "8"}]


def test_a_finished_run_is_not_redone_and_json_goes_to_stdout(tmp_path: Path) -> None:
    first = command("run", "-f", "1", "-o", "run", "--json", *QUICK, cwd=tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    again = command("run", "-f", "1", "-o", "run", "--json", *QUICK, cwd=tmp_path)
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert "unlearn" not in again.stderr
    other = command("run", "-f", "1", "-o", "run", *QUICK, "unlearn.retain.lr=1e-5", cwd=tmp_path)
    assert other.returncode == 2
    assert "unlearn.retain.lr" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1
    threads = command("run", "-f", "1", "-o", "run", "--json", *QUICK, "runtime.threads=1", cwd=tmp_path)
    assert threads.returncode == 0, "keys under runtime: do not make another run"


def test_a_stopped_run_continues_to_the_same_end(tmp_path: Path) -> None:
    whole = command("run", "-f", "2", "-o", "whole", *QUICK, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr[-2000:]
    keep = command("run", "-f", "2", "-o", "part", *QUICK, "runtime.keep_state=true", cwd=tmp_path)
    assert keep.returncode == 0
    part = tmp_path / "part"
    (part / "results.json").unlink()
    (part / "samples" / "erased" / "0004" / "00001.png").unlink()
    again = command("run", "-f", "2", "-o", "part", *QUICK, cwd=tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    a, b = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "part"))
    assert a["models"] == b["models"]


def test_the_saved_fisher_selects_some_weights_and_no_other_label(full_run: Finished) -> None:
    """The Fisher diagonals that the run saved select a share of the weights, neither none nor all."""
    fisher = load_file(next((full_run.folder / "precomputed").glob("sfron-*.safetensors")))
    names = [name.removeprefix("forget/") for name in fisher if name.startswith("forget/")]
    chosen = sum(
        int(((fisher[f"forget/{n}"] >= fisher[f"retain/{n}"]) & (fisher[f"forget/{n}"] > 0)).sum()) for n in names
    )
    total = sum(fisher[f"forget/{n}"].numel() for n in names)
    assert 0.05 < chosen / total < 0.9
    table = next(n for n in names if n.endswith("embedding_table.weight"))
    rows = fisher[f"forget/{table}"].sum(1).nonzero().flatten().tolist()
    assert rows == [3], "no forget pass touches the null label or another class's row"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--forget", "12"], "class 12"),
        (["run", "--forget", "tree"], "unknown class"),
        (["run"], "no class"),
        (["run", "-f", "3", "-f", "3"], "twice"),
        (["run", *[w for c in range(10) for w in ("-f", str(c))]], "all classes"),
        (["run", "-f", "3", "--preset", "digits/sfron-dul"], "digits/sfron-dual"),
        (["run", "-f", "3", "--method", "sfrom"], "sfron"),
        (["run", "-f", "3", "--optimizer", "duel"], "dual"),
        (["run", "-f", "3", "unlearn.forget.lrr=1"], "unlearn.forget.lr"),
        (["run", "-f", "3", "method.gama=1"], "method.gamma"),
        (["run", "-f", "3", "unlearn.rounds=-1"], "unlearn.rounds"),
        (["run", "-f", "3", "unlearn.rounds=many"], "unlearn.rounds"),
        (["run", "-f", "3", "--model", "nowhere"], "nowhere"),
        (["run", "-f", "3", "--data", "nowhere"], "nowhere"),
        (["run", "-f", "3", "-o", "/proc/erase"], "/proc/erase"),
        (["run", "-f", "3", "what"], "key=value"),
        (["run", "-f", "3", "--method", "finetune", "--optimizer", "dual"], "shared"),
        (["run", "-f", "3", "--bad"], "--bad"),
        (["pretrain", "-o", "x", "vae.step=3"], "vae.steps"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], said: str, tmp_path: Path) -> None:
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_damaged_model_and_a_foreign_folder_are_refused(tmp_path: Path) -> None:
    import shutil

    from erase.files import shipped

    shutil.copytree(shipped("assets") / "digits", tmp_path / "pack")
    weights = tmp_path / "pack" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    damaged = command("run", "-f", "3", "--model", "pack", cwd=tmp_path)
    assert (damaged.returncode, len(damaged.stderr.strip().splitlines())) == (2, 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    foreign = command("run", "-f", "3", "-o", "mine", cwd=tmp_path)
    assert (foreign.returncode, len(foreign.stderr.strip().splitlines())) == (2, 1)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_dry_run_needs_no_weights_and_lists_what_is_missing(tmp_path: Path) -> None:
    done = command("run", "-f", "3", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["unlearn"]["rounds"] > 0
    assert "nothing is missing" in done.stdout
    absent = command("run", "-f", "3", "--dry-run", "--model", "gone", "--preset", "digits/sfron-dual", cwd=tmp_path)
    assert absent.returncode == 0
    assert "missing: no model at 'gone'" in absent.stdout
    assert list(tmp_path.iterdir()) == []


class Notes(GeneralTracker):
    name = "notes"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    @property
    def tracker(self) -> list[str]:
        return self.heard

    def log(self, values: dict[str, float], step: int | None, **words: object) -> None:
        self.heard.append(f"step {step}")

    def finish(self) -> None:
        self.heard.append("finish")


@pytest.mark.parametrize("sound", [True, False])
def test_a_tracker_hears_of_every_step_and_of_the_end_however_it_ends(tmp_path, monkeypatch, sound) -> None:
    notes = Notes()
    monkeypatch.setattr("erase.trainer.Accelerator", lambda **about: Accelerator(**about | {"log_with": notes}))
    (tmp_path / "tensorboard.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    if not sound:
        monkeypatch.setattr("erase.unlearning.score", lambda *about: 1 / 0)
    words = [*QUICK, "runtime.tracker=tensorboard", "runtime.device=cpu"]
    done = command("run", "--forget", "3", "--output", str(tmp_path / "run"), *words, cwd=tmp_path)
    assert done.returncode == (0 if sound else 1)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert notes.heard == [*(f"step {row['step']}" for row in rows), "finish"]
