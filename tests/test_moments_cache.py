"""Moments from the VAE: what is encoded, what is kept, and what is left out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from erase.data import moments as module
from erase.data.images import folder
from erase.data.moments import BATCH, CachedMoments, encode_moments
from erase.data.split import balanced, encode_split
from erase.errors import UserError

from .helpers import PIXELS, make_images, make_vae, write_image


class Counting:
    """Counts the images that it encodes, and may die."""

    def __init__(self, after=None):
        self.inner, self.seen, self.after = make_vae(), [], after
        self.config = self.inner.config

    def parameters(self):
        return self.inner.parameters()

    def encode(self, pixels):
        if self.after is not None and len(self.seen) >= self.after:
            raise KeyboardInterrupt
        self.seen.append(pixels)
        return self.inner.encode(pixels)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path / "cache"))


def everything(images):
    return np.arange(len(images))


def test_moments_are_the_vae_s_also_of_mirrored_images():
    vae, images = make_vae(), make_images(6)
    chosen = np.array([4, 1, 3])
    moments, good = encode_moments(vae, images, chosen, "vae", flip=True)
    with torch.no_grad():
        pixels = images.arrays[chosen].float() / 127.5 - 1
        plain, mirrored = vae.encode(pixels).latent_dist, vae.encode(pixels.flip(-1)).latent_dist
    mean, std = moments.take(np.arange(6))
    torch.testing.assert_close(mean, torch.cat([plain.mean, mirrored.mean]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std, torch.cat([plain.std, mirrored.std]), rtol=1e-4, atol=1e-5)
    assert moments.scaling_factor == vae.config.scaling_factor
    assert good.all()
    assert not torch.allclose(plain.mean, mirrored.mean, atol=1e-3)


def test_an_image_s_moments_do_not_depend_on_its_neighbours():
    """Bit for bit: a run that forgets another class finds the same numbers, whoever encoded them."""
    images = make_images(150, classes=2)
    alone, _ = encode_moments(make_vae(), images, np.array([7]), "alone", flip=False)
    among, _ = encode_moments(make_vae(), images, everything(images), "among", flip=False)
    assert torch.equal(alone.take(np.array([0]))[0], among.take(np.array([7]))[0])


def test_what_is_kept_is_found_by_content_and_nothing_else_stands_in():
    images = make_images(8)
    first = Counting()
    encode_moments(first, images, everything(images), "vae", flip=False)
    again = Counting()
    encode_moments(again, dataclasses.replace(images, names={}), everything(images), "vae", flip=False)
    assert (len(first.seen), len(again.seen)) == (1, 0)
    for other, key, flip in (
        (images, "other vae", False),
        (images, "vae", True),
        (make_images(8, seed=1), "vae", False),
    ):
        fresh = Counting()
        encode_moments(fresh, other, everything(other), key, flip=flip)
        assert fresh.seen


def test_runs_that_forget_different_classes_share_what_was_encoded():
    images = make_images(30)
    encode_moments(make_vae(), images, images.select([0, 1]), "vae", flip=False)
    later = Counting()
    encode_moments(later, images, everything(images), "vae", flip=False)
    assert len(later.seen) == 1  # class 2 alone: ten images in one batch


def test_a_stopped_encoding_encodes_no_image_twice():
    images = make_images(20 * BATCH, classes=2)
    stopped = Counting(after=9)
    with pytest.raises(KeyboardInterrupt):
        encode_moments(stopped, images, everything(images), "vae", flip=False)
    continued = Counting()
    moments, _ = encode_moments(continued, images, everything(images), "vae", flip=False)
    assert (len(stopped.seen), len(continued.seen)) == (9, 11)
    whole, _ = encode_moments(make_vae(), images, everything(images), "elsewhere", flip=False)
    rows = everything(images)
    assert torch.equal(moments.take(rows)[0], whole.take(rows)[0])


def test_a_damaged_shard_is_made_anew(tmp_path):
    images = make_images(8)
    encode_moments(make_vae(), images, everything(images), "vae", flip=False)
    shards = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(shards) == 3
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    again = Counting()
    encode_moments(again, images, everything(images), "vae", flip=False)
    assert len(again.seen) == 1


def make_folder(root: Path, count: int, bad: int) -> Path:
    pixels = np.random.default_rng(0).integers(256, size=(count, PIXELS, PIXELS, 3), dtype=np.uint8)
    for number in range(count):
        path = root / f"class{number % 2}" / f"{number:05d}.png"
        write_image(path, pixels[number])
        if number < bad:
            path.write_bytes(path.read_bytes()[:60])
    return root


def test_one_bad_file_in_a_thousand_is_named_and_left_out(tmp_path, capsys):
    images = folder(make_folder(tmp_path / "data", 1001, 1), PIXELS)
    images = dataclasses.replace(images, held_out=np.zeros(1001, dtype=bool))
    for _ in range(2):  # also when the moments come from the cache
        split = encode_split(make_vae(), "vae", images, [0, 1], [0], 9, flip=True)
        said = capsys.readouterr().err
        assert said.count("left out, cannot be read") == 1
        assert "00000.png" in said
        assert sum(len(side) for side in split.sets.values()) == 2 * 1000


def test_more_bad_files_stop_the_run_naming_one(tmp_path):
    images = folder(make_folder(tmp_path / "data", 300, 3), PIXELS)
    with pytest.raises(UserError, match=r"of 300 images cannot be read, the first is .*0000\d\.png"):
        encode_moments(make_vae(), images, everything(images), "vae", flip=False)


@pytest.mark.parametrize("count", [1, 7, 30, 31, 1000])
def test_a_balanced_sample_takes_as_many_of_each_class_as_can_be(count):
    labels = np.array([0] * 40 + [5] * 4 + [7] * 40)
    chosen = balanced(labels, count)
    assert len(set(chosen)) == len(chosen) == min(count, 84)
    assert (np.diff(chosen) > 0).all()
    each = [int((labels[chosen] == label).sum()) for label in (0, 5, 7)]
    assert abs(each[0] - each[2]) <= 1
    assert each[1] == min(4, max(0, each[1]))
    if count >= 12:
        assert each[1] == 4


def test_only_what_the_run_needs_is_encoded():
    images = make_images(400, classes=5)
    vae = Counting()
    split = encode_split(vae, "vae", images, [0, 1, 2, 4], [2], 9, flip=False, retain_images=30)
    forget = len(images.select([2], held_out=False))
    assert (len(split.sets["forget"]), len(split.sets["retain"])) == (forget, 30)
    assert sorted(np.bincount(split.sets["retain"].labels, minlength=5).tolist()) == [0, 0, 10, 10, 10]
    assert len(vae.seen) == -(-(forget + 30) // BATCH)
    other = encode_split(make_vae(), "vae", images, [0, 1, 2, 4], [1], 9, flip=False, retain_images=30)
    assert other.key != split.key


def test_shards_are_mapped_and_not_read(tmp_path):
    """20 times the images cost no more anonymous memory: they lie in the page cache, which the system may take back."""
    from erase.files import write_tensors

    size = (512, 4, 16, 16)  # 2 MiB a tensor

    def anonymous():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    if not Path("/proc/self/status").exists() or "RssAnon" not in Path("/proc/self/status").read_text():
        pytest.skip("needs Linux")
    for number in range(40):
        write_tensors(tmp_path / f"{number}.safetensors", {"mean": torch.ones(size), "std": torch.ones(size)})
    before = anonymous()
    shards = [module.read_tensors(tmp_path / f"{number}.safetensors") for number in range(40)]
    places = np.stack([np.repeat(np.arange(40), 512), np.tile(np.arange(512), 40)], 1)
    moments = CachedMoments(shards, places, 1.0)
    for start in range(0, 40 * 512, 256):
        moments.take(np.arange(start, start + 256))
    assert anonymous() - before < 16 << 20  # of 160 MiB
