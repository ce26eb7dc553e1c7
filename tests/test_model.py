"""Tying, saving, loading."""

import json

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import erase
from erase.errors import NoModelError, UserError
from erase.model import find_source, tie_embedders, untied_copy, weights_key

from .helpers import fresh_transformer, make_batch, make_model, make_transformer, perturb, same, weights_of

EMBEDDER = (
    13 * 32 + 256 * 32 + 32 + 32 * 32 + 32
)  # label rows (null included), and the two layers of the time embedding


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def output(transformer, batch=None):
    batch = batch or make_batch(5)
    with torch.no_grad():
        return transformer(batch.x0, timestep=batch.t, class_labels=batch.labels, return_dict=False)[0]


def test_a_fresh_model_predicts_exactly_nothing():
    fresh = fresh_transformer()
    assert torch.count_nonzero(output(fresh)) == 0
    assert torch.count_nonzero(output(perturb(fresh))) > 0


def test_a_fresh_model_has_the_initialisation_of_the_paper():
    fresh = fresh_transformer(label_slots=500, layers=3)
    table = fresh.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight
    assert table.shape == (501, 32)
    assert table.std().item() == pytest.approx(0.02, rel=0.05)
    for block in fresh.transformer_blocks:
        assert torch.count_nonzero(block.norm1.linear.weight) == 0
        assert torch.count_nonzero(block.attn1.to_q.bias) == 0
        assert block.attn1.to_q.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_a_fresh_model_depends_on_its_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, third = fresh_transformer(seed=1), fresh_transformer(seed=1), fresh_transformer(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert same(weights_of(first), weights_of(second))
    assert not same(weights_of(first), weights_of(third))


def test_tying_saves_an_embedder_a_block_and_changes_no_output():
    apart = untied_copy(make_transformer(layers=3))
    before, free = output(apart), count(apart)
    tie_embedders(apart)
    assert free - count(apart) == 2 * EMBEDDER
    assert torch.equal(output(apart), before)


def test_the_model_draws_no_label_drops_of_its_own(tiny):
    batch = make_batch(64)
    assert torch.equal(output(tiny.train(), batch), output(tiny.eval(), batch))
    stock = untied_copy(tiny)
    for block in stock.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.1  # as diffusers makes it
    assert not torch.equal(output(stock.train(), batch), output(tiny, batch))


def test_an_untied_copy_is_free_of_its_source(tiny):
    before = output(tiny)
    apart = untied_copy(tiny)
    assert torch.equal(output(apart), before)
    perturb(apart)
    assert torch.equal(output(tiny), before)


def test_embedders_that_have_drifted_are_refused(tiny):
    apart = untied_copy(tiny)
    with torch.no_grad():
        apart.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight[3, 0] += 1e-6
    with pytest.raises(UserError, match="drifted apart"):
        tie_embedders(apart)


def test_diffusers_opens_an_untied_copy_and_gives_bit_equal_outputs(tiny, tmp_path):
    untied_copy(tiny).save_pretrained(tmp_path)
    loaded = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(output(loaded), output(tiny))
    assert count(loaded) == count(tiny) + EMBEDDER


def test_a_saved_model_comes_back_bit_equal(tmp_path):
    model = make_model(classes=(0, 3, 5), pack={"version": 1, "classes": [0, 3, 5], "family": "digits"})
    model.vae.register_to_config(scaling_factor=0.75)
    erase.save_model(model, tmp_path / "pack")
    loaded = erase.load_model(str(tmp_path / "pack"))
    assert same(weights_of(loaded.transformer), weights_of(model.transformer))
    assert same(weights_of(loaded.vae), weights_of(model.vae))
    assert torch.equal(output(loaded.transformer), output(model.transformer))
    assert loaded.labels == model.labels == {0: "name 0", 3: "name 3", 5: "name 5"}
    assert loaded.pack == model.pack
    assert loaded.vae.config.scaling_factor == 0.75
    assert loaded.key() == model.key()
    assert not loaded.transformer.training
    assert not loaded.vae.training


def test_saving_twice_gives_the_same_files(tmp_path):
    erase.save_model(make_model(), tmp_path / "a")
    erase.save_model(erase.load_model(str(tmp_path / "a")), tmp_path / "b")
    weights = [(tmp_path / name / "transformer/diffusion_pytorch_model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_saving_replaces_the_whole_folder(tmp_path):
    model = make_model()
    erase.save_model(model, tmp_path / "pack")
    (tmp_path / "pack" / "stale.txt").write_text("from an earlier save")
    erase.save_model(model, tmp_path / "pack")
    assert not (tmp_path / "pack" / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_a_model_without_a_number_of_output_channels_opens_and_draws_in_diffusers(tmp_path):
    erase.save_model(make_model(label_slots=1000), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "transformer" / "config.json").read_text())
    weights = load_file(tmp_path / "a" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name in ("proj_out_2.weight", "proj_out_2.bias"):  # as many channels out as in
        weights[name] = weights[name].unflatten(0, (-1, 8))[:, :4].flatten(0, 1).contiguous()
    save_file(weights, tmp_path / "a" / "transformer" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "a" / "transformer" / "config.json").write_text(json.dumps({**config, "out_channels": None}))
    model = erase.load_model(str(tmp_path / "a"))
    erase.save_model(model, tmp_path / "b")
    pipe = diffusers.DiTPipeline.from_pretrained(tmp_path / "b")
    pipe.set_progress_bar_config(disable=True)
    (theirs,) = pipe([3], num_inference_steps=2, guidance_scale=1.5, generator=torch.Generator().manual_seed(0)).images
    ours = erase.sample(model, [3], [0], guidance_scale=1.5, steps=2)[0]
    assert np.abs(ours.astype(int) - np.asarray(theirs).astype(int)).max() <= 2


def test_a_model_saved_over_the_folder_it_came_from_keeps_its_classifier(tmp_path):
    erase.save_model(make_model(), tmp_path / "pack")
    (tmp_path / "pack" / "classifier").mkdir()
    (tmp_path / "pack" / "classifier" / "config.json").write_text("{}")
    loaded = erase.load_model(str(tmp_path / "pack"))
    erase.save_model(loaded, tmp_path / "pack")
    assert (tmp_path / "pack" / "classifier" / "config.json").read_text() == "{}"


def test_labels_classes_and_shapes():
    model = make_model(label_slots=12, classes=(7, 2))
    assert model.classes == [2, 7]
    assert model.num_classes == model.null_label == 12
    assert model.latent_shape == (4, 8, 8)
    assert model.image_size == 16


def test_a_plain_diffusers_folder_uses_all_its_label_slots(tmp_path):
    model = make_model(label_slots=5, classes=(0, 1))
    erase.save_model(model, tmp_path)
    loaded = erase.load_model(str(tmp_path))
    assert loaded.pack is None
    assert loaded.labels == {0: "name 0", 1: "name 1", 2: "2", 3: "3", 4: "4"}


def test_the_key_changes_with_one_weight_and_with_the_vae():
    model, other, third = make_model(), make_model(), make_model()
    assert model.key() == other.key()
    with torch.no_grad():
        other.transformer.proj_out_2.bias[0] += 1e-6
        next(third.vae.parameters())[0] += 1e-6
    assert len({model.key(), other.key(), third.key()}) == 3
    assert weights_key(model.transformer) == weights_key(third.transformer)


def test_without_a_vae_a_model_says_what_to_do(tmp_path):
    model = make_model()
    model.vae = None
    erase.save_model(model, tmp_path / "pack")
    loaded = erase.load_model(str(tmp_path / "pack"))
    assert loaded.vae is None
    with pytest.raises(UserError, match=r"model\.vae=FOLDER"):
        erase.sample(loaded, [0], steps=1)
    other = make_model()
    erase.save_model(other, tmp_path / "other")
    loaded = erase.load_model(str(tmp_path / "pack"), vae=str(tmp_path / "other" / "vae"))
    assert same(weights_of(loaded.vae), weights_of(other.vae))


@pytest.fixture
def saved(tmp_path):
    erase.save_model(make_model(), tmp_path / "pack")
    return tmp_path / "pack"


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def test_missing_sources_are_named(tmp_path):
    with pytest.raises(NoModelError, match=r"no model at 'not/there/at/all'; give .* shipped pack \(digits\)"):
        find_source("not/there/at/all")
    with pytest.raises(UserError, match=r"holds no model_index\.json"):
        find_source(str(tmp_path))


@pytest.mark.parametrize("damage", ["cut", "empty", "absent", "no config", "config is no JSON"])
def test_damaged_weights_are_refused(saved, damage):
    path = saved / WEIGHTS
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "absent":
        path.unlink()
    elif damage == "no config":
        (saved / "transformer" / "config.json").unlink()
    else:
        (saved / "transformer" / "config.json").write_text("{")
    with pytest.raises(UserError, match="transformer") as raised:
        erase.load_model(str(saved))
    assert "\n" not in str(raised.value)


def test_drifted_embedders_are_refused_on_loading(saved):
    tensors = load_file(saved / WEIGHTS)
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    save_file({**tensors, name: tensors[name] + 1}, saved / WEIGHTS)
    with pytest.raises(UserError, match="drifted apart"):
        erase.load_model(str(saved))


def test_weights_that_lack_a_tensor_are_refused(saved):
    """diffusers only warns, and leaves the layer as it was initialised."""
    tensors = load_file(saved / WEIGHTS)
    del tensors["transformer_blocks.1.attn1.to_q.weight"]
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(UserError):
        erase.load_model(str(saved))


def test_model_index_that_is_no_json_is_named(saved):
    (saved / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"model_index\.json is not valid JSON"):
        erase.load_model(str(saved))


def test_a_pack_names_the_scheduler_it_was_made_for(saved):
    index = json.loads((saved / "model_index.json").read_text())
    scheduler = json.loads((saved / "scheduler" / "scheduler_config.json").read_text())
    assert index["scheduler"] == ["diffusers", scheduler["_class_name"]]
    assert scheduler["timestep_spacing"] == "linspace"
    assert scheduler["algorithm_type"] == "dpmsolver++"
