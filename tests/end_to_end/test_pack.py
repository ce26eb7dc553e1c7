"""The shipped pack: its size, its split, its gate, and that an outside judge reads its samples as ours does."""

from pathlib import Path

import numpy as np
import pytest
import torch

import erase
from erase.classifier import Instrument, load_instrument
from erase.data.images import digits, read_image
from erase.files import shipped
from erase.metrics.fid import statistics
from erase.reference import read_reference
from erase.sampling import image_path

from .conftest import Finished

N = 500


@pytest.fixture(scope="module")
def instrument() -> Instrument:
    return load_instrument(shipped("assets") / "digits" / "classifier")


def kept(instrument: Instrument, images: torch.Tensor) -> float:
    return float(instrument.read(images.split(250)).passed.mean())


def load(folder: Path, classes: range = range(10), per_class: int = 100) -> torch.Tensor:
    return torch.stack([read_image(image_path(folder, c, i)) for c in classes for i in range(per_class)])


def test_the_pack_is_small_and_holds_no_pickle() -> None:
    files = [path for path in (shipped("assets") / "digits").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md"}


def test_the_pack_is_a_miniature_of_the_imagenet_pipeline() -> None:
    model = erase.load_model("digits")
    assert (model.num_classes, model.null_label, model.classes) == (1000, 1000, list(range(10)))
    assert model.transformer.config.out_channels == 2 * model.transformer.config.in_channels == 8
    assert model.latent_shape == (4, 8, 8)
    assert model.image_size == 32


@pytest.mark.parametrize("classes", [range(10), [0, 1, 2, 4, 5, 6, 7, 8, 9]])
def test_the_pack_s_reference_is_that_of_its_images(instrument: Instrument, classes: list[int]) -> None:
    data = digits()
    ours = read_reference(shipped("assets") / "digits").statistics(list(classes))
    theirs = statistics(instrument.read(data.batches(data.select(classes))).features)
    assert np.allclose(ours["mu"], theirs["mu"], rtol=1e-5, atol=1e-5)
    assert np.allclose(ours["sigma"], theirs["sigma"], rtol=1e-5, atol=1e-5)


def test_the_gate_keeps_real_digits_and_the_models_samples(instrument: Instrument, full_run: Finished) -> None:
    data = digits()
    assert kept(instrument, torch.cat(list(data.batches(data.select(range(10), held_out=True))))) >= 0.99
    assert kept(instrument, load(full_run.folder / "samples" / "original")) >= 0.97


@pytest.mark.parametrize("kind", ["noise", "random latents", "shuffled pixels", "dots"])
def test_the_gate_rejects_what_is_no_digit(instrument: Instrument, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    if kind == "noise":
        images = torch.randint(0, 256, (N, 3, 32, 32), generator=generator).to(torch.uint8)
    elif kind == "random latents":
        from erase.sampling import decode

        latents = torch.randn((N, 4, 8, 8), generator=generator)
        images = decode(erase.load_model("digits"), latents).permute(0, 3, 1, 2)
    elif kind == "shuffled pixels":
        data = digits()
        rows = data.select(range(10), held_out=True)
        chosen = torch.stack([data.pixels(int(rows[i % len(rows)])) for i in range(N)]).flatten(2)
        order = torch.stack([torch.randperm(1024, generator=generator) for _ in range(N)])
        images = torch.gather(chosen, 2, order[:, None].expand(-1, 3, -1)).view(N, 3, 32, 32)
    else:
        images = torch.stack([dots(generator) for _ in range(N)])
    assert kept(instrument, images) <= 0.02


def dots(generator: torch.Generator) -> torch.Tensor:
    """A grid of dots of random period, size and brightness, with grain."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    period = draw(2, 9)
    radius, light = draw(1, max(2, period // 2 + 1)), draw(80, 256)
    y, x = torch.meshgrid(torch.arange(32) + draw(0, 8), torch.arange(32) + draw(0, 8), indexing="ij")
    image = ((y % period < radius) & (x % period < radius)) * float(light)
    image = image + 15 * torch.randn((32, 32), generator=generator)
    return image.clamp(0, 255).to(torch.uint8).expand(3, -1, -1)


class Judge:
    """An outside judge on raw 8 x 8 digits: a support vector machine, and a nearest-neighbour gate of its own."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits
        from sklearn.neighbors import NearestNeighbors
        from sklearn.svm import SVC

        raw, train = load_digits(), ~digits().held_out
        self.machine = SVC(gamma=0.001, C=10).fit(raw.data[train], raw.target[train])
        self.neighbours = NearestNeighbors(n_neighbors=1).fit(raw.data[train])
        held_out = self.shrink(torch.stack([digits().pixels(int(i)) for i in np.flatnonzero(~train)]))
        self.limit = np.quantile(self.neighbours.kneighbors(held_out)[0][:, 0], 0.995)

    @staticmethod
    def shrink(images: torch.Tensor) -> np.ndarray:
        """uint8 n x 3 x 32 x 32 back to the values 0 to 16 of the raw digits, n x 64."""
        grey = images.float().mean(1).view(-1, 8, 4, 8, 4).mean((2, 4))
        return (grey * (16 / 255)).flatten(1).numpy()

    def right(self, images: torch.Tensor, asked: np.ndarray) -> np.ndarray:
        small = self.shrink(images)
        near = self.neighbours.kneighbors(small)[0][:, 0] <= self.limit
        return (self.machine.predict(small) == asked) & near


def test_an_independent_judge_agrees(full_run: Finished) -> None:
    pytest.importorskip("sklearn")
    judge = Judge()
    asked = np.repeat(np.arange(10), 100)
    for side in ("original", "erased"):
        right = judge.right(load(full_run.folder / "samples" / side), asked)
        row = full_run.results["models"][side]
        fa, ra = right[asked == 3].mean(), right[asked != 3].mean()
        assert abs(fa - row["fa"]) <= 0.05, (side, fa, row["fa"])
        assert abs(ra - row["ra"]) <= 0.05, (side, ra, row["ra"])
