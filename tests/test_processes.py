"""Two processes do what one does: the same work by ``processes_worker.py`` in this process and under torchrun."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from . import processes_worker as worker

ROOT = Path(__file__).parents[1]


def torchrun(*words, cwd, n=2, **env):
    """``n`` processes of a module, as a user starts them."""
    return launch("torch.distributed.run", "--standalone", "--nproc_per_node", str(n), "-m", *words, cwd=cwd, **env)


def accelerate(*words, cwd, n=2, **env):
    """The same by accelerate, with its answers for several processes and no GPU."""
    answers = ("--num_machines=1", "--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no")
    several = ("--multi_gpu", f"--num_processes={n}")
    return launch("accelerate.commands.launch", *several, *answers, "-m", *words, cwd=cwd, **env)


def launch(*words, cwd, **env):
    command = [sys.executable, "-m", *words]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = process.communicate(timeout=1200)
        except BaseException:
            process.terminate()  # it ends those that it has started, and then itself
            process.wait(timeout=60)
            raise
    return subprocess.CompletedProcess(command, process.returncode, *said)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folders that one process and two have made."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    done = torchrun("tests.processes_worker", str(two), cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"rank"') == 2
    threads, cache = torch.get_num_threads(), os.environ["ERASE_CACHE"]
    kept = Path("exact/cache/precomputed")  # two processes add up a Fisher diagonal in another order than one
    shutil.copytree(two / kept, one / kept)
    try:
        worker.work(one)
    finally:
        torch.set_num_threads(threads)
        os.environ["ERASE_CACHE"] = cache
    return one, two


@pytest.fixture(scope="module")
def about(pair):
    return [json.loads((folder / "about.json").read_text()) for folder in pair]


def norm(tensors):
    return sum(float(value.double().square().sum()) for value in tensors) ** 0.5


def apart(pair, name):
    """How far the two ends of a training lie apart, by how far it went."""
    one, two = (load_file(folder / name) for folder in pair)
    moved = norm(one[key] - one[f"before{key[5:]}"] for key in one if key.startswith("after"))
    return norm(one[key] - two[key] for key in one if key.startswith("after")) / moved


def test_there_really_were_two(about):
    assert [side["count"] for side in about] == [1, 2]


def test_what_they_say_to_each_other(about):
    one, two = (side["together"] for side in about)
    assert two["sum"] == [3.0, 3.0, 3.0, 3]
    assert two["copied"] == [[0.0, 0.0], [0.0, 0.0]]
    assert two["main"] == [1, 1]  # the main process, alone
    assert two["error"] == ["from 0", "from 0"]
    assert two["largest"] == 1
    assert two["rows"] == [[0, 3], [3, 7]]
    assert two["dealt"] == [[5], [1, 1, 1, 1]]
    assert sorted(two["rounds"]) == [0, 0, 1, 1, 2]
    assert one["few parts"] == {"x": [0, 1]}
    assert (one["main"], one["dealt"], one["rounds"]) == ([1], [[5, 1, 1, 1, 1]], [0, 1])


@pytest.mark.parametrize("case", worker.EXACT)
def test_parts_of_a_batch_are_the_same_bits_in_one_process_and_in_two(pair, case):
    """Whatever the policy makes of the last bit: dual_plus magnifies it without bound."""
    one, two = (load_file(folder / "exact" / f"{case}.safetensors") for folder in pair)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("case", worker.DOUBLE)
def test_unlearning_in_two_processes_is_that_in_one(pair, case):
    assert apart(pair, f"double/{case}.safetensors") < (1e-5 if case.endswith("plus") else 1e-7)


def test_a_lost_sum_of_gradients_is_noticed(about):
    assert "drifted apart" in about[1]["unsummed"]
    assert about[0]["unsummed"] is None


def test_fisher_diagonals_and_mean_gradients_are_those_of_all_samples(pair):
    one, two = (load_file(folder / "beforehand.safetensors") for folder in pair)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max()))


def test_samples_and_cached_latents_are_the_same_bytes(pair, about):
    for kind in ("samples", "cache/latents"):
        one, two = ({p.relative_to(f): p.read_bytes() for p in (f / kind).rglob("*.*")} for f in pair)
        assert len(one) >= 3
        assert one == two
    assert about[1]["drawn"] == [8, 7]  # whole blocks, of two images and one


def test_scores_are_the_same(about):
    one, two = about
    assert np.allclose(two["features"], one["features"], rtol=0, atol=1e-6)
    assert two["passed"] == one["passed"]
    assert two["fid"] == pytest.approx(one["fid"], rel=1e-6, abs=1e-6)


def test_only_one_process_appends_to_the_rows(pair):
    one, two = ((folder / "fid.jsonl").read_text().splitlines() for folder in pair)
    assert len(one) == len(two) == 4
