"""The model card of an erased model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .table import result_table


def model_card(results: Mapping[str, Any], weights: str) -> str:
    """README.md of a saved model: what was forgotten, how, the scores, and hashes."""
    classes = ", ".join(f"{c['name']} (class {c['index']})" for c in results["forget"])
    protocol = results["protocol"]
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
classes, {protocol["sampler"]}, {protocol["steps"]} steps, guidance {protocol["guidance_scale"]}.
Config {results["config_hash"]}, weights {weights}.

The scores say what the model draws when asked for the class. They do not say that the class cannot be brought back by
fine-tuning or from other inputs.
"""
