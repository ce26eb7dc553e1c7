"""Tables, the grid and the card."""

import numpy as np
import pytest
from PIL import Image

from erase.report.card import model_card
from erase.report.grid import draw_grid, grid_classes
from erase.report.table import result_table
from erase.sampling import image_path

from .helpers import write_image

RESULTS = {
    "forget": [{"index": 3, "name": "three"}],
    "method": "sfron",
    "optimizer": "dual",
    "seed": 0,
    "config_hash": "cafe",
    "versions": {"erase": "9.9"},
    "protocol": {
        "samples": {"forget": 10, "retain_total": 90},
        "sampler": "dpm++",
        "steps": 20,
        "guidance_scale": 1.5,
    },
    "models": {
        "original": {"fa": 0.98, "ra": 0.995, "fid": 3.14159},
        "erased": {"fa": 0.0, "ra": 0.9876, "fid": None},
    },
}


def test_the_table_prints_percent_and_dashes():
    lines = result_table(RESULTS).splitlines()
    assert lines[0].split() == ["original", "erased"]
    assert lines[1].split()[:5] == ["FA", "98.0", "%", "0.0", "%"]
    assert lines[2].split()[:5] == ["RA", "99.5", "%", "98.8", "%"]
    assert lines[3].split()[:3] == ["FID", "3.14", "-"]


def test_the_card_says_what_was_done():
    text = model_card(RESULTS, "beef", "feed")
    assert text.startswith("---\nlibrary_name: diffusers\n")
    for part in (
        "three (class 3)",
        "`sfron`",
        "`dual`",
        "weights beef",
        "from weights feed",
        "98.0 %",
        "Config cafe",
        "guidance 1.5",
    ):
        assert part in text
    assert "Earlier runs" not in text
    assert "channels" not in text


def test_the_card_says_what_earlier_runs_did_and_how_the_numerics_differ():
    before = [
        {"index": 7, "name": "seven", "method": "ga", "optimizer": "shared", "seed": 2, "config_hash": "f00d"},
        {"index": 8, "name": "eight", "method": "ga", "optimizer": "shared", "seed": 2, "config_hash": "f00d"},
    ]
    protocol = {**RESULTS["protocol"], "guidance_channels": "3"}
    text = model_card({**RESULTS, "protocol": protocol}, "beef", "feed", before, "Other time features.")
    line = "- seven (class 7): `ga` under `shared`, seed 2, config f00d"
    for part in (line, "- eight (class 8)", "\n\nOther time features.\n\n", "guidance 1.5 on 3 channels"):
        assert part in text


def test_small_models_show_every_class():
    assert grid_classes(range(10), [3], [1, 2]) == list(range(10))


def test_large_models_show_the_forgotten_their_neighbours_and_some_others():
    shown = grid_classes(range(1000), [207], [208, 209, 210, 211, 212])
    assert shown[:5] == [207, 208, 209, 210, 211]
    assert len(shown) == len(set(shown)) == 10
    assert max(shown) > 800
    assert min(shown[5:]) < 200


@pytest.mark.parametrize("kept", [1, 4, 6])
def test_few_retained_classes_are_each_shown_once(kept):
    """Of 25 classes all but a few are forgotten."""
    forget = list(range(25 - kept))
    near = [label for label in range(25) if label not in forget]
    shown = grid_classes(range(25), forget, near)
    assert len(shown) == len(set(shown))
    assert set(near[:4]) <= set(shown)


def test_the_grid_puts_the_same_image_numbers_side_by_side(tmp_path):
    colours = {("original", 0): (255, 0, 0), ("original", 1): (0, 255, 0), ("erased", 0): (0, 0, 255)}
    for (side, label), colour in colours.items():
        for number in range(2):
            write_image(image_path(tmp_path / side, label, number), np.full((16, 16, 3), colour))
    draw_grid(tmp_path, tmp_path / "grid.png", {0: "zero", 1: "one"}, [0, 1], [0], "title", columns=2)
    with Image.open(tmp_path / "grid.png") as opened:
        page = np.asarray(opened)
    for colour in colours.values():
        assert (page == np.array(colour)).all(2).sum() == 2 * 64 * 64
    left, right = (np.argwhere((page == np.array(c)).all(2)) for c in ((255, 0, 0), (0, 0, 255)))
    assert left[:, 0].min() == right[:, 0].min()  # one row
    assert left[:, 1].max() < right[:, 1].min()  # original left of erased
    assert np.argwhere((page == np.array((0, 255, 0))).all(2))[:, 0].min() > left[:, 0].max()


def test_forgotten_classes_are_marked(tmp_path):
    for name, forget in (("marked", [1]), ("plain", [])):
        draw_grid(tmp_path, tmp_path / f"{name}.png", {0: "zero", 1: "one"}, [0, 1], forget, "title", columns=1)
    reds = []
    for name in ("marked", "plain"):
        with Image.open(tmp_path / f"{name}.png") as opened:
            reds.append((np.asarray(opened) == np.array((200, 40, 40))).all(2).sum())
    assert reds[0] > 100
    assert reds[1] == 0
