"""The one loop: order, stopping and continuing, masks, averages, and what it refuses to go on with."""

import dataclasses
import json
import os
import signal
import threading

import pytest
import torch

from erase import signals
from erase.config import ObjectiveConfig, OptimizerConfig, RuntimeConfig, UnlearnConfig
from erase.diffusion import Schedule
from erase.errors import UserError
from erase.methods.base import Beforehand, Method, Options
from erase.methods.finetune import Finetune
from erase.methods.sfron import Options as SfronOptions
from erase.methods.sfron import SFRon
from erase.optim import make_policy
from erase.steplog import BadNumberError
from erase.task import DiffusionTask
from erase.trainer import Trainer, check_runtime, make_accelerator

from .helpers import make_stream, make_transformer, same, weights_of

STEPS = 46
SIDE = ObjectiveConfig(batch_size=2, lr=1e-3, lr_schedule="cosine", clip=1.0)
PLAN = UnlearnConfig(rounds=20, finish=6, forget=SIDE, retain=SIDE)
CPU = RuntimeConfig(device="cpu")


class StopError(Exception):
    pass


class Stopping:
    """A stream that raises after some batches, as a killed process does."""

    def __init__(self, stream, after):
        self.stream, self.left = stream, after

    def batch(self, step):
        if self.left == 0:
            raise StopError
        self.left -= 1
        return self.stream.batch(step)


def make_trainer(folder, policy="dual", stop=None, average=None, plan=PLAN, key="k", save_every=23, method=SFRon):
    transformer = make_transformer()
    task = DiffusionTask(transformer, Schedule(), [0, 1, 2], [0], 12)
    if method is SFRon:
        method = SFRon(SfronOptions("sfron", ascent="ga", fisher_samples=2), task)
        streams = {side: make_stream(name=f"precompute/{side}", size=2) for side in ("forget", "retain")}
        parameters = dict(transformer.named_parameters())
        fisher = method.precompute(Beforehand(transformer, lambda side, samples: [streams[side].batch(0)]))
        method.start(fisher, parameters)
    else:
        method = method(Options(), task)
    streams = {side: make_stream(name=side, size=2, dropout=0.2 * (side == "retain")) for side in ("forget", "retain")}
    if stop is not None:
        streams["retain"] = Stopping(streams["retain"], stop)
    folder.mkdir(exist_ok=True)
    return Trainer(
        make_accelerator(CPU), transformer, method, make_policy(OptimizerConfig(policy), transformer.parameters()),
        streams, plan, folder / "state", key, folder / "metrics.jsonl", save_every, average,
    )  # fmt: skip


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run under each policy."""
    runs = {}
    for policy in ("dual", "shared"):
        folder = tmp_path_factory.mktemp(policy)
        trainer = make_trainer(folder, policy, average=0.9)
        trainer.run()
        runs[policy] = trainer, folder
    return runs


def test_rounds_are_forget_steps_then_retain_steps(tmp_path):
    plan = UnlearnConfig(rounds=2, finish=2, forget=ObjectiveConfig(steps=2), retain=ObjectiveConfig(steps=1))
    f, r = "forget", "retain"
    assert make_trainer(tmp_path, plan=plan).steps() == [(0, f), (0, f), (0, r), (1, f), (1, f), (1, r), (2, r), (3, r)]
    retain_only = make_trainer(tmp_path, plan=plan, method=Finetune).steps()
    assert retain_only == [(0, r), (1, r), (2, r), (3, r)]


def test_one_line_a_step_says_what_happened(whole):
    _, folder = whole["dual"]
    lines = rows(folder)
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert [line["objective"] for line in lines[:4]] == ["forget", "retain", "forget", "retain"]
    assert lines[0]["lr"] == 1e-3
    assert lines[0]["loss"] < 0 < lines[1]["loss"]
    assert lines[-1]["lr"] < 1e-4
    assert all(line["grad_norm"] > 0 for line in lines)
    assert -lines[0]["loss"] == pytest.approx(lines[0]["forget_mse"])


def test_the_retain_loss_falls(whole):
    _, folder = whole["dual"]
    retain = [line["loss"] for line in rows(folder) if line["objective"] == "retain"]
    assert sum(retain[-8:]) < 0.9 * sum(retain[:8])


@pytest.mark.parametrize("policy", ["dual", "shared"])
@pytest.mark.parametrize(
    ("stops", "save_every"),
    [
        ((5,), 23),  # before anything was saved
        ((22,), 22),  # rows were written after the last saved state
        ((13, 9), 6),  # twice
    ],
)
def test_a_stopped_run_continues_to_the_same_bits(whole, tmp_path, policy, stops, save_every):
    for stop in stops:
        with pytest.raises(StopError):
            make_trainer(tmp_path, policy, stop, average=0.9, save_every=save_every).run()
    continued = make_trainer(tmp_path, policy, average=0.9, save_every=save_every)
    continued.run()
    undisturbed, folder = whole[policy]
    assert same(weights_of(continued.module), weights_of(undisturbed.module))
    assert same(continued.average, undisturbed.average)
    assert (tmp_path / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()


def test_a_run_stopped_between_forget_and_retain_writes_the_same_metrics(whole, tmp_path):
    with pytest.raises(StopError):
        make_trainer(tmp_path, stop=13, save_every=7).run()
    make_trainer(tmp_path, save_every=7).run()
    assert (tmp_path / "metrics.jsonl").read_text() == (whole["dual"][1] / "metrics.jsonl").read_text()


def test_a_stopped_run_does_continue_and_not_start_again(tmp_path):
    with pytest.raises(StopError):
        make_trainer(tmp_path, stop=13, save_every=6).run()
    trainer = make_trainer(tmp_path, stop=3, save_every=6)
    with pytest.raises(StopError):
        trainer.run()
    assert rows(tmp_path)[-1]["step"] > 26  # 13 retain steps lie before the first stop, at step 27


def test_a_finished_run_takes_no_further_step(whole, tmp_path):
    trainer = make_trainer(tmp_path, stop=30)
    trainer.run()
    again = make_trainer(tmp_path, stop=0)
    again.run()
    assert same(weights_of(again.module), weights_of(trainer.module))
    assert len(rows(tmp_path)) == STEPS


def test_a_state_of_another_config_is_not_continued(tmp_path):
    with pytest.raises(StopError):
        make_trainer(tmp_path, stop=13, save_every=6).run()
    trainer = make_trainer(tmp_path, stop=0, key="another")
    with pytest.raises(StopError):
        trainer.run()
    assert rows(tmp_path) == []


def broken(path, how):
    """Truncates a file, or turns one bit in its last tensor, which leaves it readable."""
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[-3] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "bit"])
def test_a_damaged_state_is_named_and_the_one_before_it_taken(whole, tmp_path, capsys, how):
    with pytest.raises(StopError):
        make_trainer(tmp_path, stop=13, save_every=6, average=0.9).run()
    states = sorted((tmp_path / "state").iterdir())
    assert [path.name for path in states] == ["step-00000018.safetensors", "step-00000024.safetensors"]
    broken(states[1], how)
    rest = make_trainer(tmp_path, average=0.9)
    first = []
    rest.watch = first.append
    rest.run()
    said = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert len(said) == 1
    assert "step-00000024.safetensors is damaged" in said[0]
    assert first[0] == 18
    assert same(weights_of(rest.module), weights_of(whole["dual"][0].module))
    assert same(rest.average, whole["dual"][0].average)
    assert (tmp_path / "metrics.jsonl").read_text() == (whole["dual"][1] / "metrics.jsonl").read_text()


def test_a_state_of_another_version_is_said_and_not_taken(whole, tmp_path, capsys):
    make_trainer(tmp_path).run()  # it keeps no average
    rest = make_trainer(tmp_path, average=0.9)
    rest.run()
    assert "is another version's; not used" in capsys.readouterr().err
    assert same(rest.average, whole["dual"][0].average)


def test_the_average_remembers_no_graph(whole):
    assert all(value.grad_fn is None for value in whole["dual"][0].average.values())


def test_a_state_whose_rows_are_gone_is_not_taken(whole, tmp_path):
    with pytest.raises(StopError):
        make_trainer(tmp_path, stop=13, save_every=6).run()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:20]))
    rest, first = make_trainer(tmp_path), []
    rest.watch = first.append
    rest.run()
    assert first[0] == 18
    assert (tmp_path / "metrics.jsonl").read_text() == (whole["dual"][1] / "metrics.jsonl").read_text()


def test_both_states_damaged_is_a_new_start(whole, tmp_path):
    with pytest.raises(StopError):
        make_trainer(tmp_path, stop=13, save_every=6).run()
    for path in (tmp_path / "state").iterdir():
        broken(path, "bit")
    make_trainer(tmp_path).run()
    assert (tmp_path / "metrics.jsonl").read_text() == (whole["dual"][1] / "metrics.jsonl").read_text()


def test_metrics_of_a_killed_process_are_trimmed(whole, tmp_path):
    """Half a line, and lines beyond the saved state."""
    make_trainer(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n{"step": 1, "lo')
    make_trainer(tmp_path).run()
    assert (tmp_path / "metrics.jsonl").read_text() == (whole["dual"][1] / "metrics.jsonl").read_text()


def test_batches_are_prepared_ahead_in_a_thread_and_change_nothing(whole, tmp_path):
    """The same bits as from steps that are taken one by one on batches drawn in their place."""
    walked, by_hand = make_trainer(tmp_path / "a"), make_trainer(tmp_path / "b")
    drawn = []

    class Watched:
        def batch(self, number, stream=walked.streams["retain"]):
            drawn.append((number, threading.current_thread() is threading.main_thread()))
            return stream.batch(number)

    walked.streams["retain"] = Watched()
    numbers = {"forget": 0, "retain": 0}
    for row, (round_, side) in zip(walked.walk(), by_hand.steps(), strict=True):
        wanted = by_hand.step(round_, side, by_hand.streams[side].batch(numbers[side]))
        numbers[side] += 1
        assert (row["round"], row["objective"]) == (round_, side)
        assert torch.equal(row["loss"], wanted["loss"])
        assert torch.equal(row["grad_norm"], wanted["grad_norm"])
    assert drawn == [(number, False) for number in range(PLAN.rounds + PLAN.finish)]
    assert same(weights_of(walked.module), weights_of(by_hand.module))
    assert same(weights_of(walked.module), weights_of(whole["dual"][0].module))


@pytest.mark.parametrize("policy", ["dual", "shared"])
def test_forget_steps_leave_masked_weights_bit_identical_under_dual_alone(tmp_path, policy):
    trainer = make_trainer(tmp_path, policy)
    for number in range(2):
        trainer.step(0, "retain", trainer.streams["retain"].batch(number))
    before = weights_of(trainer.module)
    trainer.step(0, "forget", trainer.streams["forget"].batch(0))
    masked = [mask == 0 for _, mask in trainer.method.masked]
    assert sum(int(m.sum()) for m in masked) > 1000
    after = weights_of(trainer.module)
    moved = [bool((before[name] != after[name])[m].any()) for name, m in zip(before, masked, strict=True)]
    chosen = [bool((before[name] != after[name])[~m].any()) for name, m in zip(before, masked, strict=True)]
    assert any(moved) == (policy == "shared")
    assert sum(chosen) > 20


class Snapshots(Finetune):
    """Keeps the weights after each step."""

    def __init__(self, options, task):
        super().__init__(options, task)
        self.seen = []

    def report(self, objective):
        self.seen.append(weights_of(self.task.module))
        return {}


def test_the_average_is_that_of_the_weights_with_a_short_memory_at_the_start(tmp_path):
    plan = UnlearnConfig(rounds=0, finish=12, retain=SIDE)
    trainer = make_trainer(tmp_path, "shared", average=0.5, plan=plan, method=Snapshots)
    wanted = weights_of(trainer.module)
    trainer.run()
    assert len(trainer.method.seen) == 12
    for step, weights in enumerate(trainer.method.seen):
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = {name: decay * wanted[name] + (1 - decay) * weights[name] for name in wanted}
    for name, value in trainer.average.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-6)
    assert not same(trainer.average, weights_of(trainer.module))
    assert make_trainer(tmp_path / "none").average == {}


class Turns(Method):
    """Becomes not a number at one step."""

    name = "turns"
    bad = float("nan")

    def values(self, objective, batch):
        return self.task.loss(batch)

    def reduce(self, objective, values):
        self.count = getattr(self, "count", -1) + 1
        return values.mean() * self.bad if self.count == 9 else values.mean()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_is_not_saved(tmp_path, bad):
    class Bad(Turns):
        pass

    Bad.bad = bad
    trainer = make_trainer(tmp_path, method=Bad, save_every=4)
    with pytest.raises(
        BadNumberError,
        match=r"loss is (nan|inf) at step 9 \(retain\); try a lower unlearn\.retain\.lr.*runtime\.bad_steps=N",
    ):
        trainer.run()
    again = make_trainer(tmp_path, method=Bad, save_every=4, stop=0)
    with pytest.raises(StopError):
        again.run()
    assert all(weight.isfinite().all() for weight in weights_of(again.module).values())
    assert [row["step"] for row in rows(tmp_path)] == list(range(8))


@pytest.mark.parametrize("joint", [False, True])
def test_bad_steps_are_skipped_counted_and_written_down(tmp_path, joint, capsys):
    """The run goes on as if the step had not been; one more than allowed stops it, also across a stop."""

    class Twice(Turns):
        def reduce(self, objective, values):
            self.count = getattr(self, "count", -1) + 1
            return values.mean() * (float("inf") if self.count in (3, 9) else 1.0)

    plan = dataclasses.replace(PLAN, update="joint") if joint else PLAN
    trainer = make_trainer(tmp_path, method=Twice, plan=plan, average=0.9)
    trainer.bad_steps = 2
    kept = []
    trainer.watch = lambda done: kept.append(
        (weights_of(trainer.module), {k: v.clone() for k, v in trainer.average.items()})
    )
    trainer.run()
    bad = [row["step"] for row in rows(tmp_path) if row.get("skipped")]
    assert len(bad) == 2
    assert capsys.readouterr().err.count("skipped: ") == 2
    for step in bad:
        for before, after in zip(kept[step], kept[step + 1], strict=True):
            assert same(before, after)
        assert None in rows(tmp_path)[step].values()
        assert not same(kept[step + 1][0], kept[step + 2][0])
    again = make_trainer(tmp_path / "one", method=Twice, plan=plan)
    again.bad_steps = 1
    with pytest.raises(BadNumberError, match="at step"):
        again.run()


def test_the_count_of_skipped_steps_outlives_a_stop(tmp_path):
    class Bad(Turns):
        bad = float("inf")

    trainer = make_trainer(tmp_path, method=Bad, save_every=4, stop=8)
    trainer.bad_steps = 1
    with pytest.raises(StopError):
        trainer.run()
    again = make_trainer(tmp_path, method=Bad, save_every=4)
    again.bad_steps = 1
    with pytest.raises(BadNumberError):
        again.run()  # its own ninth call is the second bad step


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer = make_trainer(tmp_path, save_every=4)

    def spoil(done):
        if done == 7:
            with torch.no_grad():
                next(iter(trainer.average.values()), next(iter(trainer.parameters.values()))).view(-1)[0] = float("inf")

    trainer.average = {"x": torch.zeros(2)}
    trainer._follow = lambda drawn: None
    trainer.watch = spoil
    with pytest.raises(BadNumberError, match="a weight or an optimizer's moment is not finite at step 7"):
        trainer.run()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000004.safetensors"]


def test_a_signal_saves_the_step_that_is_under_way(whole, tmp_path):
    trainer = make_trainer(tmp_path, average=0.9)
    batch = trainer.streams["retain"].batch

    class Signalling:
        def batch(self, number):
            if number == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return batch(number)

    trainer.streams["retain"] = Signalling()
    with signals.graceful(), pytest.raises(signals.Interrupted):
        trainer.run()
    (state,) = (tmp_path / "state").iterdir()
    assert len(rows(tmp_path)) == int(state.stem.removeprefix("step-")) < STEPS
    rest, first = make_trainer(tmp_path, average=0.9), []
    rest.watch = first.append
    rest.run()
    assert first[0] == int(state.stem.removeprefix("step-"))
    assert same(weights_of(rest.module), weights_of(whole["dual"][0].module))
    assert (tmp_path / "metrics.jsonl").read_text() == (whole["dual"][1] / "metrics.jsonl").read_text()


@pytest.mark.parametrize("method", [None, "adaga"])
def test_a_step_that_memory_does_not_hold_is_repeated_in_parts(tmp_path, capsys, method):
    """With a loss that is a mean and with one that is not."""
    found = []
    for room in (None, 1):
        trainer = make_trainer(tmp_path / str(room))
        if method:
            trainer.method.options = dataclasses.replace(trainer.method.options, ascent=method)
        values = trainer.method.values

        def small(objective, batch, values=values, room=room):
            if room is not None and len(batch) > room:
                raise torch.OutOfMemoryError
            return values(objective, batch)

        trainer.method.values = small
        row = trainer.step(0, "forget", trainer.streams["forget"].batch(0))
        found.append((row["loss"], {name: p.grad.clone() for name, p in trainer.parameters.items()}))
    (loss, gradient), (other, parts) = found
    torch.testing.assert_close(loss, other)
    for name in gradient:
        torch.testing.assert_close(gradient[name], parts[name], rtol=1e-4, atol=1e-6)
    assert capsys.readouterr().err.count("training: out of memory with 2 samples at once, 1 from now on") == 1


class Linear(Method):
    """Gradient of known size: 3 for every weight."""

    name = "linear"

    def values(self, objective, batch):
        return 3 * sum(parameter.sum() for parameter in self.task.module.parameters())[None]


def test_the_clip_bounds_the_norm_and_the_unclipped_one_is_reported(tmp_path):
    plan = UnlearnConfig(rounds=1, retain=ObjectiveConfig(clip=0.5), forget=ObjectiveConfig(clip=None, weight=2.0))
    trainer = make_trainer(tmp_path, method=Linear, plan=plan)
    count = sum(parameter.numel() for parameter in trainer.parameters.values())

    def norm():
        return sum(parameter.grad.square().sum().item() for parameter in trainer.parameters.values()) ** 0.5

    reported = trainer.step(0, "retain", trainer.streams["retain"].batch(0))["grad_norm"].item()
    assert reported == pytest.approx(3 * count**0.5, rel=1e-4)
    assert norm() == pytest.approx(0.5, rel=1e-4)
    row = trainer.step(0, "forget", trainer.streams["forget"].batch(0))
    assert norm() == pytest.approx(6 * count**0.5, rel=1e-4)
    assert row["weight"] == 2.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "torch sees none"), ("cuda:3", "torch sees none"), ("gpu", "must be auto, cpu")]
)
def test_devices_that_are_not_there_are_refused(device, message):
    with pytest.raises(UserError, match=message):
        make_accelerator(RuntimeConfig(device=device))


def test_a_gpu_number_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_runtime(RuntimeConfig(device="cuda:1"))
    with pytest.raises(UserError, match=r"runtime\.device=cuda:2 is not there; torch sees cuda:0, cuda:1"):
        make_accelerator(RuntimeConfig(device="cuda:2"))


def test_a_process_may_change_its_precision():
    for precision, mixed in (("bf16", "bf16"), ("fp32", "no"), ("bf16", "bf16")):
        assert make_accelerator(RuntimeConfig(device="cpu", precision=precision)).mixed_precision == mixed
