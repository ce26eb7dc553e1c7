"""The one loop: rounds of forget steps and retain steps over the same weights."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tqdm import tqdm

from . import processes, signals
from .ahead import ahead
from .config import ObjectiveConfig, RuntimeConfig, UnlearnConfig
from .data.latents import Batch, LatentStream
from .errors import StoppedError, UserError
from .gradient import Backward, Take
from .methods import Method
from .optim import Shared, scheduled
from .precision import chosen
from .state import is_finite, load_state, save_state
from .steplog import UNLEARNING, BadNumberError, StepLog, numbers


def check_runtime(runtime: RuntimeConfig) -> None:
    """Raises UserError for a device or a tracker that is not there."""
    if runtime.tracker and importlib.util.find_spec(runtime.tracker) is None:
        raise UserError(f"{runtime.tracker} is not installed; pip install 'erase[{runtime.tracker}]'")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", runtime.device):
        raise UserError(f"runtime.device must be auto, cpu, cuda or cuda:N, not {runtime.device!r}")
    if runtime.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("runtime.device asks for a GPU and torch sees none; use runtime.device=cpu")
    _, _, number = runtime.device.partition(":")
    if number and int(number) >= torch.cuda.device_count():
        names = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        raise UserError(f"runtime.device={runtime.device} is not there; torch sees {names}")


def make_accelerator(runtime: RuntimeConfig, output: Path | None = None) -> Accelerator:
    """The process group, device and precision of a run: bf16 autocast on a GPU, fp32 elsewhere."""
    check_runtime(runtime)
    processes.start(runtime.device)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    cpu = runtime.device == "cpu" or not torch.cuda.is_available()
    if ":" in runtime.device:
        torch.cuda.set_device(runtime.device)
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    AcceleratorState._reset_state(reset_partial_state=True)  # else the process keeps its first run's device, precision
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if chosen(runtime.precision, "cpu" if cpu else "cuda") == "bf16" else "no",
        log_with=runtime.tracker,
        project_dir=str(output) if output else None,
    )


class Trainer:
    """Trains ``module`` in place.

    ``streams`` gives each objective its batches and ``plan`` the rounds. ``average`` keeps an exponential moving
    average of the weights with that decay. At most ``micro_batch`` samples go through the module at once. State is
    saved to the folder ``state`` under ``key`` and continued from; one line a step goes to ``metrics``. ``watch`` is
    called with the number of steps taken, at the start and after each. Up to ``bad_steps`` steps whose loss or gradient
    is not finite are skipped; ``advice`` is what is said of one too many.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: torch.nn.Module,
        method: Method,
        policy: Shared,
        streams: Mapping[str, LatentStream],
        plan: UnlearnConfig,
        state: Path,
        key: str,
        metrics: Path | None = None,
        save_every: int = 500,
        average: float | None = None,
        micro_batch: int | None = None,
        watch: Callable[[int], None] | None = None,
        bad_steps: int = 0,
        advice: str = UNLEARNING,
    ) -> None:
        self.accelerator, self.module, self.method, self.policy = accelerator, module, method, policy
        self.streams, self.plan, self.state, self.key = streams, plan, state, key
        self.save_every, self.decay, self.watch, self.bad_steps = save_every, average, watch, bad_steps
        self.log = StepLog(accelerator, metrics, advice)
        self.skipped = torch.zeros((), dtype=torch.int64)
        self.joint = (plan.update or method.updates[0]) == "joint"
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.backward = Backward(accelerator, method, self.parameters, micro_batch)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if average else {}

    def steps(self) -> list[tuple[int, str]]:
        """Every step of the run as (round, objective), in order."""
        order: list[tuple[int, str]] = []
        for round_ in range(self.plan.rounds + self.plan.finish):
            if round_ < self.plan.rounds and self.joint:
                order += [(round_, "joint")]
                continue
            if round_ < self.plan.rounds and "forget" in self.method.objectives:
                order += [(round_, "forget")] * self.plan.forget.steps
            order += [(round_, "retain")] * self.plan.retain.steps
        return order

    def run(self, title: str = "unlearn") -> None:
        """All steps, from the saved state if there is one.

        Raises BadNumberError for a number that is not finite; no such state is saved. Raises Interrupted, the state
        saved, after a signal.
        """
        total = len(self.steps())
        done = start = self._load()
        show = self.accelerator.is_main_process
        try:
            self._look(done)
            with closing(self.walk(start)) as rows:
                bar = tqdm(rows, desc=title, initial=start, total=total, unit="step", disable=not show)
                for row in bar:
                    loss = self.log.add(row)
                    if loss is not None:
                        bar.set_postfix({row["objective"]: f"{loss:.4f}"})
                    done = row["step"] + 1
                    signals.check_together()
                    self._look(done)
                    if done % self.save_every == 0 and done < total:
                        self._save(done)
        except signals.Interrupted:
            self._save(done)
            raise
        except BadNumberError:
            self.log.flush()
            raise
        if done > start:
            self._save(done)

    def _look(self, done: int) -> None:
        if self.watch is not None:
            self.watch(done)

    def _weights(self) -> dict[str, torch.Tensor]:
        """All tensors that the steps change, but for the optimizers' own."""
        return {
            **self.parameters,
            **{f"average/{name}": tensor for name, tensor in self.average.items()},
            **{f"method/{name}": tensor for name, tensor in self.method.state().items()},
            "skipped": self.skipped,
        }

    def _save(self, done: int) -> None:
        """The state after ``done`` steps, its rows first. Raises BadNumberError rather than save what is not finite."""
        self.log.flush(sync=True)
        if not is_finite(self._weights(), self.policy.optimizers):
            raise self.log.bad("a weight or an optimizer's moment is not finite", done - 1, self.steps()[done - 1][1])
        processes.on_main(lambda: save_state(self.state, done, self.key, self._weights(), self.policy.optimizers))

    def _load(self) -> int:
        """Takes up the saved state; the number of its steps."""

        def load(last: int | None) -> int:
            return load_state(self.state, self.key, self._weights(), self.policy.optimizers, last)

        # a state is of no use without its rows
        start = processes.on_main(lambda: load(None if self.log.path is None else self.log.steps()))
        if not processes.is_main() and load(start) != start:
            raise StoppedError(f"not every process can read {self.state}; it must be on storage that all see")
        processes.on_main(lambda: self.log.trim(start))
        return start

    def walk(self, start: int = 0) -> Generator[dict[str, Any], None, None]:
        """Takes the steps from number ``start`` on, and gives what each did; its numbers are still on the device.

        A thread prepares the next batches meanwhile: each is a function of its number.
        """
        order, taken = self.steps(), {"forget": 0, "retain": 0}
        numbers: list[dict[str, int]] = []
        for _, objective in order:
            sides = ("forget", "retain") if objective == "joint" else (objective,)
            numbers.append({side: taken[side] for side in sides})
            for side in sides:
                taken[side] += 1
        drawn = sum(map(len, numbers[:start]))
        with closing(ahead(self._prepare, numbers[start:], threads=1)) as ready:
            for step, (_, batches) in enumerate(ready, start=start):
                round_, objective = order[step]
                batches = {side: batch.to(self.accelerator.device) for side, batch in batches.items()}
                if objective == "joint":
                    row = self.joint_step(round_, batches)
                else:
                    row = self.step(round_, objective, batches[objective])
                if "skipped" in row:
                    self._skip(step, objective, row)
                else:
                    self._follow(drawn)
                drawn += len(batches)
                yield {"step": step, "round": round_, "objective": objective, **row}

    def _prepare(self, numbers: Mapping[str, int]) -> dict[str, Batch]:
        """The batches of these numbers. A copy to a GPU from page-locked memory does not wait for the GPU's work."""
        batches = {side: self.streams[side].batch(number) for side, number in numbers.items()}
        device = next(iter(self.parameters.values())).device
        if device.type != "cuda":
            return batches
        with torch.cuda.device(device):  # the current device is a thread's own
            return {side: batch.pinned() for side, batch in batches.items()}

    def step(self, round_: int, objective: str, batch: Batch) -> dict[str, Any]:
        """One step of ``objective`` on ``batch``: backward, edit (mask), clip, step."""
        lr, weight = self._scheduled(objective, round_)
        loss = self.backward(objective, {objective: batch}, weight)
        norm = self._clip(objective)
        row = {"loss": loss, "grad_norm": norm, "lr": lr, "weight": weight}
        if not self._good(loss, norm):
            return {**row, "skipped": True}
        self.policy.step(objective, lr)
        return {**row, **self.method.report(objective)}

    def joint_step(self, round_: int, batches: Mapping[str, Batch]) -> dict[str, Any]:
        """One step with both gradients at the same weights: summed under one state, else each by its own.

        The method edits the gradients before their weights apply, so that a conflict is a matter of direction.
        """
        take = Take(self.backward)
        gradients = self.method.gradients(batches, take)
        rates = {side: self._scheduled(side, round_) for side in gradients}
        if not self.method.single_backward:
            for side, gradient in gradients.items():
                torch._foreach_mul_(gradient, rates[side][1])
        if self.policy.one_state and len(gradients) > 1:
            gradients = {"forget": list(torch._foreach_add(gradients["forget"], gradients["retain"]))}
        row: dict[str, Any] = {"loss": take.losses["forget"], "lr": rates["forget"][0]}
        for side, gradient in gradients.items():
            self._put(gradient)
            name = "grad_norm" if side == "forget" else f"{side}_grad_norm"
            row[name] = self._clip(side)
            if side != "forget":
                row[f"{side}_lr"] = rates[side][0]
        parts = {f"{side}_loss": loss for side, loss in take.losses.items() if side != "forget"}
        if not self._good(*(value for value in (*row.values(), *parts.values()) if isinstance(value, torch.Tensor))):
            return {**row, **parts, "skipped": True}
        for side, gradient in gradients.items():
            self._put(gradient)
            self.policy.step(side, rates[side][0])
        self.method.after_step(batches, rates["forget"][0], self.backward.evaluate)
        return {**row, **parts, **self.method.report("joint")}

    def _put(self, gradient: Sequence[torch.Tensor]) -> None:
        for parameter, part in zip(self.parameters.values(), gradient, strict=True):
            parameter.grad = part

    def _good(self, *values: torch.Tensor) -> bool:
        """Whether a step with these numbers is to be taken. On a GPU that is asked only where steps may be skipped, for
        each answer waits for the device; elsewhere the log finds a bad number before a state is saved."""
        if self.accelerator.device.type != "cpu" and not self.bad_steps:
            return True
        return bool(torch.stack([value.detach().float() for value in values]).isfinite().all())

    def _skip(self, step: int, objective: str, row: Mapping[str, Any]) -> None:
        """Counts a step that was not taken. Raises BadNumberError for one too many."""
        self.skipped += 1
        found = numbers(row)
        what = next(f"{k} is {v}" for k, v in found.items() if isinstance(v, float) and not math.isfinite(v))
        if int(self.skipped) > self.bad_steps:
            raise self.log.bad(what, step, objective)
        if processes.is_main():
            counted = f"{int(self.skipped)} of {self.bad_steps}"
            tqdm.write(f"step {step} ({objective}) skipped: {what}; {counted}", file=sys.stderr)

    def _scheduled(self, objective: str, round_: int) -> tuple[float, float]:
        settings: ObjectiveConfig = getattr(self.plan, objective)
        rounds = self.plan.rounds if objective == "forget" else self.plan.rounds + self.plan.finish
        return scheduled(settings, round_, rounds)

    def _clip(self, objective: str) -> torch.Tensor:
        """The gradient's norm, before it is bounded where there is a bound."""
        limit, parameters = getattr(self.plan, objective).clip, self.parameters.values()
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm

    @torch.no_grad()
    def _follow(self, drawn: int) -> None:
        """Moves the average after a step that ``drawn`` batches came before."""
        if self.average:
            decay = min(self.decay or 0.0, (1 + drawn) / (10 + drawn))  # short memory at the start
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    def take_average(self) -> None:
        """Puts the average in the weights' place, where one is kept."""
        with torch.no_grad():
            for name, tensor in self.average.items():
                self.parameters[name].copy_(tensor)
