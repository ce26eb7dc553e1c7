"""The record as the table of docs/reliability.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from erase.files import write_text

KINDS = {
    "long": "killed (SIGKILL), digits preset", "short": "killed (SIGKILL), short", "signals": "SIGTERM or SIGINT",
    "writes": "killed before or after a file replacement", "two": "two processes on one folder",
    "watch": "every file read while it runs",
}  # fmt: skip
HEAD = ("what", "trials", "end bit-identical", "as told", "unreadable files", "stopped in", "code")
EARLIER = "earlier"  # trials whose record does not say of which code


def table_of(record: dict[str, Any]) -> str:
    """Trials, ends that are bit-identical, unreadable files, where they were stopped and the code's commit, by kind."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for kind, title in KINDS.items():
        rows = _rows(record, kind)
        sums = [sum(bool(row[name]) for row in rows) for name in ("identical", "as told")]
        bad = sum(len(row.get("unreadable", [])) for row in rows)
        places = _counted(place for row in rows for place in row.get("killed in", []))
        codes = _counted(row.get("of", EARLIER) for row in rows)
        lines.append(f"| {title} | {len(rows)} | {sums[0]} | {sums[1]} | {bad} | {places} | {codes} |")
    killed = [*_rows(record, "long"), *_rows(record, "short")]
    same = sum(row["identical"] for row in killed)
    text = f"Of {len(killed)} runs killed at random moments, {same} end bit-identical to the undisturbed one."
    return "\n".join([*lines, "", text]) + "\n"


def _rows(record: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for key, row in record["trials"].items() if key.startswith(f"{kind}/")]


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def with_table(text: str, record: dict[str, Any]) -> str:
    """``text`` with the table between its marks."""
    marked = re.compile(r"(<!-- trials -->\n).*?(<!-- /trials -->)", re.DOTALL)
    assert len(marked.findall(text)) == 1, "the document has no pair of marks"
    return marked.sub(lambda found: f"{found[1]}{table_of(record)}{found[2]}", text)


def rewrite(document: Path, record: dict[str, Any]) -> None:
    write_text(document, with_table(document.read_text(encoding="utf-8"), record))
