"""What ``test_processes.py`` does in one process, and torchrun in two: the same work, written to a folder."""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from erase import gradient, processes
from erase.classifier import save_instrument
from erase.config import RuntimeConfig, SampleConfig
from erase.data.moments import encode_moments
from erase.errors import UserError
from erase.fidelity import fid
from erase.files import write_json
from erase.methods import METHODS
from erase.saliency import fisher_by_loop, fisher_diagonal, fisher_summed, mean_gradient, mean_loss
from erase.sampling import sample_folder
from erase.scoring import read_folder
from erase.trainer import make_accelerator

from . import test_zoo as zoo
from .helpers import make_batch, make_images, make_model, make_vae
from .test_classifier import make_instrument

SAMPLES = SampleConfig(per_class=5, steps=2, block=2)
CLASSES = [0, 1, 2]
ODD = {"forget": {**zoo.SIDE, "batch_size": 7}, "retain": {**zoo.SIDE, "batch_size": 5}}
TINY = {"forget": {**zoo.SIDE, "batch_size": 1}, "retain": {**zoo.SIDE, "batch_size": 1}}  # one process has no sample
EXACT = {  # in two parts, which are two processes' shares of a batch; dual_plus magnifies whatever differs
    **{f"{name}-{p}": (name, p, {}, 4, {}) for name in METHODS for p in ["dual_plus"] if (name, p) in zoo.PAIRS},
    **{f"{name}-shared": (name, "shared", {}, 4, {}) for name in ("finetune", "retrain")},
    "eupmu": ("eupmu", "shared", {}, 8, {"finish": 0}),  # both batches go through at once; the last rounds know one
    "eupmu-odd": ("eupmu", "shared", {}, 8, {**ODD, "finish": 0}),
    "adaga": ("ga", "dual", {"ascent": "adaga"}, 4, ODD),
    "ltu-dual_plus": ("ltu", "dual_plus", {}, None, {}),
}
DOUBLE = {
    **{f"{name}-{policy}": (name, policy, {}, {}) for name, policy in zoo.PAIRS},
    "sa-dual_plus": ("sa", "dual_plus", {"strength": 0.0}, {}),  # the penalty's Fisher diagonal is a sum in fp32
    "odd": ("surgery", "dual", {}, ODD),
    "none": ("finetune", "shared", {}, TINY),
    "adaga": ("ga", "dual", {"ascent": "adaga"}, ODD),
    "second": ("ltu", "dual", {"order": 2}, {}),
    "whole": ("sa", "dual", {"fisher": "exact", "fisher_images": 3}, {}),
}


def in_double(make):
    """A model whose sums are exact to 1e-16: what is left of a difference is no rounding."""

    def made(**named):
        model = make(**named)
        model.transformer.double()
        model.transformer.register_forward_pre_hook(
            lambda module, words, named: ((words[0].double(), *words[1:]), named), with_kwargs=True
        )
        return model

    return made


def train(out):
    make = zoo.make_model
    os.environ["ERASE_CACHE"] = str(out / "exact" / "cache")
    for case, (name, policy, options, micro, plan) in EXACT.items():
        with in_two_parts() if micro is None and processes.count() == 1 else contextlib.nullcontext():
            before, after = zoo.go(out / "exact" / case, name, policy, options=options, micro_batch=micro, **plan)
        keep(out / "exact" / f"{case}.safetensors", before, after)
    os.environ["ERASE_CACHE"] = str(out / "cache")
    zoo.make_model = in_double(make)
    try:
        for case, (name, policy, options, plan) in DOUBLE.items():
            before, after = zoo.go(out / "double" / case, name, policy, options=options, **plan)
            keep(out / "double" / f"{case}.safetensors", before, after)
        return unsummed(out)
    finally:
        zoo.make_model = make


@contextlib.contextmanager
def in_two_parts():
    """ltu's batches are not all of one size: no micro-batch cuts each of them into two."""
    whole, gradient._parts = gradient._parts, lambda batches, size, least=1: whole(batches, size, max(2, least))
    try:
        yield
    finally:
        gradient._parts = whole


def keep(path, before, after):
    if processes.is_main():
        sides = (("before", before), ("after", after))
        save_file({f"{side}/{name}": value for side, values in sides for name, value in values.items()}, path)


def unsummed(out):
    """The negative control: what is said if the processes do not add up their gradients."""
    add, processes.sum_ = processes.sum_, lambda tensors: None
    try:
        zoo.go(out / "unsummed", "finetune", "shared")
    except RuntimeError as error:
        return str(error)
    finally:
        processes.sum_ = add
    return None


def beforehand(out):
    torch.manual_seed(0)
    module = make_model().transformer
    batches = [make_batch(n, seed=n) for n in (6, 5, 3)]
    task = METHODS["finetune"](None, zoo_task(module)).task
    found = {
        "hooks": fisher_diagonal(module, task.loss, batches),
        "loop": fisher_by_loop(module, task.loss, batches),
        "summed": fisher_summed(module, task.loss, [[batch.part(slice(0, 1))] for batch in batches]),
        "gradient": mean_gradient(module, lambda batch: task.loss(batch).mean(), batches),
        "loss": {"": mean_loss(task.loss, batches)},
    }
    if processes.is_main():
        flat = {f"{kind}/{name}": v.contiguous() for kind, values in found.items() for name, v in values.items()}
        save_file(flat, out / "beforehand.safetensors")


def zoo_task(module):
    from erase.diffusion import Schedule
    from erase.task import DiffusionTask

    return DiffusionTask(module, Schedule(), range(5), [1], 12)


def draw_and_read(out):
    import erase.sampling as sampling

    calls, original = [], sampling.sample

    def counted(model, labels, *rest, **named):
        calls.append(len(labels))
        return original(model, labels, *rest, **named)

    sampling.sample = counted
    try:
        sample_folder(make_model(), out / "samples", SAMPLES, CLASSES, "")
    finally:
        sampling.sample = original
    encode_moments(make_vae(), make_images(40), range(40), "vae", flip=True)
    instrument = make_instrument()
    reading = read_folder(instrument, out / "samples", CLASSES, SAMPLES.per_class)
    processes.on_main(lambda: save_instrument(instrument, out / "pack" / "classifier", {}))
    sets = [out / "samples", *(out / "samples" / f"{label:04d}" for label in CLASSES)]
    rows = fid(sets, out / "samples", str(out / "pack"), out / "fid.jsonl")
    return {
        "drawn": processes.gather(sum(calls)),
        "features": reading.features.tolist(),
        "passed": reading.passed.tolist(),
        "fid": [row["fid"] for row in rows],
    }


def together():
    """Collective functions, one by one."""
    number, n = processes.rank(), processes.count()
    total = torch.full((3,), float(number + 1))
    flag = torch.tensor([number + 1])
    processes.sum_([total, flag, torch.zeros(0)])
    copied = torch.full((2, 2), float(number)).T
    processes.copy_main_([copied])

    def fail():
        raise UserError(f"from {number}")

    try:
        said = processes.on_main(fail)
    except UserError as error:
        said = str(error)
    one = processes.by_parts(lambda parts: {"x": torch.tensor([list(part) for part in parts])}, 2, 2)
    return {
        "sum": [*total.tolist(), *flag.tolist()],
        "copied": copied.tolist(),
        "main": processes.gather(processes.on_main(lambda: number * 10 + processes.count())),
        "error": processes.gather(said),
        "largest": processes.largest(number),
        "few parts": {name: value.flatten().tolist() for name, value in one.items()} if n == 1 else None,
        "rows": processes.gather([processes.my_rows(7).start, processes.my_rows(7).stop]),
        "dealt": processes.gather(processes.dealt([5, 1, 1, 1, 1], int)),
        "rounds": list(processes.in_rounds(range(number + 2))),
    }


def work(out):
    out.mkdir(parents=True, exist_ok=True)
    os.environ["ERASE_CACHE"] = str(out / "cache")
    torch.set_num_threads(1)
    for folder in ("exact", "double"):
        (out / folder).mkdir(exist_ok=True)
    make_accelerator(RuntimeConfig(device="cpu"))
    about = {"count": processes.count(), "together": together(), **draw_and_read(out), "unsummed": train(out)}
    beforehand(out)
    processes.on_main(lambda: write_json(out / "about.json", about))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
    print(json.dumps({"rank": processes.rank()}))
    processes.stop()
