"""docs/reliability.md shows what its record holds, and the record what is promised."""

import copy
import json
from pathlib import Path

import pytest

from scripts.reliability.table import KINDS, table_of, with_table

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def record():
    return json.loads((DOCS / "results" / "reliability.json").read_text())


def test_the_document_holds_the_record_s_table(record):
    text = (DOCS / "reliability.md").read_text()
    assert with_table(text, record) == text, "python -m scripts.reliability --table"
    other = copy.deepcopy(record)
    other["trials"].popitem()
    assert with_table(text, other) != text


def test_fifty_killed_runs_end_bit_identical_and_every_kind_was_tried(record):
    rows = {kind: [row for key, row in record["trials"].items() if key.startswith(f"{kind}/")] for kind in KINDS}
    assert (len(rows["long"]), len(rows["short"])) == (10, 40)
    assert sum(row["identical"] for row in rows["long"] + rows["short"]) == 50
    assert "Of 50 runs killed at random moments, 50 end bit-identical" in table_of(record)
    assert all(rows.values())


def test_each_replacement_was_tried_before_and_after(record):
    places = [key.rsplit("/", 1) for key in record["trials"] if key.startswith("writes/")]
    before, after = ({place for place, moment in places if moment == each} for each in ("before", "after"))
    assert before == after
    commands = {place.split("/")[1] for place in before}
    assert commands >= {"sfron-dual", "pretrain", "sample", "fid", "score", "report", "grid", "force", "table"}


def test_a_failure_would_be_seen(record):
    other = copy.deepcopy(record)
    key = next(key for key in other["trials"] if key.startswith("short/"))
    other["trials"][key] |= {"identical": False, "unreadable": ["a", "b"]}
    assert "Of 50 runs killed at random moments, 49 end" in table_of(other)
    (line,) = (line for line in table_of(other).splitlines() if line.startswith(f"| {KINDS['short']} |"))
    assert line.split(" | ")[1:5] == ["40", "39", "40", "2"]
