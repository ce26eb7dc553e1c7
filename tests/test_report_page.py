"""``erase report``: what stands on the page of a run, that it is one safe file, and what is refused."""

import base64
import io
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from erase.config import RunConfig, parse_words
from erase.errors import UserError
from erase.presets import config_hash, resolve
from erase.report.command import run_command
from erase.report.kept import keep_scores, read_scores
from erase.report.page import write_report
from erase.report.run_folder import read_run

from .helpers import write_image
from .page_helpers import COLOURS, NAMES, Page, make_run, scored
from .test_cli import call, refused  # noqa: F401

ALL = ["asked", "result", "samples", "classes", "curves", "fading", "grid", "protocol"]
EVIL = "<script>alert(1)</script>\"'&"


def page_of(folder, **words):
    about = write_report(folder, **words)
    return Page(folder / "report.html"), about


def check_safe(page):
    """One well-formed file that loads nothing, runs nothing, and links only into itself."""
    assert page.faults == []
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    ids = {attributes.get("id") for _, attributes in page.elements}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("href", "#")[1:] in ids | {""}
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_a_run_s_page_is_one_file_with_every_section(tmp_path):
    folder = make_run(tmp_path)
    page, about = page_of(folder)
    assert about == {"output": str(folder / "report.html"), "kind": "run", "sections": ALL}
    check_safe(page)
    assert [attributes["id"] for attributes in page.all("section")] == ALL
    for part in ("FA from 98.0 to 0.0 %, RA from 97.0 to 96.0 %, FID from 1.76 to 1.89.", "× 1.07", "one (1)", "−98.0"):
        assert part in page.text
    assert "erase run --forget 1 --method sfron --optimizer dual --seed 0" in page.text
    assert "12.3" in page.text
    first = page.source
    assert page_of(folder)[0].source == first, "the same folder gives the same page"


def test_what_comes_from_outside_is_text(tmp_path):
    folder = make_run(tmp_path, names={0: EVIL, 1: f"{EVIL} b", 2: "two"})
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("source: digits", f"source: {json.dumps(EVIL)}"))
    results = json.loads((folder / "results.json").read_text())
    results["protocol"][EVIL] = EVIL
    results["versions"] = {EVIL: EVIL}
    (folder / "results.json").write_text(json.dumps(results))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 6, "objective": EVIL, "loss": 1.0, EVIL: 2.0}) + "\n")
        file.write(json.dumps({"step": 7, "objective": EVIL, "loss": 2.0, EVIL: 3.0}) + "\n")
    page, _ = page_of(folder)
    check_safe(page)
    assert "<script" not in page.source
    assert page.text.count(EVIL) > 10


def test_images_of_both_sides_are_in_the_page_pixel_by_pixel(tmp_path):
    page, _ = page_of(make_run(tmp_path))
    by_name = {}
    for attributes in page.all("img"):
        data = base64.b64decode(attributes["src"].partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            by_name[attributes["alt"]] = np.asarray(image.convert("RGBA"))
    for side, colour in COLOURS.items():
        strip = by_name[f"one (1), {side}"]
        assert strip.shape == (8, 17, 4)
        assert (strip[:, :8, :3] == colour).all()
        assert (strip[:, 9:, :3] == colour).all()
        assert (strip[:, 8, 3] == 0).all(), "a gap of no colour, so that it is right in light and dark"


def test_large_images_are_reduced(tmp_path):
    folder = make_run(tmp_path)
    write_image(folder / "samples" / "original" / "0001" / "00000.png", np.zeros((512, 512, 3)))
    page, _ = page_of(folder)
    widths = [int(a["width"]) for a in page.all("img") if a["alt"] == "one (1), original"]
    assert widths == [2 * 128 + 4]


def test_the_nearest_classes_follow_the_forgotten_one(tmp_path):
    page, _ = page_of(make_run(tmp_path))
    assert [a["alt"] for a in page.all("img")][:6:2] == ["one (1), original", "two (2), original", "zero (0), original"]
    assert "nearest 1" in page.text


def circles(page, kind):
    return [float(a["cx"]) for a in page.all("circle", kind)]


def test_places_in_the_class_picture_are_in_proportion(tmp_path):
    accuracy = ({"0": 1.0, "1": 0.98, "2": 0.9}, {"0": 0.8, "1": 0.1, "2": 0.9})
    before, after = (scored(a["1"], 0.95, 1.0, accuracy=a) for a in accuracy)
    page, _ = page_of(make_run(tmp_path, before, after))
    at = dict(zip((0.98, 1.0, 0.9), circles(page, "before"), strict=True))  # the largest loss first
    assert (at[1.0] - at[0.9]) / (at[0.98] - at[0.9]) == pytest.approx(0.1 / 0.08, rel=1e-2)
    assert circles(page, "after") == [pytest.approx(at[1.0] - 2 * (at[1.0] - at[0.9]), abs=0.1), at[0.9]]
    assert "to 10.0" in page.text, "the forgotten class has left the axis"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (scored(0.98, 0.97, 1.8), scored(0.95, 0.97, 1.8), "nothing was forgotten"),
        (scored(0.98, 0.97, 1.8), scored(0.2, 0.97, 1.8), "The class is not gone: 20.0 %"),
        (scored(0.98, 0.97, 1.8), scored(0.0, 0.97, 1.8, gate=0.9), "destroyed rather than gracefully"),
        (scored(0.98, 0.97, 1.8), scored(0.0, 0.97, 1.8, top1=0.31), "Without the image gate FA would be 31.0 %"),
        (scored(0.98, 0.97, 1.8), scored(0.0, 0.949, 1.8), "RA fell by 2.1 points"),
        (scored(0.98, 0.97, 1.8), scored(0.0, 0.97, 2.2), "FID is 1.22 times"),
        (scored(0.4, 0.97, 1.8), scored(0.0, 0.97, 1.8), "itself shows the class in 40.0 %"),
        (scored(0.98, 0.97, 1.8), scored(0.0, 0.97, 1.8, n=99), "fa of 99 images, which means something from 100"),
        (
            scored(0.98, 0.97, 1.8),
            scored(0.0, 0.9, 1.8, accuracy={"0": 0.9, "1": 0.0, "2": 0.97}),
            "more than 5 points: zero (0) by 7 points",
        ),
        (scored(0.98, 0.97, 1.8), scored(0.0, 0.95, 2.16, gate=0.4), None),
    ],
)
def test_cautions_are_given_where_they_are_due(tmp_path, before, after, said):
    page, _ = page_of(make_run(tmp_path, before, after))
    assert ("Read with care" in page.text) == (said is not None)
    assert said is None or said in page.text


def test_scores_that_are_missing_say_why(tmp_path):
    nothing = {
        **dict.fromkeys(("fa", "fa_top1", "not_an_image", "ra", "fid", "per_class_accuracy")),
        "why": "no weights",
    }
    page, about = page_of(make_run(tmp_path, nothing, nothing))
    assert "Nothing was scored: no weights." in page.text
    assert "classes" not in about["sections"]
    check_safe(page)


def test_values_that_are_not_finite_are_counted_and_not_drawn(tmp_path):
    folder = make_run(tmp_path)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "round": 3, "objective": "retain", "loss": NaN, "g": Infinity}\n')
    page, _ = page_of(folder)
    assert "2 values of metrics.jsonl are not finite" in page.text
    assert "nan" not in page.source.lower().replace("nance", "")


def test_an_unfinished_run_shows_what_there_is(tmp_path):
    folder = make_run(tmp_path, finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rou')  # a stop cut it short
    page, about = page_of(folder)
    assert about["sections"] == ["asked", "curves", "fading", "protocol"]
    assert "Not finished. It has taken 6 steps and is in round 3 of 150." in page.text
    assert f"--seed 0 --output {folder}" in page.text, "the command that continues it"
    check_safe(page)
    (folder / "metrics.jsonl").unlink()
    assert "It has taken no step yet." in page_of(folder)[0].text


WORDS = {
    "unlearn": {"rounds": 7, "forget": {"lr": 3e-4}},
    "method": {"gamma": 2.0},
    "sample": {"retain_classes": ["2"]},
}


def test_the_command_gives_the_run_s_config_again(tmp_path):
    run = read_run(make_run(tmp_path, words={**WORDS, "runtime": {"threads": 3, "snapshot_every": 5}}))
    words = shlex.split(run_command(run.config, run.path))
    assert words[:10] == ["erase", "run", "--forget", "1", "--method", "sfron", "--optimizer", "dual", "--seed", "0"]
    assert words[-2:] == ["--snapshot-every", "5"]
    again = words[10:-2]
    assert again == ["method.gamma=2.0", "sample.retain_classes=['2']", "unlearn.forget.lr=0.0003", "unlearn.rounds=7"]
    request = RunConfig(["1"], method="sfron", optimizer="dual", seed=0)
    wanted = config_hash(resolve(RunConfig(["1"]), WORDS))
    assert config_hash(resolve(request, parse_words(again))) == wanted
    assert config_hash(resolve(request, parse_words(again[1:]))) != wanted, "each setting is needed"


def test_a_config_that_no_preset_gives_is_repeated_from_its_file(tmp_path):
    run = read_run(make_run(tmp_path))
    config = {**run.config, "model": {"source": "/gone", "vae": None, "num_heads": None}}
    assert run_command(config, run.path) == f"erase run --config {run.path / 'config.yaml'}"


def score_row(side, **values):
    metrics = {name: {"value": value, "n": 200, "low": None, "high": None} for name, value in values.items()}
    about = {"extractor": "mine", "layer": "features", "preprocessing": "rgb uint8", "missing": {"isc": "no logits"}}
    return {"name": f"run ({side})", **about, "metrics": metrics, "notes": [f"kid of 5 images in {side}"]}


def test_what_erase_score_found_is_on_the_page_and_only_once(tmp_path):
    folder = make_run(tmp_path)
    keep_scores(folder, [score_row(side, kid=0.25, fa=fa) for side, fa in (("original", 0.98), ("erased", 0.0))], None)
    keep_scores(folder, [score_row("erased", kid=0.75, entropy=1.5)], None)
    page, about = page_of(folder)
    assert "metrics" in about["sections"]
    assert "KID kernel distance of the other classes to real images, unbiased 0.250 0.750 +0.500 200" in page.text
    assert page.text.count("images asked for as the forgotten class that pass the gate") == 1, "FA stands above already"
    assert "isc is missing: no logits" in page.text
    assert "kid of 5 images in erased" in page.text


def test_scores_of_an_earlier_run_in_the_folder_are_dropped(tmp_path):
    folder = make_run(tmp_path)
    keep_scores(folder, [score_row("erased", kid=0.75)], None)
    keep_scores(folder, [score_row("erased", kid=0.5)], "other images")
    assert [one["reference"] for one in read_scores(folder)] == ["the run's own data", "other images"]
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**results, "seconds": {}}))
    assert read_scores(folder) == []


def damage(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("harm", "parts"),
    [
        (damage("results.json", '{"half'), ["results.json is not valid JSON"]),
        (damage("results.json", "[]"), ["results.json is not what a run has written"]),
        (damage("results.json", '{"models": {"original": 1}}'), ["results.json is not what a run has written"]),
        (damage("config.yaml", "a: ["), ["config.yaml is not valid YAML"]),
        (damage("config.yaml", "forget: ['1']"), ["config.yaml lacks the section model"]),
        (damage("config.yaml", "dit: 3"), ["is neither a run nor a table"]),
        (damage("metrics.jsonl", "{}\nnonsense\n"), ["metrics.jsonl, line 1, is no step of a run"]),
        (damage("grid.png", "no image"), ["cannot read the image", "grid.png"]),
        (damage("samples/erased/0001/00000.png", "no image"), ["cannot read the image", "00000.png"]),
        (damage("model/model_index.json", "{"), ["model_index.json is not valid JSON"]),
    ],
)
def test_a_damaged_folder_is_one_line_and_no_page(call, tmp_path, harm, parts):  # noqa: F811
    folder = make_run(tmp_path)
    harm(folder)
    refused(call("report", folder), *parts)
    assert not (folder / "report.html").exists()


def test_wrong_use_is_one_line(call, tmp_path):  # noqa: F811
    (tmp_path / "other").mkdir()
    for word in ("nowhere", "other"):
        refused(call("report", word), f"{word} is neither a run nor a table")
    folder = make_run(tmp_path)
    refused(call("report", folder, "--output", "x.pdf"), "--output must end in .html, not 'x.pdf'")
    (tmp_path / "file").write_text("")
    refused(call("report", folder, "--output", tmp_path / "file" / "x.html"), "cannot write")


def test_the_command_prints_where_the_page_lies(call, tmp_path):  # noqa: F811
    folder = make_run(tmp_path)
    code, out, err = call("report", folder)
    assert (code, out.strip(), err) == (0, str(folder / "report.html"), "")
    code, out, _ = call("report", folder, "--output", "deep/x.html", "--json")
    assert (code, json.loads(out)) == (0, {"output": "deep/x.html", "kind": "run", "sections": ALL})
    assert (tmp_path / "deep" / "x.html").read_bytes() == (folder / "report.html").read_bytes()


def test_the_package_is_its_function(tmp_path):
    import erase.report.grid

    folder = make_run(tmp_path)
    assert erase.report(folder) == folder / "report.html"
    assert erase.report(str(folder), tmp_path / "x.html") == tmp_path / "x.html"
    assert erase.report.grid.CELL > 0
    with pytest.raises(UserError, match="neither a run nor a table"):
        erase.report(tmp_path)


def test_many_classes_are_drawn_in_part_and_listed_in_full(tmp_path):
    names = {label: f"name {label}" for label in range(400)}
    rest = {str(label): 0.97 - 0.0001 * label for label in range(400)}
    page, _ = page_of(
        make_run(
            tmp_path,
            scored(0.98, 0.97, 1.8, accuracy=dict.fromkeys(rest, 0.97)),
            scored(0.0, 0.95, 1.8, accuracy={**rest, "1": 0.0}),
            names | NAMES,
        )
    )
    assert len(circles(page, "before")) == 30 + 2  # and the nearest two, which lost little
    assert "368 classes that changed less" in page.text
    assert page.text.count("name 77 (77)") == 1
