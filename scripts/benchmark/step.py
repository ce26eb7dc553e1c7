"""The unlearning step beside its bare floor: the same passes and losses and fused AdamW on ready tensors, no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch

from erase.diffusion import dit_loss, noise_mse
from erase.methods import find_method
from erase.methods.ltu import by_class, by_image
from erase.task import DiffusionTask

from .bench import Bench
from .timing import in_turns

NOTES = {
    "side": "a round of the product's loop (a step, or a forget and a retain step), its batches drawn in a thread",
    "floor": "forward and backward passes of the same losses and one fused AdamW step an optimizer, on tensors that "
    "are noised already: no mask, clip, norm, surgery, draws, batches or bookkeeping",
    "ratio": "seconds of the product by those of the floor; 1 is no overhead",
}


@dataclass
class Ready:
    """A batch as the floor takes it."""

    xt: torch.Tensor
    x0: torch.Tensor
    noise: torch.Tensor
    t: torch.Tensor
    labels: torch.Tensor
    other: torch.Tensor


class Floor:
    """The passes of one method. ``optimizers``: one for each side, or one for both."""

    def __init__(self, bench: Bench, task: DiffusionTask, batches: dict[str, list[Ready]], dual: bool) -> None:
        self.task, self.autocast = task, bench.accelerator.autocast
        self.batches = {side: cycle(ready) for side, ready in batches.items()}
        self.parameters = list(task.module.parameters())
        made = [torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=0.0, fused=True) for _ in range(1 + dual)]
        self.optimizers = {"forget": made[0], "retain": made[-1]}
        self.losses: list[torch.Tensor] = []

    def output(self, ready: Ready, labels: torch.Tensor | None = None) -> torch.Tensor:
        labels = ready.labels if labels is None else labels
        output: torch.Tensor = self.task.module(ready.xt, timestep=ready.t, class_labels=labels, return_dict=False)[0]
        return output

    def retain(self, ready: Ready) -> torch.Tensor:
        loss = dit_loss(self.task.schedule, self.output(ready), ready.x0, ready.xt, ready.noise, ready.t)
        return loss.mean()

    def ascend(self, ready: Ready) -> torch.Tensor:
        return -noise_mse(self.output(ready), ready.noise).clamp(max=1.0).mean()

    def distill(self, ready: Ready) -> torch.Tensor:
        output = self.output(ready)
        with torch.no_grad():
            target = self.output(ready, ready.other)[:, : ready.x0.shape[1]].float()
        return noise_mse(output, target).mean()

    def backward(self, loss: Callable[[], torch.Tensor]) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        with self.autocast():
            value = loss()
        value.backward()
        self.losses.append(value.detach())

    def alternate(self, forget: Callable[[Ready], torch.Tensor], parts: int = 1) -> None:
        """A backward pass (of each part) and a step for each side."""
        for side, loss in (("forget", forget), ("retain", self.retain)):
            for _ in range(parts):
                ready = next(self.batches[side])
                self.backward(lambda loss=loss, ready=ready: loss(ready))
            self.optimizers[side].step()

    def joint(self) -> None:
        """One backward pass of both losses, a step, and the retain loss once more."""
        forget, retain = next(self.batches["forget"]), next(self.batches["retain"])
        self.backward(lambda: self.distill(forget) + self.retain(retain))
        self.optimizers["forget"].step()
        with torch.no_grad(), self.autocast():
            self.retain(retain)


@dataclass(frozen=True)
class Case:
    method: str
    policy: str
    aim: float | None
    passes: str
    floor: Callable[[Floor], None]
    halves: bool = False


CASES = (
    Case("sfron", "dual", 1.06, "2 forward, 2 backward, 2 AdamW", lambda floor: floor.alternate(floor.ascend)),
    Case(
        "salun", "dual", None, "2 forward, 1 without gradient, 2 backward, 2 AdamW",
        lambda floor: floor.alternate(floor.distill),
    ),
    Case(
        "eupmu", "shared", 1.25, "2 forward, 2 without gradient, 1 backward of both, 1 AdamW",
        lambda floor: floor.joint(),
    ),
    Case(
        "surgery", "dual", 1.25, "2 forward, 1 without gradient, 2 backward, 2 AdamW",
        lambda floor: floor.alternate(floor.distill),
    ),
    Case(
        "ltu", "dual", None, "4 forward of half a batch, 2 without gradient, 4 backward, 2 AdamW",
        lambda floor: floor.alternate(floor.distill, 2), halves=True,
    ),
)  # fmt: skip


def ready_batches(bench: Bench, task: DiffusionTask, case: Case) -> dict[str, list[Ready]]:
    """The first two batches of each side's stream, in the method's own halves where it has any."""
    config, found = bench.config(case.method, case.policy), {}
    halves = {"forget": by_image, "retain": by_class}
    sets = find_method(case.method)(config.method, task).training_sets(bench.split.sets, 0)
    for side in ("forget", "retain"):
        stream = dataclasses.replace(bench.split, sets=sets).training(side, config)
        batches = [stream.batch(number).to(bench.device) for number in range(2)]
        pieces = [part for batch in batches for part in (halves[side](batch) if case.halves else (batch,))]
        found[side] = [
            Ready(
                task.schedule.add_noise(b.x0, b.noise, b.t), b.x0, b.noise, b.t, b.labels, task.next_class(b.labels)
            )
            for b in pieces
        ]  # fmt: skip
    return found


def measure(bench: Bench, case: Case) -> dict[str, Any]:
    size = bench.size
    config = bench.config(case.method, case.policy, rounds=size.rounds * (size.repeats + 1), finish=0)
    with bench.task() as mine, bench.task() as bare:
        trainer = bench.trainer(config, mine)
        steps = len(trainer.steps()) // config.unlearn.rounds
        rows, losses = trainer.walk(), []
        floor = Floor(bench, bare, ready_batches(bench, bare, case), dual=case.policy == "dual")

        def ours() -> None:
            losses.extend(next(rows)["loss"] for _ in range(size.rounds * steps))

        def theirs() -> None:
            for _ in range(size.rounds):
                case.floor(floor)

        times = in_turns({"erase": ours, "floor": theirs}, size.repeats)
        rows.close()
    first = {"first_losses": [float(losses[0]), float(floor.losses[0])]}  # the same batch at the same weights
    about = {"method": case.method, "policy": case.policy, "passes": case.passes, "aim": case.aim, "better": "lower"}
    return {**about, **times.row("erase", "floor", per=size.rounds), **first}


def run(bench: Bench) -> list[dict[str, Any]]:
    return [measure(bench, case) for case in CASES]
