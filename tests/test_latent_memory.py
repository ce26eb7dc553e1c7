"""scripts/latent_memory.py at a tiny size: the path that it measures is the package's own."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "latent_memory", Path(__file__).parents[1] / "scripts" / "latent_memory.py"
)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_every_row_is_drawn_from_a_cache_that_is_not_encoded_again(monkeypatch, tmp_path):
    monkeypatch.setenv("ERASE_CACHE", str(tmp_path))
    with pytest.raises(AssertionError, match="encoded twice"):
        script.train(130)
    vae = script.Stub()
    script.split(130, vae)
    assert vae.seen == 0
    found = script.train(130)
    assert (found["rows"], found["batches"]) == (260, 1 + 8)
    assert 0 < found["peak_anonymous_mib"] <= found["peak_resident_mib"]
    shards = list(tmp_path.rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in shards) > 130 * 4 * 4 * 4 * 32 * 32
