"""The hub's cache, the older folder layout, and what is said when files are missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

import erase
from erase.errors import NoModelError, UserError
from erase.presets import family_of, output_folder, resolve
from erase.sources import find_source, missing_weights, read_labels, slot_labels, wanted_files

from .helpers import make_model, same, weights_of
from .test_original import CHECKPOINT, Bomb

HUB_ID = "facebook/DiT-XL-2-256"
BIN, SAFE = "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"


def old_layout(root, names=True):
    """Rewrites a saved pipeline as the hub holds the published one: another class name, extra keys, .bin weights."""
    for part in ("transformer", "vae"):
        torch.save(load_file(root / part / SAFE), root / part / BIN)
        (root / part / SAFE).unlink()
    path = root / "transformer" / "config.json"
    config = json.loads(path.read_text())
    config |= {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "num_vector_embeds": None}
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "norm_eps"}))
    index = json.loads((root / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "Transformer2DModel"]
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    if not names:
        del index["id2label"]
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def hub_cache(cache, make, repo=HUB_ID, commit="c" * 40):
    """A cache as the hub's library lays it out: blobs, links to them in a snapshot, and the name of the newest."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    make(snapshot)
    (root / "blobs").mkdir()
    for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        blob = root / "blobs" / f"{number:040x}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def pipeline(root, slots=1000):
    model = make_model(label_slots=slots, classes=range(slots))
    erase.save_model(model, root)
    return model


def test_a_hub_id_is_read_from_its_cache_offline(cache, tmp_path):
    snapshot = hub_cache(cache, lambda root: old_layout((pipeline(root), root)[1]))
    loaded = erase.load_model(HUB_ID)
    assert same(weights_of(loaded.transformer), weights_of(make_model(label_slots=1000).transformer))
    assert same(weights_of(loaded.vae), weights_of(make_model(label_slots=1000).vae))
    assert loaded.labels == {label: f"name {label}" for label in range(1000)}
    assert loaded.transformer.config.norm_eps == 1e-5  # what diffusers computes with such a config
    assert find_source(HUB_ID) == snapshot
    erase.save_model(loaded, tmp_path / "pack")
    assert erase.load_model(str(tmp_path / "pack")).labels == loaded.labels


def test_the_command_reads_the_hub_s_cache_offline_too(tmp_path):
    """In a process of its own, where only the environment says where the cache is."""
    hub_cache(tmp_path / "hub", lambda root: old_layout((pipeline(root), root)[1]))
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    words = ["convert", HUB_ID, str(tmp_path / "copy"), "--json"]
    command = [sys.executable, "-m", "erase", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["time_features"] == "diffusers"
    assert (tmp_path / "copy" / "transformer" / SAFE).is_file()


def test_offline_without_the_files_one_line_says_which_and_where_from(cache):
    with pytest.raises(NoModelError) as raised:
        erase.load_model(HUB_ID)
    text = str(raised.value)
    assert "\n" not in text
    for part in (
        f"no model at {HUB_ID!r}",
        f"the hub's cache at {cache} lacks it (HF_HUB_OFFLINE is set)",
        "fetch model_index.json, transformer/config.json, transformer/diffusion_pytorch_model.safetensors, vae/config",
        "as .safetensors or .bin",
        f"from https://huggingface.co/{HUB_ID} into a folder with the same sub-folders and give that folder",
    ):
        assert part in text


def test_a_cache_that_lacks_one_file_names_it_alone(cache):
    snapshot = hub_cache(cache, pipeline)
    (snapshot / "vae" / SAFE).unlink()
    with pytest.raises(NoModelError, match=rf"; fetch vae/{SAFE} \("):
        find_source(HUB_ID)


def test_without_a_network_it_says_why(cache, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(NoModelError, match=r"\(ConnectionError: no route to host\)"):
        find_source(HUB_ID)
    with pytest.raises(NoModelError, match="the hub was not asked"):
        find_source(HUB_ID, download=False)


def test_with_a_network_only_what_is_needed_is_fetched(cache, monkeypatch, tmp_path):
    names = ["README.md", "model_index.json", "scheduler/scheduler_config.json"]
    names += [f"{part}/{name}" for part in ("transformer", "vae") for name in ("config.json", BIN)]
    asked = []

    class Info:
        siblings = [type("File", (), {"rfilename": name}) for name in names]  # noqa: RUF012

    def fetch(repo, allow_patterns):
        asked.append((repo, allow_patterns))
        return str(tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_: Info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_source(HUB_ID) == tmp_path / "fetched"
    assert asked == [(HUB_ID, sorted(names[1:]))]


def test_one_set_of_weights_is_chosen_and_safetensors_first():
    names = ["model_index.json", "vae/config.json", f"vae/{BIN}", "vae/diffusion_pytorch_model.fp16.bin", "vae2/x.bin"]
    assert wanted_files(names, "model_index.json", ["vae"]) == sorted(names[:3])
    assert f"vae/{BIN}" not in wanted_files([*names, f"vae/{SAFE}"], "model_index.json", ["vae"])
    stem = "vae/diffusion_pytorch_model"
    shards = [
        f"{stem}-00001-of-00002.safetensors",
        f"{stem}-00002-of-00002.safetensors",
        f"{stem}.safetensors.index.json",
    ]
    assert set(shards) < set(wanted_files([*names, *shards], "model_index.json", ["vae"]))
    assert wanted_files(["config.json", BIN, "y/config.json"], "config.json", [""]) == ["config.json", BIN]


def test_a_vae_of_a_hub_id_is_found_in_the_cache(cache):
    hub_cache(cache, lambda root: make_model().vae.save_pretrained(root), "stabilityai/sd-vae-ft-ema")
    loaded = erase.load_model(str(CHECKPOINT), vae="stabilityai/sd-vae-ft-ema", num_heads=2)
    assert same(weights_of(loaded.vae), weights_of(make_model().vae))
    with pytest.raises(UserError, match=r"fetch config\.json, diffusion_pytorch_model\.safetensors \("):
        erase.load_model(str(CHECKPOINT), vae="stabilityai/other", num_heads=2)
    with pytest.raises(UserError, match="no AutoencoderKL at not-there"):
        erase.load_model(str(CHECKPOINT), vae="not-there", num_heads=2)


def test_an_old_folder_whose_bin_would_run_code_is_refused_and_does_not(tmp_path):
    pipeline(tmp_path / "pipe", 12)
    old_layout(tmp_path / "pipe")
    path = tmp_path / "pipe" / "transformer" / BIN
    torch.save({**torch.load(path, weights_only=True), "x": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(UserError, match="unpickling it would run its code") as raised:
        erase.load_model(str(tmp_path / "pipe"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_an_old_folder_with_drifted_embedders_is_refused(tmp_path):
    pipeline(tmp_path, 12)
    old_layout(tmp_path)
    path = tmp_path / "transformer" / BIN
    tensors = torch.load(path, weights_only=True)
    tensors["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"][3] += 1e-6
    torch.save(tensors, path)
    with pytest.raises(UserError, match="drifted apart"):
        erase.load_model(str(tmp_path))


def test_the_published_autoencoder_s_old_attention_names_are_read(tmp_path):
    import diffusers

    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, latent_channels=4)
    model = make_model()
    model.vae = vae.eval()
    erase.save_model(model, tmp_path)
    old_layout(tmp_path)
    path = tmp_path / "vae" / BIN
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in torch.load(path, weights_only=True).items():
        for new, old in renamed.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        tensors[name] = value
    assert any(".query." in name for name in tensors)
    torch.save(tensors, path)
    assert same(weights_of(erase.load_model(str(tmp_path)).vae), weights_of(vae))


def test_a_thousand_slots_without_names_are_imagenet_s(tmp_path):
    pipeline(tmp_path / "a")
    old_layout(tmp_path / "a", names=False)
    labels = erase.load_model(str(tmp_path / "a")).labels
    assert labels[207] == "golden retriever"
    assert labels[0] == "tench, Tinca tinca"
    assert len(labels) == 1000
    assert slot_labels(999, {}) == {label: str(label) for label in range(999)}
    assert read_labels(Path(CHECKPOINT))[6] == "6"


def test_preset_families_of_every_source(tmp_path, cache):
    assert family_of("facebook/DiT-XL-2-256") == "imagenet256"
    assert family_of("facebook/DiT-XL-2-512") == "imagenet512"
    assert family_of(str(CHECKPOINT)) == "imagenet256"
    assert family_of("digits") == "digits"
    model = make_model()
    model.transformer.register_to_config(sample_size=64)
    erase.save_model(model, tmp_path / "large")
    assert family_of(str(tmp_path / "large")) == "imagenet512"
    with pytest.raises(NoModelError):
        family_of("someone/else")


@pytest.mark.parametrize(
    ("source", "name"),
    [(HUB_ID, "DiT-XL-2-256"), ("/x/DiT-XL-2-512x512.pt", "DiT-XL-2-512x512"), ("runs/a/model", "model")],
)
def test_run_folders_are_named_after_the_model(source, name):
    request = erase.RunConfig(forget=["3"], model=source, preset="digits/sfron-dual")
    assert str(output_folder(request, resolve(request), [3])) == f"runs/{name}-3-sfron-dual-s0"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("DiT-XL-2-256x256.pt", "fetch https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt to there"),
        ("mine.pt", r"no checkpoint at mine\.pt$"),
        ("no-such", r"give a folder, a hub id, a \.pt or a shipped pack \(digits\)$"),
    ],
)
def test_what_is_not_there_says_where_to_get_it(source, said, cache):
    with pytest.raises(NoModelError, match=said):
        find_source(source)


def test_another_file_is_no_model(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"photo\.png is no model"):
        find_source(str(tmp_path / "photo.png"))


def test_missing_weights_are_none_for_a_whole_folder(tmp_path):
    pipeline(tmp_path, 12)
    assert missing_weights(tmp_path / "transformer") == []
    assert missing_weights(tmp_path) == [tmp_path / "config.json", tmp_path / SAFE]


def test_num_heads_that_contradict_a_folder_are_refused(tmp_path):
    pipeline(tmp_path, 12)
    assert erase.load_model(str(tmp_path), num_heads=2).num_classes == 12
    with pytest.raises(UserError, match=r"num_heads=4, but .* records 2"):
        erase.load_model(str(tmp_path), num_heads=4)
