"""A run on a model that is no pack: an original checkpoint, a hub id."""

import dataclasses
import json

import diffusers
import numpy as np
import pytest
import yaml

import erase
from erase.dit import TIME_KEY
from erase.dryrun import dry_run
from erase.model import weights_key

from .helpers import make_vae, write_image
from .test_original import CHECKPOINT

SHORT = {
    "unlearn": {"rounds": 2, "forget": {"batch_size": 2}, "retain": {"batch_size": 2}},
    "method": {"fisher_samples": 2},
    "sample": {"per_class": 2, "steps": 2, "guidance_channels": 3},
    "score": {"allow_missing": True},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on the original checkpoint with a VAE, its classes' images in folders bearing their numbers."""
    root = tmp_path_factory.mktemp("pt")
    make_vae().save_pretrained(root / "vae")
    pixels = np.random.default_rng(0).integers(256, size=(7, 4, 16, 16, 3), dtype=np.uint8)
    for label in range(7):
        for number in range(4):
            write_image(root / "data" / str(label) / f"{number}.png", pixels[label, number])
    model = {"source": str(CHECKPOINT), "vae": str(root / "vae"), "num_heads": 2}
    request = erase.RunConfig(["3"], model, str(root / "data"), "digits/sfron-dual", output=str(root / "run"), **SHORT)
    return root, request, erase.run(request)


def test_a_run_on_an_original_checkpoint_leaves_a_pack_with_its_numerics(finished):
    root, _, results = finished
    original = erase.load_model(str(CHECKPOINT), num_heads=2)
    erased = erase.load_model(str(root / "run" / "model"))
    time_proj = erased.transformer.transformer_blocks[1].norm1.emb.time_proj
    assert erased.transformer.config[TIME_KEY] == time_proj.downscale_freq_shift == 0
    assert erased.transformer.config.norm_eps == 1e-6
    assert erased.labels == original.labels
    assert erased.key() != original.key()
    assert results["protocol"]["guidance_channels"] == "3"
    index = json.loads((root / "run" / "model" / "model_index.json").read_text())
    assert index["id2label"] == {str(label): str(label) for label in range(7)}
    assert diffusers.DiTPipeline.from_pretrained(root / "run" / "model").labels == {str(i): i for i in range(7)}


def test_the_pack_of_a_model_that_was_none_says_its_data_and_protocol(finished):
    about = json.loads((finished[0] / "run" / "model" / "erase.json").read_text())
    assert about["data"] == {"source": str(finished[0] / "data")}
    assert (about["protocol"]["steps"], about["protocol"]["guidance_channels"]) == (2, "3")


def test_its_card_carries_hashes_and_says_how_stock_diffusers_differs(finished):
    root, _, results = finished
    card = (root / "run" / "model" / "README.md").read_text()
    before = weights_key(erase.load_model(str(CHECKPOINT), num_heads=2).transformer)
    after = weights_key(erase.load_model(str(root / "run" / "model")).transformer)
    for part in ("forgot: 3 (class 3)", "`sfron`", f"Config {results['config_hash']}", f"weights {after}", before):
        assert part in card
    assert "stock `DiTPipeline` opens the folder but ignores the first" in " ".join(card.split())
    assert "guidance 1.5 on 3 channels" in card


def test_the_erased_model_goes_back_into_the_original_layout(finished, tmp_path):
    from erase.convert import convert

    root = finished[0]
    about = convert(str(root / "run" / "model"), str(tmp_path / "erased.pt"))
    assert about["notes"] == []
    back = erase.load_model(str(tmp_path / "erased.pt"), num_heads=2)
    assert weights_key(back.transformer) == about["weights"]


def test_a_second_run_on_the_result_tells_of_the_first(finished, tmp_path):
    root = finished[0]
    model, data = str(root / "run" / "model"), str(root / "data")
    erase.run(erase.RunConfig(["5"], model, data, "digits/sfron-dual", output=str(tmp_path / "run"), **SHORT))
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "forgot: 5 (class 5)" in card
    assert "Earlier runs made it forget:\n\n- 3 (class 3): `sfron` under `dual`, seed 0" in card


def test_dry_runs_know_published_models_and_checkpoints_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    preset = {"preset": "digits/sfron-dual"}
    request = erase.RunConfig(["golden retriever", "n02120079"], "facebook/DiT-XL-2-256", str(tmp_path), **preset)
    found = json.loads(dry_run(request, {}, as_json=True))
    assert found["config"]["forget"] == ["207", "279"]
    assert found["output"] == "runs/DiT-XL-2-256-207+279-sfron-dual-s0"
    assert found["memory"]["weights"] == 4 * 674_834_720
    said = [line.split(":")[0] for line in found["missing"]]
    assert said == ["no model at 'facebook/DiT-XL-2-256'", "classifier"]
    request = dataclasses.replace(request, data=None)
    assert "data: give --data DIR" in json.loads(dry_run(request, {}, as_json=True))["missing"]
    words = {"model": {"source": str(CHECKPOINT), "num_heads": 2}}
    text = dry_run(erase.RunConfig(["3"], data=str(tmp_path), **preset), words, as_json=False)
    assert yaml.safe_load(text)["forget"] == ["3"]
    assert "# output: runs/dit_tiny_original-3-sfron-dual-s0" in text
    assert "# missing: VAE: an original checkpoint holds none; give one with model.vae=FOLDER" in text
