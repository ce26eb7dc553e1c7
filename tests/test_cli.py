"""The command line: light to import, one line for every wrong use, and the right exit code."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import erase
from erase import cli
from erase.classifier import save_instrument
from erase.errors import StoppedError
from erase.methods import METHODS
from erase.model import untied_copy
from erase.signals import Interrupted

from .helpers import make_model, write_image
from .table_helpers import Stub, entry
from .test_classifier import make_instrument

ROOT = Path(__file__).resolve().parent.parent


def python(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)


def test_importing_erase_and_its_command_does_not_import_torch():
    code = "import sys, erase, erase.cli; print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    done = python("-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["run"],
        ["pretrain"],
        ["table"],
        ["methods"],
        ["convert"],
        ["fid"],
        ["score"],
        ["sample"],
        ["grid"],
        ["report"],
    ],
)
def test_help_does_not_import_torch(command):
    code = (
        "import sys; sys.argv = ['erase', *sys.argv[1:]]; from erase.cli import main\n"
        "try: main()\nexcept SystemExit as end: print('torch' in sys.modules, end.code)"
    )
    done = python("-c", code, *command, "--help")
    assert done.stdout.strip().endswith("False 0"), done.stdout + done.stderr
    assert "Usage:" in done.stdout


def test_the_module_runs_as_a_command():
    done = python("-m", "erase", "--help")
    assert done.returncode == 0
    assert "pretrain" in done.stdout
    assert done.stderr == ""
    assert python("-m", "erase", "--version").stdout.strip().endswith(erase.__version__)


def test_public_names_are_all_there():
    for name in erase.__all__:
        assert getattr(erase, name) is not None
        assert name in dir(erase)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        erase.nothing  # noqa: B018


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs the command in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["erase", *(str(word) for word in words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack of random weights over three classes, with data for them in a folder."""
    root = tmp_path_factory.mktemp("cli")
    about = {"version": 1, "family": "digits", "classes": [0, 1, 2], "data": {"source": str(root / "data")}}
    model = make_model(label_slots=12, pack=about)
    erase.save_model(model, root / "pack")
    save_instrument(make_instrument(classes=(0, 1, 2)), root / "pack" / "classifier", {})
    pixels = np.random.default_rng(0).integers(256, size=(3, 4, 16, 16, 3), dtype=np.uint8)
    for label in range(3):
        for number in range(4):
            write_image(root / "data" / f"name {label}" / f"{number}.png", pixels[label, number])
    return root / "pack"


def refused(result, *parts):
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("erase: ")
    assert "Traceback" not in err
    for part in parts:
        assert part in err


def test_methods_are_listed(call):
    code, out, _ = call("methods", "--json")
    assert code == 0
    rows = {row["method"]: row for row in json.loads(out)}
    assert rows.keys() == METHODS.keys()
    assert rows["sfron"]["policies"] == {"shared": None, "dual": None, "dual_plus": None}
    code, out, _ = call("methods")
    assert code == 0
    assert all(name in out for name in METHODS)


PRESET = ("--preset", "digits/sfron-dual")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--preset", "digits/sfron-daul"], ["unknown preset 'digits/sfron-daul'", "did you mean"]),
        (["--method", "sfrom"], ["unknown method 'sfrom'; did you mean 'sfron'?"]),
        (["--optimizer", "duel"], ["unknown optimizer policy 'duel'; did you mean 'dual'?"]),
        (["--method", "finetune", "--optimizer", "dual"], ["finetune has one objective", "--optimizer shared"]),
        ([*PRESET, "unlearn.forget.lrr=1"], ["unknown key 'unlearn.forget.lrr'; did you mean 'unlearn.forget.lr'"]),
        ([*PRESET, "unlearn.rounds=many"], ["unlearn.rounds must be a whole number"]),
        ([*PRESET, "unlearn.rounds=-1", "sample.steps=0"], ["unlearn.rounds must be", "; sample.steps must be"]),
        ([*PRESET, "rounds"], ["'rounds' is no setting; write key=value"]),
        ([*PRESET, "a=[1"], ["not valid YAML"]),
        ([*PRESET, "--config", "x.yaml"], ["not both"]),
        (["--config", "x.yaml"], ["cannot read the config x.yaml"]),
        (["--seed", "-1"], ["--seed"]),
        ([*PRESET, "seed=-1"], ["seed must be at least 0, not -1"]),
        (["--seed", "x"], ["'x' is not a valid integer"]),
        (["--nope"], ["--nope"]),
        ([*PRESET, "--model", "nowhere"], ["no model at 'nowhere'"]),
        ([*PRESET, "--model", "."], ["holds no model_index.json"]),
    ],
)
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_wrong_use_of_run_is_one_line(call, words, parts, extra):
    refused(call("run", "--forget", "1", *words, *extra), *parts)
    assert list(Path().iterdir()) == []  # nothing was made


def test_a_model_that_is_not_there_is_named_also_without_a_preset(call):
    refused(call("run", "--forget", "1", "--model", "nowhere"), "no model at 'nowhere'")


@pytest.mark.parametrize(
    ("forget", "parts"),
    [
        ([], ["no class to forget; give --forget CLASS"]),
        (["3"], ["class 3 is not in the model; it has 0 to 2"]),
        (["nme 1"], ["unknown class 'nme 1'; did you mean 'name 1'"]),
        (["1", "name 1"], ["class 1 (name 1) is given twice"]),
        (["0", "1", "2"], ["all classes are to be forgotten"]),
    ],
)
def test_wrong_classes_are_one_line(call, pack, forget, parts):
    words = [word for label in forget for word in ("--forget", label)]
    refused(call("run", "--model", pack, *words), *parts)
    assert list(Path().iterdir()) == []


def run_on(call, pack, *words):
    return call("run", "--model", pack, "--forget", "1", "-o", "run", *words)


def test_missing_data_is_one_line(call, pack, tmp_path):
    refused(run_on(call, pack, "--data", "absent"), "no data folder at absent")
    (tmp_path / "few" / "name 0").mkdir(parents=True)
    write_image(tmp_path / "few" / "name 0" / "0.png", np.zeros((16, 16, 3)))
    refused(call("run", "--model", pack, "--forget", "1", "-o", "r2", "--data", "few"), "no image of class 1 (name 1)")


def test_a_missing_classifier_is_one_line(call, tmp_path, pack):
    about = json.loads((pack / "erase.json").read_text())
    erase.save_model(make_model(pack=about), tmp_path / "bare")
    refused(run_on(call, tmp_path / "bare"), "no classifier at", "score.allow_missing=true")


def test_a_gpu_that_is_not_there_is_one_line(call, pack, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    refused(run_on(call, pack, "runtime.device=cuda:99"), "runtime.device=cuda:99 is not there; torch sees cuda:0")
    refused(call("pretrain", "-o", "p", "runtime.device=cuda:99"), "runtime.device=cuda:99 is not there")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_refused_leaves_nothing_and_may_be_asked_again(call, pack, tmp_path):
    for data in ("absent", "absent too"):
        refused(run_on(call, pack, "--data", data), f"no data folder at {data}")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_of_something_else_is_one_line(call, pack, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    refused(run_on(call, pack), "is there already and holds no run; give another --output")
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_an_output_folder_that_is_a_file_is_one_line(call, pack, tmp_path):
    (tmp_path / "run").write_text("a file")
    refused(run_on(call, pack), "run is there already and holds no run")


def test_an_output_folder_of_another_config_is_one_line_that_names_the_keys(call, pack, tmp_path):
    code, out, _ = run_on(call, pack, "--dry-run", "--json")
    assert code == 0
    (tmp_path / "run").mkdir()
    config = json.loads(out)["config"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    result = run_on(call, pack, "--seed", "1", "unlearn.forget.lr=1", "runtime.threads=1", "--data", "absent")
    refused(result, "it differs in data.source, seed, unlearn.forget.lr; give another --output")


def test_a_dry_run_prints_the_config_and_makes_nothing(call, pack, tmp_path):
    code, out, err = run_on(call, pack, "--dry-run", "unlearn.rounds=7")
    assert (code, err) == (0, "")
    config = yaml.safe_load(out)
    assert config["unlearn"]["rounds"] == 7
    assert config["forget"] == ["1"]
    assert "# output: run" in out
    assert "# nothing is missing" in out
    assert list(tmp_path.iterdir()) == []
    code, out, _ = call("run", "--model", pack, "--forget", "name 1", "--dry-run", "--json", "--data", "absent")
    found = json.loads(out)
    assert (code, found["config"]["forget"]) == (0, ["1"])
    assert found["output"] == "runs/pack-1-sfron-dual-s0"
    assert found["missing"] == ["data: no absent"]


@pytest.mark.parametrize("fault", ["a file above", "no right to write", "no right to list"])
def test_a_dry_run_refuses_places_that_the_run_could_not_use(call, pack, tmp_path, monkeypatch, fault):
    (tmp_path / "file").write_text("")
    (tmp_path / "data" / "name 0").mkdir(parents=True)
    listed, told = os.scandir, "file is no folder"
    words = ["--model", pack, "--forget", "1", "--dry-run", "-o", "file/a/run"]
    if fault != "a file above":
        words[-1] = "new/run"
    if fault == "no right to write":  # which root always has
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        told = f"cannot write the output folder new/run: {tmp_path} is not writable"
    if fault == "no right to list":

        def scandir(path="."):
            if str(path).endswith("name 0"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)
        told = "cannot list the folder data/name 0: Permission denied"
    before = sorted(tmp_path.rglob("*"))
    refused(call("run", *words, *(["--data", "data"] if fault == "no right to list" else [])), told)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_names_a_model_that_is_not_there(call):
    code, out, _ = call("run", "--forget", "1", "--model", "nowhere", *PRESET, "--dry-run")
    assert code == 0
    assert "# missing: no model at 'nowhere'" in out
    assert "# missing: data" not in out
    out = call("run", "--forget", "1", "--model", "nowhere", "--data", "absent", *PRESET, "--dry-run")[1]
    assert "# missing: data: no absent" in out
    out = call("run", "--forget", "1", "--model", "nowhere.pt", *PRESET, "--dry-run")[1]
    assert "# missing: data: give --data DIR" in out
    assert "# missing: VAE: an original checkpoint holds none" in out
    code, out, _ = call("run", "--forget", "1", "--model", "nowhere", "--method", "eupmu", "--dry-run")
    assert (code, yaml.safe_load(out)["optimizer"]["policy"]) == (0, "shared")


def test_a_dry_run_without_model_and_preset_shows_another_family_s_and_says_so(call):
    code, out, _ = call("run", "--forget", "1", "--model", "nowhere", "--dry-run", "unlearn.rounds=7")
    assert code == 0
    assert "# missing: no model at 'nowhere'" in out
    assert "# missing: preset: the model's family is not known yet" in out
    assert yaml.safe_load(out)["unlearn"]["rounds"] == 7
    refused(call("run", "--forget", "1", "--model", "nowhere", "--dry-run", "unlearn.round=7"), "unknown key")


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (f"transformer/{WEIGHTS}", "transformer"),
        ("transformer/config.json", "transformer"),
        (f"vae/{WEIGHTS}", "VAE"),
        ("classifier/model.safetensors", "classifier"),
        ("classifier/gate.safetensors", "classifier"),
    ],
)
def test_a_dry_run_names_a_file_that_the_run_will_miss(call, pack, tmp_path, lost, said):
    shutil.copytree(pack, tmp_path / "pack")
    (tmp_path / "pack" / lost).unlink()
    code, out, _ = call("run", "--model", "pack", "--forget", "1", "--dry-run", "--json")
    assert (code, json.loads(out)["missing"]) == (0, [f"{said}: no pack/{lost}"])
    refused(call("run", "--model", "pack", "--forget", "1", "-o", "run"), "pack/" + lost.split("/")[0])


def test_a_dry_run_knows_weights_in_shards(call, pack, tmp_path):
    shutil.copytree(pack, tmp_path / "pack")
    model = erase.load_model(str(pack))
    shutil.rmtree(tmp_path / "pack" / "transformer")
    untied_copy(model.transformer).save_pretrained(tmp_path / "pack" / "transformer", max_shard_size="100KB")
    shards = sorted(path.name for path in (tmp_path / "pack" / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    assert json.loads(call("run", "--model", "pack", "--forget", "1", "--dry-run", "--json")[1])["missing"] == []
    assert erase.load_model("pack").key() == model.key()
    (tmp_path / "pack" / "transformer" / shards[1]).unlink()
    missing = json.loads(call("run", "--model", "pack", "--forget", "1", "--dry-run", "--json")[1])["missing"]
    assert missing == [f"transformer: no pack/transformer/{shards[1]}"]


def test_a_dry_run_looks_for_the_pack_s_own_data(call, pack, tmp_path):
    shutil.copytree(pack, tmp_path / "pack")
    about = json.loads((pack / "erase.json").read_text())
    for data, said in (({"source": "gone"}, "data: no gone"), ({}, "data: give --data DIR")):
        (tmp_path / "pack" / "erase.json").write_text(json.dumps({**about, "data": data}))
        code, out, _ = call("run", "--model", "pack", "--forget", "1", "--dry-run", "--json")
        assert (code, json.loads(out)["missing"]) == (0, [said])


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["Missing option '--output'"]),
        (["-o", "p", "--preset", "digits/pretrian"], ["unknown preset", "did you mean 'digits/pretrain'"]),
        (["-o", "p", "dit.widht=8"], ["unknown key 'dit.widht'; did you mean 'dit.width'"]),
        (["-o", "p", "--data", "absent"], ["no data folder at absent"]),
        (["-o", "p", "--exclude-class", "12"], ["class 12 is not in the model"]),
        (["-o", "p", "dit.label_slots=9"], ["dit.label_slots (9) must be above the largest class id, 9"]),
        (["-o", "p", "dit.heads=3", "vae.groups=5"], ["multiple of dit.heads (3)", "vae.groups (5); "]),
        (["-o", "p", "dit.heads=3", "dit.width=30"], ["dit.width must be a multiple of 4"]),
        (
            ["-o", "p", "dit.heads=5", "dit.steps=-1"],
            ["dit.steps must be", "dit.width must be a multiple of dit.heads (5)"],
        ),
        (["-o", "p", "vae.channels=[]"], ["vae.channels must be multiples of vae.groups (8)"]),
        (["-o", "p", "classifier.width=12"], ["classifier.width must be a multiple of 8"]),
        (["-o", "p", "dit.patch=3"], ["image_size must be a multiple of 12"]),
        (["-o", "p", "dit.patch=16", "instruments=digits"], ["image_size must be a multiple of 64"]),
        (["-o", "p", "instruments=nowhere"], ["no model at 'nowhere'"]),
        (["-o", "."], ["exists and is no pack"]),
        (["-o", "p", *(word for label in range(10) for word in ("--exclude-class", label))], ["all classes are"]),
    ],
)
def test_wrong_use_of_pretrain_is_one_line(call, words, parts):
    refused(call("pretrain", *words), *parts)
    assert list(Path().iterdir()) == []


def test_fields_that_are_wrong_are_not_held_against_others(call):
    code, _, err = call("pretrain", "-o", "p", "dit.heads=many", "dit.width=10")
    assert code == 2
    assert "dit.heads must be a whole number" in err
    assert "dit.width must be a multiple of 4" in err
    assert "multiple of dit.heads" not in err  # of its default, which nobody has asked for


def test_too_few_images_to_pretrain_on_are_one_line(call, tmp_path):
    for label in "ab":
        write_image(tmp_path / "few" / label / "0.png", np.zeros((32, 32, 3)))
    refused(call("pretrain", "-o", "p", "--data", "few"), "2 images are too few")


@pytest.fixture
def scored(pack):
    """Words that give the commands images and an extractor."""
    return pack.parent / "data", ("--reference", pack.parent / "data", "--extractor", pack)


def test_fid_prints_a_table_or_json_and_continues(call, scored, tmp_path):
    data, words = scored
    code, out, err = call("fid", data, data / "name 1", *words, "-o", "fid.jsonl", "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["n"] for row in rows] == [12, 4]
    assert rows[0]["fid"] == pytest.approx(0, abs=1e-4)
    assert rows[1]["fid"] > 1e-3
    assert [json.loads(line) for line in (tmp_path / "fid.jsonl").read_text().splitlines()] == rows
    code, out, err = call("fid", data, data / "name 1", *words, "-o", "fid.jsonl")
    assert (code, err) == (0, "")  # nothing was read
    assert f"{rows[1]['fid']:.4g}" in out


def test_score_prints_a_table_or_json(call, scored):
    data, words = scored
    code, out, _ = call("score", data, *words, "--metrics", "fid,isc", "--json")
    assert code == 0
    row = json.loads(out)[0]
    assert row["metrics"].keys() == {"fid", "isc"}
    code, out, _ = call("score", data, *words)
    assert code == 0
    assert "missing" in out


def test_sample_draws_into_a_folder(call, pack, tmp_path):
    words = ("--classes", "0,name 2", "--per-class", "1", "sample.steps=2", "runtime.device=cpu")
    code, out, err = call("sample", pack, "-o", "out", *words)
    assert code == 0, err
    assert "out: 1 images of each class (0, 2)" in out
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    refused(call("sample", pack, "-o", "out", *words, "sample.seed=1"), "differ in protocol.seed; give another")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fid"], ["Missing argument 'DIR...'"]),
        (["fid", "x"], ["Missing option '--reference'"]),
        (["fid", "x", "--reference", "y", "--extractor", "digits"], ["no images at x"]),
        (["fid", ".", "--reference", ".", "--extractor", "nope"], ["no extractor 'nope'"]),
        (["fid", "x", "--reference", "digits"], ["no images at x"]),
        (["fid", ".", "--reference", "y"], ["no images at y; a reference is"]),
        (["fid", ".", "--reference", "."], ["weights-inception", "put it at", "--weights"]),
        (["fid", ".", "--reference", ".", "--weights", "z"], ["no Inception weights at z"]),
        (["fid", ".", "--reference", ".", "--extractor", "digits", "--device", "gpu"], ["no device 'gpu'"]),
        (["score"], ["Missing argument 'RUN|DIR...'"]),
        (["score", "x", "--extractor", "digits"], ["no images at x"]),
        (["score", "x", "--metrics", "fdi"], ["unknown metric 'fdi'; did you mean 'fid'"]),
        (["sample", "digits"], ["Missing option '--output'"]),
        (["sample", "digits", "-o", "o", "--classes", "11"], ["class 11 is not in the model"]),
        (["sample", "nowhere", "-o", "o"], ["no model at 'nowhere'"]),
        (["sample", "digits", "-o", "o", "steps=3"], ["unknown key 'steps'"]),
    ],
)
def test_wrong_use_of_the_scoring_commands_is_one_line(call, monkeypatch, tmp_path_factory, words, parts):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("hub")))
    refused(call(*words), *parts)
    assert list(Path().iterdir()) == []


def test_unknown_commands_are_one_line(call):
    refused(call("rnu"), "rnu")


def test_no_command_at_all_is_one_line_or_help(call):
    code, out, err = call()
    assert (code == 2 and len(err.splitlines()) == 1) or (code == 0 and out.startswith("Usage:"))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (erase.UserError("do this"), 2, "erase: do this"),
        (RuntimeError("two\nlines"), 1, "erase: RuntimeError: two lines (--debug shows the traceback)"),
        (StoppedError("try that"), 1, "erase: try that"),
        (KeyboardInterrupt(), 130, "erase: interrupted; to continue: erase methods"),
        (cli.Terminated(), 143, "erase: terminated; to continue: erase methods"),
        (Interrupted(2), 130, "erase: stopped, and what was done is saved; to continue: erase methods"),
    ],
)
def test_every_ending_has_its_code_and_its_line(call, monkeypatch, error, code, line):
    def fail():
        raise error

    monkeypatch.setattr("erase.methods.matrix", fail)
    found, out, err = call("methods")
    assert (found, out, err.strip()) == (code, "", line)  # click breaks the line after ^C


@pytest.mark.parametrize("error", [erase.UserError, RuntimeError])
def test_debug_shows_the_traceback(monkeypatch, error):
    def fail():
        raise error("here")

    monkeypatch.setattr("erase.methods.matrix", fail)
    monkeypatch.setattr("erase.dryrun.resolve", lambda *_, **__: fail())
    monkeypatch.setattr(sys, "argv", ["erase", "run", "--forget", "1", "--dry-run", "--debug"])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(error, match="here"):
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_sigterm_ends_a_run_with_its_code(call, monkeypatch):
    monkeypatch.setattr("erase.methods.matrix", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert call("methods")[0] == 143


@pytest.fixture
def cells(monkeypatch, tmp_path):
    """A table of two cells, and a stub that stands for their runs."""
    (tmp_path / "mine.yaml").write_text("{classes: [0, 1], rows: [{method: sfron, optimizer: dual}]}")

    def use(*words, **stub):
        monkeypatch.setattr("erase.table.run.processes", Stub(**stub))
        return ["table", "mine.yaml", "-o", "out", *words]

    return use


def test_a_table_is_printed_as_markdown_or_json(call, cells, tmp_path):
    code, out, err = call(*cells())
    assert code == 0
    assert "| sfron | dual | 0.002 | 0.0 |" in out
    assert "sfron dual, class 1, seed 0: FA 100.0 -> 0.0 %, RA 98.0 -> 98.0 %, FID 2.00 -> 2.00, 60 s" in err
    code, out, _ = call(*cells("--json"))
    assert (code, json.loads(out)["done"]) == (0, 2)


def test_warnings_stand_with_their_cell_and_are_counted_below(call, cells, tmp_path):
    said = ["nothing was forgotten: FA 98.0 % before", "the other classes are harmed: RA"]
    _, out, err = call(*cells(outcome=lambda task: {**entry(), "warnings": said[: 1 + (task.request.forget == [0])]}))
    assert "2 of 2 cells carry a warning: nothing was forgotten (2), the other classes are harmed (1)" in out
    assert "60 s; nothing was forgotten: FA 98.0 % before" in err
    assert len(json.loads((tmp_path / "out" / "mine.json").read_text())["warnings"]) == 2


def test_a_table_with_failed_cells_ends_with_code_1_and_a_line(call, cells):
    code, out, err = call(*cells(outcome=lambda task: entry() if task.request.forget == [0] else {"error": "none"}))
    assert code == 1
    assert "1 of 2" in out
    assert err.strip().splitlines()[-1] == "erase: 1 cells failed; the same command tries them again"
    assert call(*cells("--render"))[0] == 0
    assert call(*cells())[0] == 0


def test_a_table_with_diverged_cells_ends_with_code_1_and_names_retry(call, cells):
    error = {"error": "BadNumberError: loss is inf at step 3"}
    words = cells(outcome=lambda task: entry() if task.request.forget == [0] else error)
    for _ in range(2):
        code, out, err = call(*words)
        assert code == 1
        assert "run again only by --retry" in out
        last = err.strip().splitlines()[-1]
        assert last == "erase: 1 cells ended in a number that is not finite; --retry runs them again"
    assert call(*cells("--retry"))[0] == 0


def test_an_interrupted_table_has_its_code_and_is_rendered(call, cells, tmp_path):
    code, out, err = call(*cells(stop_after=1))
    assert (code, out) == (130, "")
    assert err.strip().splitlines()[-1] == "erase: interrupted; to continue: erase table mine.yaml -o out"
    assert "1 of 2 cells are missing" in (tmp_path / "out" / "mine.md").read_text()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["mine.yaml"], ["--output"]),
        (["absent.yaml", "-o", "out"], ["no file absent.yaml and no shipped table of that name", "digits-policies"]),
        (["mine.yaml", "-o", "mine.yaml"], ["cannot write the output folder mine.yaml"]),
        (["mine.yaml", "-o", "out", "--jobs", "0"], ["--jobs"]),
        (["mine.yaml", "-o", "out", "--keep", "none"], ["--keep"]),
    ],
)
def test_wrong_use_of_table_is_one_line(call, cells, words, parts, tmp_path):
    cells()
    refused(call("table", *words), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_standard_output_on_a_full_disk_is_one_line_and_code_1():
    if not Path("/dev/full").exists():
        pytest.skip("Linux alone has it")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "erase", "methods"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("erase: No space left on device")
