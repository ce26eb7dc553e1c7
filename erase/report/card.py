"""The model card of an erased model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..text import markdown
from .table import result_table


def model_card(
    results: Mapping[str, Any], weights: str, original: str, before: Sequence[Mapping[str, Any]] = (), note: str = ""
) -> str:
    """README.md of a saved model: what was forgotten, how, the scores, and hashes.

    ``weights``, ``original``: digests of the transformer's weights now and before the run. ``before``: what earlier
    runs made the model forget. ``note``: what else a reader must know, such as how its numerics differ.
    """
    classes = ", ".join(f"{markdown(c['name'])} (class {c['index']})" for c in results["forget"])
    protocol = results["protocol"]
    channels = protocol.get("guidance_channels", "all")
    guidance = f"guidance {protocol['guidance_scale']}" + ("" if channels == "all" else f" on {channels} channels")
    earlier = "".join(
        "- {name} (class {index}): `{method}` under `{optimizer}`, seed {seed}, config {config_hash}\n".format(
            **{key: _told(entry, key) for key in ("name", "index", "method", "optimizer", "seed", "config_hash")}
        )
        for entry in before
    )
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [dit, unlearning, erase]
---
# A class-conditional DiT that forgot: {classes}

Made by `erase {results["versions"]["erase"]}` with the method `{results["method"]}` under the optimizer policy
`{results["optimizer"]}`, seed {results["seed"]}.

```
{result_table(results)}
```

Protocol: {protocol["samples"]["forget"]} images of the forgotten and {protocol["samples"]["retain_total"]} of the other
classes, {protocol["sampler"]}, {protocol["steps"]} steps, {guidance}.
Config {results["config_hash"]}, weights {weights}, made from weights {original}.

{_part("Earlier runs made it forget:", earlier)}{_part("", note)}\
The scores say what the model draws when asked for the class. They do not say that the class cannot be brought back by
fine-tuning or from other inputs.
"""


def _told(entry: Mapping[str, Any], key: str) -> str:
    return markdown(entry.get(key, "?"))  # of an earlier pack, which a stranger may have written


def _part(title: str, text: str) -> str:
    return "".join(f"{part}\n\n" for part in (title, text.strip()) if part) if text else ""
