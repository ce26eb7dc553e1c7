"""How batches are cut into the parts that share a backward pass."""

import itertools

import pytest

from erase import gradient, processes


def rows_of(parts, side):
    return [row for part in parts if side in part.rows for row in range(part.rows[side].start, part.rows[side].stop)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_parts_hold_every_row_once_and_no_more_than_there_is_room_for(size):
    for first, second in itertools.product(range(1, 10), repeat=2):
        batches = {"forget": range(first), "retain": range(second)}
        parts = gradient._parts(batches, size)
        assert rows_of(parts, "forget") == list(range(first))
        assert rows_of(parts, "retain") == list(range(second))
        assert max(map(len, parts)) <= size
        assert min(map(len, parts)) > 0


@pytest.mark.parametrize(("first", "second"), [(8, 8), (7, 5), (9, 2)])
def test_two_parts_are_the_shares_of_two_processes(monkeypatch, first, second):
    batches = {"forget": range(first), "retain": range(second)}
    parts = gradient._parts(batches, first + second, least=2)
    for rank in (0, 1):
        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        assert gradient._parts(batches, first + second) == [parts[rank]]


def test_a_process_without_rows_takes_one_that_counts_nothing(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    (part,) = gradient._parts({"forget": range(1), "retain": range(1)}, 4)
    assert part.idle
    assert len(part) == 0
