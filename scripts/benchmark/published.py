"""What is computed beforehand and 100 steps, beside a plain re-creation of what the published scripts do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torchvision import transforms

from erase.data.images import ImageSet, folder
from erase.diffusion import Schedule, dit_loss, noise_mse
from erase.methods.base import Beforehand
from erase.methods.sfron import SFRon
from erase.saliency import FISHER_BATCH, selected_share

from .bench import FORGET, Bench
from .timing import phases_in_turns

CHUNKS = 5
NOTES = {
    "what": "sfron under dual: two Fisher diagonals, a mask, then rounds of a forget and a retain step",
    "published": "our own re-creation from a description: every image encoded at every use, Fisher by batches of one "
    "with copies to the host, a mask loop over weights, AdamW as torch builds it, fp32. It keeps no average of weights "
    "and writes nothing, so it does less than the scripts",
    "images": "PNG files in a folder for each class, on both sides, read in the process itself, without workers. "
    "The files count: with images in memory, and before the Fisher diagonal was made 8 % faster, it was 1.997 in CPU",
    "ratio": "seconds of the re-creation by those of erase; one run of each, interleaved in parts, summed",
}

Tensors = dict[str, torch.Tensor]


class Published:
    """Random draws are its own, from torch's global generator, as in the scripts."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.schedule, self.device = bench, Schedule(), bench.device
        self.model, self.vae = copy.deepcopy(bench.model.transformer), bench.model.vae
        images, classes = bench.images, bench.model.classes
        self.files, self.labels = images.files, torch.from_numpy(images.labels)
        self.read = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
        self.rows = {
            "forget": torch.from_numpy(images.select([FORGET], held_out=False)),
            "retain": torch.from_numpy(images.select([label for label in classes if label != FORGET], held_out=False)),
        }

    def draw(self, side: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents, encoded on the spot, and labels."""
        chosen = self.rows[side][torch.randint(len(self.rows[side]), (count,))]
        opened = [self.read(Image.open(self.files[row]).convert("RGB")) for row in chosen.tolist()]
        pixels = torch.stack(opened).to(self.device)
        with torch.no_grad():
            x0 = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
        return x0, self.labels[chosen].to(self.device)

    def noised(self, x0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t = torch.randint(self.schedule.timesteps, (len(x0),), device=self.device)
        noise = torch.randn_like(x0)
        return self.schedule.add_noise(x0, noise, t), noise, t

    def loss(self, x0: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        xt, noise, t = self.noised(x0)
        output = self.model(xt, timestep=t, class_labels=labels, return_dict=False)[0]
        return dit_loss(self.schedule, output, x0, xt, noise, t).mean()

    def ascent(self, x0: torch.Tensor, labels: torch.Tensor, bound: float) -> torch.Tensor:
        xt, noise, t = self.noised(x0)
        output = self.model(xt, timestep=t, class_labels=labels, return_dict=False)[0]
        return -noise_mse(output, noise).clamp(max=bound).mean()

    def fisher(self, side: str, count: int, total: Tensors) -> None:
        for _ in range(count):
            self.model.zero_grad()
            self.loss(*self.draw(side, 1)).backward()
            for name, parameter in self.model.named_parameters():
                if parameter.grad is not None:
                    total[name] += parameter.grad.detach().cpu() ** 2

    def run(self, samples: int, steps: int, config: Any) -> Iterator[str]:
        """Ends a part of a phase at each yield."""
        fisher: dict[str, Tensors] = {}
        for side in ("forget", "retain"):
            fisher[side] = {name: torch.zeros(p.shape) for name, p in self.model.named_parameters()}
            for part in _cut(samples):
                self.fisher(side, part, fisher[side])
                yield "fisher"
        for total in fisher.values():
            for name in total:
                total[name] /= samples
        gamma, tiny = config.method.gamma, 1e-15
        mask = {
            name: ((value + tiny) / (fisher["retain"][name] + tiny) >= gamma).to(self.device)
            for name, value in fisher["forget"].items()
        }
        self.share = selected_share(mask)
        yield "fisher"
        sides = {"forget": config.unlearn.forget, "retain": config.unlearn.retain}
        optimizers = {
            side: torch.optim.AdamW(self.model.parameters(), lr=of.lr, weight_decay=0.0) for side, of in sides.items()
        }
        for part in _cut(steps):
            for _ in range(part):
                self.step(optimizers, mask, sides, config)
            yield "steps"

    def step(self, optimizers: dict[str, Any], mask: Tensors, sides: dict[str, Any], config: Any) -> None:
        x0, labels = self.draw("forget", sides["forget"].batch_size)
        loss = self.ascent(x0, labels, config.method.bound)
        optimizers["forget"].zero_grad()
        loss.backward()
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                parameter.grad *= mask[name]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), sides["forget"].clip)
        optimizers["forget"].step()
        x0, labels = self.draw("retain", sides["retain"].batch_size)
        drop = torch.rand(len(labels), device=self.device) < config.unlearn.label_dropout
        loss = self.loss(x0, torch.where(drop, self.bench.model.null_label, labels))
        optimizers["retain"].zero_grad()
        loss.backward()
        optimizers["retain"].step()
        self.last = loss.item()


class Ours:
    """The product's way from images to weights."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def run(self, samples: int, steps: int, config: Any) -> Iterator[str]:
        bench = self.bench
        bench.split = bench.encoded()  # the cache is empty: this encodes
        yield "encode"
        size = min(FISHER_BATCH, samples)

        def batches(side: str, count: int) -> Iterator[Any]:
            stream = bench.split.beforehand(side, 0, size)
            return (stream.batch(number).to(bench.device) for number in range(-(-count // size)))

        with bench.task() as task:
            method = SFRon(config.method, task)
            tensors = method.precompute(Beforehand(task.module, batches, part=size))
            method.start(tensors, dict(task.module.named_parameters()))
            self.share = selected_share({str(i): mask for i, (_, mask) in enumerate(method.masked)})
            yield "fisher"
            trainer = bench.trainer(config, task, method)
            rows = trainer.walk()
            for part in _cut(steps):
                for _ in range(part * len(trainer.steps()) // config.unlearn.rounds):
                    row = next(rows)
                self.last = float(row["loss"])
                yield "steps"
            rows.close()


def written(bench: Bench) -> ImageSet:
    """The images as PNG files: one folder a class."""
    root, images = bench.work / "images", bench.images
    for index, label in enumerate(images.labels.tolist()):
        path = root / str(label) / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels(index).permute(1, 2, 0).numpy()).save(path)
    return folder(root, images.size)


def _cut(count: int) -> list[int]:
    """``count`` in nearly equal parts."""
    parts = min(CHUNKS, count)
    return [count // parts + (i < count % parts) for i in range(parts)]


def run(bench: Bench) -> list[dict[str, Any]]:
    size = bench.size
    config = bench.config("sfron", "dual", {"fisher_samples": size.fisher_samples}, rounds=size.steps, finish=0)
    bench.images = written(bench)
    with bench.task():  # loads the model before the clock starts
        ours, theirs = Ours(bench), Published(bench)
    torch.manual_seed(0)
    each = (size.fisher_samples, size.steps, config)
    phases = phases_in_turns({"erase": ours.run(*each), "published": theirs.run(*each)})
    rows = []
    whole = {side: [0.0, 0.0] for side in ("erase", "published")}
    for name, times in phases.items():
        row: dict[str, Any] = {"phase": name, "seconds": {}, "cpu_seconds": {}}
        for side in times.wall:
            row["seconds"][side], row["cpu_seconds"][side] = times.wall[side][0], times.cpu[side][0]
            whole[side][0] += times.wall[side][0]
            whole[side][1] += times.cpu[side][0]
        if len(times.wall) == 2:
            row |= {key: times.row("published", "erase")[key] for key in ("ratio", "cpu_ratio")}
        rows.append(row)
    mine, other = whole["erase"], whole["published"]
    end = {
        "phase": "end to end", "aim": 2.0 if bench.device.type == "cpu" else 5.0, "better": "higher",
        "ratio": other[0] / mine[0], "cpu_ratio": other[1] / mine[1],
        "seconds": {side: value[0] for side, value in whole.items()},
        "cpu_seconds": {side: value[1] for side, value in whole.items()},
        "fisher_samples": size.fisher_samples, "steps": size.steps,
        "mask_share": {"erase": ours.share, "published": theirs.share},
        "last_retain_loss": {"erase": ours.last, "published": theirs.last},
    }  # fmt: skip
    return [*rows, end]
