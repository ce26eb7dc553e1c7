"""Published classifiers by name, and their image gate. No weights are at hand here: they are random."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from erase import published
from erase.data.images import ImageSet
from erase.errors import UserError
from erase.gates import KEEP, gate_rows, published_features, with_gate
from erase.published import KNOWN, Known, load_published, resized, weights_file

from .helpers import make_images, write_image


class Tiny(nn.Module):
    """A classifier of ImageNet's size at the end, and of hardly any before."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 16, 16)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 1000)

    def forward(self, x):
        return self.fc(self.avgpool(self.relu(self.conv(x))).flatten(1))


def tiny_weights(path, seed=0):
    """Random weights of :class:`Tiny` in a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.save(Tiny().state_dict(), path)
    return path


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The name resnet34, standing for a tiny network with weights in a file."""
    monkeypatch.setitem(KNOWN, "resnet34", Known(Tiny, KNOWN["resnet34"].url, "avgpool", "fc"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tiny_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("size", [(256, 256), (300, 200), (64, 64), (224, 224)])
def test_images_are_resized_as_pil_does(size):
    pixels = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR)).astype(float)
    ours = resized(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize(("name", "width"), [("resnet34", 512), ("convnext_tiny", 768)])
def test_a_real_architecture_gives_its_own_answers_and_features(name, width, tmp_path):
    torch.manual_seed(0)
    theirs = KNOWN[name].build().eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    network = load_published(name, str(tmp_path / "w.pth"))
    images = make_images(2, size=224).arrays
    logits, features, near = network(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert torch.allclose(logits, theirs((images / 255 - mean) / std), atol=1e-5)
        head = theirs.fc if name == "resnet34" else theirs.classifier
        assert torch.allclose(head(features if name == "resnet34" else features[..., None, None]), logits, atol=1e-5)
    assert features.shape == (2, width)
    assert torch.allclose(near.norm(dim=1), torch.ones(2))
    assert network.classes == 1000


def test_threads_do_not_mix_their_features(tiny):
    network, images = load_published("resnet34", str(tiny)), make_images(64, size=40).arrays
    with ThreadPoolExecutor(4) as pool:
        found = torch.cat([out[1] for out in pool.map(network, images.split(1))])
    assert torch.allclose(found, network(images)[1], atol=1e-6)


def test_missing_weights_are_one_line_with_where_from_and_where_to(tiny, tmp_path):
    with pytest.raises(UserError) as raised:
        load_published("resnet34")
    place = tmp_path / "torch" / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    assert f"fetch https://download.pytorch.org/models/resnet34-b627a593.pth and put it at {place}" in str(raised.value)
    assert "score.classifier_weights=FILE" in str(raised.value)
    assert "\n" not in str(raised.value)
    place.parent.mkdir(parents=True)
    tiny_weights(place)
    assert weights_file("resnet34", None) == place
    assert load_published("resnet34").classes == 1000
    with pytest.raises(UserError, match="no classifier weights at absent"):
        load_published("resnet34", "absent.pth")


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


@pytest.mark.parametrize("content", ["text", "pickle", "other shape", "other names", "list"])
def test_files_that_hold_no_such_weights_are_named_and_not_run(tiny, content, tmp_path, capsys):
    path = tmp_path / "bad.pth"
    good = Tiny().state_dict()
    made = {
        "pickle": {"fc.weight": Bomb()},
        "other shape": {**good, "fc.weight": torch.zeros(3, 3)},
        "other names": {"x": torch.zeros(1)},
        "list": [torch.zeros(1)],
    }
    path.write_text("text") if content == "text" else torch.save(made[content], path)
    with pytest.raises(UserError, match=r"bad\.pth holds no weights of resnet34") as raised:
        load_published("resnet34", str(path))
    assert "\n" not in str(raised.value)
    assert "boom" not in capsys.readouterr().out


def test_the_key_follows_the_weights(tiny, tmp_path):
    other = tiny_weights(tmp_path / "other.pth", seed=1)
    keys = [load_published("resnet34", str(path)).key for path in (tiny, tiny, other)]
    assert keys[0] == keys[1] != keys[2]


def test_the_nearest_classes_are_those_with_the_nearest_answers(tiny):
    network = load_published("resnet34", str(tiny))
    network.head.weight[5] = network.head.weight[207] * 3 - network.head.weight.mean(0)
    rows = network.head.weight - network.head.weight.mean(0)
    rows = rows / rows.norm(dim=1, keepdim=True)
    found = network.nearest([207], range(300))
    cosines = [float(rows[c] @ rows[207]) for c in found]
    assert cosines == sorted(cosines, reverse=True)
    assert sorted([*found, 207]) == list(range(300))
    assert network.nearest([207], [207, 8]) == [8]


def real(n=400, classes=8, seed=3):
    """Smooth images of several tints; a fifth is held out."""
    draws = np.random.default_rng(seed)
    small = torch.from_numpy(draws.normal(128, 30, size=(n, 3, 4, 4)).clip(0, 255))
    pixels = nn.functional.interpolate(small, (32, 32), mode="bicubic").clamp(0, 255).to(torch.uint8)
    labels = np.arange(n) % classes
    held_out = np.arange(n) // classes % 5 == 0
    return ImageSet({c: str(c) for c in range(classes)}, labels, held_out, 32, f"smooth-{seed}", arrays=pixels)


def test_a_gate_keeps_held_out_real_images_and_refuses_noise(tiny):
    network, images = load_published("resnet34", str(tiny)), real()
    instrument = with_gate(network, images, np.arange(len(images)))
    held_out = instrument.read(images.batches(images.select(range(8), held_out=True)))
    assert held_out.passed.mean() >= 0.99
    noise = torch.randint(0, 256, (50, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    blocks = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    blocks[..., ::2, :] = 255
    fresh = real(seed=4)
    assert instrument.read(fresh.batches(range(100))).passed.mean() > 0.9
    assert not instrument.read([blocks]).passed.any()
    assert instrument.read([noise]).passed.mean() < 0.1
    assert instrument.classes == list(range(1000))


def test_a_gate_is_fitted_once_a_content(tiny, monkeypatch):
    network, images = load_published("resnet34", str(tiny)), real()
    rows = np.arange(200)
    first = with_gate(network, images, rows)
    monkeypatch.setattr("erase.gates.Gate.fit", None)  # any further fit would fail
    again = with_gate(load_published("resnet34", str(tiny)), images, rows)
    assert first.key == again.key
    assert torch.equal(first.gate.bank, again.gate.bank)
    assert first.gate.threshold == again.gate.threshold
    with pytest.raises(TypeError):
        with_gate(network, images, rows[1:])


def test_the_threshold_is_set_by_held_out_images_alone(tiny):
    network, images = load_published("resnet34", str(tiny)), real()
    instrument = with_gate(network, images, np.arange(len(images)))
    assert len(instrument.gate.bank) == (~images.held_out).sum()
    near = network(images.arrays[torch.from_numpy(images.held_out)])[2]
    distances = instrument.gate.distance(near)
    assert instrument.gate.threshold == pytest.approx(torch.quantile(distances, KEEP, interpolation="higher").item())


def test_a_gate_takes_some_of_all_classes_and_all_of_the_forgotten_and_the_nearest():
    images = real()
    rows = gate_rows(images, [1], [2, 3, 4, 5, 6], 16)
    counts = np.bincount(images.labels[rows], minlength=8)
    assert counts.tolist() == [2, 50, 50, 50, 50, 50, 2, 2]


def test_too_few_images_for_a_gate_are_refused():
    images = dataclasses.replace(real(), held_out=np.zeros(400, dtype=bool))
    with pytest.raises(UserError, match="the image gate needs at least 3 real images and one held out"):
        gate_rows(images, [1], [2], 16)


def damaged(tmp_path, bad, n=1200):
    pixels = real(12).arrays.permute(0, 2, 3, 1)
    for number in range(12):
        write_image(tmp_path / f"{number}.png", pixels[number])
    (tmp_path / "bad.png").write_text("no image")
    files = [tmp_path / ("bad.png" if i in bad else f"{i % 12}.png") for i in range(n)]
    held_out = np.arange(n) % 5 == 0
    return ImageSet({0: "0"}, np.zeros(n, dtype=np.int64), held_out, 32, str(tmp_path), files=tuple(files))


def test_one_bad_image_in_a_thousand_is_left_out_and_two_are_refused(tiny, tmp_path, capsys):
    network = load_published("resnet34", str(tiny))
    images = damaged(tmp_path, {7})
    features, good = published_features(network, images, np.arange(1200))
    assert good.tolist() == [i != 7 for i in range(1200)]
    assert "left out, cannot be read" in capsys.readouterr().err
    assert torch.allclose(features[5], network(images.pixels(5)[None])[1][0], atol=1e-6)
    with pytest.raises(UserError, match=r"2 of 1200 images cannot be read, the first is .*bad\.png"):
        published_features(network, damaged(tmp_path, {7, 8}), np.arange(1200))


def test_weights_are_never_downloaded_offline(tiny, monkeypatch):
    def never(*words, **named):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("torch.hub.download_url_to_file", never)
    with pytest.raises(UserError, match="are missing"):
        load_published("resnet34")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(AssertionError, match="the network was asked"):
        load_published("resnet34")
    with pytest.raises(UserError, match="are missing"):
        published.weights_file("resnet34", None, download=False)
