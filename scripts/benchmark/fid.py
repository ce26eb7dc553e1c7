"""Scoring beside torch-fidelity: what scripts/benchmark_fid.py measures, as it writes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "benchmark_fid.py"
DEFAULT = "torch-fidelity, its workers, batch 64"
NOTES = {
    "ratio": "seconds of torch-fidelity's best setting by those of one erase.fid; scripts/benchmark_fid.py says how",
    "as it comes": "the same of torch-fidelity as it is set by default, with its loader's workers",
    "bound": "CPU seconds of torch-fidelity by those of the extractor's forward pass alone, which both sides need",
}


def measure(path: Path) -> None:
    """Writes ``path``."""
    subprocess.run([sys.executable, str(SCRIPT), str(path)], check=True, stdout=subprocess.DEVNULL)


def content(found: dict[str, Any]) -> dict[str, Any]:
    """Of that file what the page shows, in the form of the other sections."""
    load = found.get("load", 0.0)
    row = {
        "folders": found["folders"], "images": found["images_a_folder"], "aim": 3.0, "better": "higher",
        "ratio": found["ratio"], "cpu_ratio": found.get("ratio_of_cpu_seconds"),
        "as it comes": min(found["seconds"][DEFAULT]) / min(found["seconds"]["erase"]),
        "bound": found["ratio_of_cpu_seconds_if_all_but_the_forward_pass_were_free"],
    }  # fmt: skip
    return {
        "section": "fid", "size": "the digits classifier", "hardware": {"name": "cpu", "cores": found["cpus"]},
        "versions": found["versions"], "threads": found["threads"], "load": [load, load],
        "notes": NOTES, "rows": [row],
    }  # fmt: skip
