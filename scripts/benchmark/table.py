"""All sections as one Markdown page."""

from __future__ import annotations

from typing import Any

HIDDEN = ("ratios", "cpu_ratios", "better", "repeats")
BUSY = 1.5  # the load of others before a measurement


def markdown(contents: list[dict[str, Any]]) -> str:
    """A table a section, with what it was measured on."""
    lines = ["# Benchmarks", "", "Each ratio is between two sides measured in turns in one run: medians over repeats."]
    for content in contents:
        lines += ["", f"## {content['section']}", "", _about(content), ""]
        lines += [f"- {name}: {text}" for name, text in content["notes"].items()]
        rows = [_flat(row) for row in content["rows"]]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        heads = [_named(name) for name in columns]
        lines += ["", f"| {' | '.join(heads)} |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(_shown(name, row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def short(contents: list[dict[str, Any]]) -> str:
    """What README shows of them."""
    rows = {content["section"]: content["rows"] for content in contents}
    step = next(row for row in rows["step"] if (row["method"], row["policy"]) == ("sfron", "dual"))
    plain = [row for row in rows["sample"] if not row.get("files")]
    batches = ", ".join(str(row["batch"]) for row in plain)
    drawn, compiled = (", ".join(f"{row['ratio']:.2f}" for row in some) for some in (plain, rows["compile"]))
    fid, warm = rows["fid"][0], max(row["warm_up_seconds"] for row in rows["compile"])
    lines = [
        "| what | compared with | times as fast |",
        "| --- | --- | --- |",
        f"| a round of `sfron` under `dual` | its passes and optimizer steps alone | {1 / step['ratio']:.2f} |",
        "| the same, 100 steps and all before them | what published scripts do, re-created | "
        f"{rows['published'][-1]['ratio']:.1f} |",
        f"| Fisher diagonal by sample | a loop over batches of one | {rows['fisher'][0]['ratio']:.1f} |",
        f"| drawing {batches} images | stock `DiTPipeline` | {drawn} |",
        f"| the same with `runtime.compile=true`, after {warm:.0f} s | `DiTPipeline`, not compiled | {compiled} |",
        f"| `erase fid` of {fid['folders']} folders | torch-fidelity, best setting; default | "
        f"{fid['ratio']:.1f}; {fid['as it comes']:.1f} |",
    ]
    return "\n".join(lines)


def _named(name: str) -> str:
    unit = "" if name.startswith("growth") else " MiB"  # a growth is a ratio
    return name.replace("_bytes", unit).replace("_", " ")


def _about(content: dict[str, Any]) -> str:
    hardware, versions = content["hardware"], content["versions"]
    on = f"{content['size']}; {hardware['name']}, {hardware['cores']} cores, {content['threads']} thread"
    load = f"load {content['load'][0]} to {content['load'][1]}"
    busy = (
        " (the machine was busy with other work: CPU seconds are the surer ones)" if content["load"][0] > BUSY else ""
    )
    return f"{on}, torch {versions['torch']}; {load}{busy}."


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name in HIDDEN:
            continue
        if name == "aim" and value is not None:
            value = f"{'at most' if row['better'] == 'lower' else 'at least'} {value}"
        if isinstance(value, dict):
            flat |= {f"{name} {key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_bytes") and not name.startswith("growth"):
        return f"{value / 2**20:.0f}"
    if isinstance(value, list):
        return ", ".join(_shown(name, item) for item in value)
    if isinstance(value, float):
        return f"{value:.3f}" if 0.1 < abs(value) < 1e3 else f"{value:.3g}"
    return str(value)
