from __future__ import annotations

from cluster.store import journal
from tests.store.build import admitted


def test_groups_are_put_together_until_a_piece_is_large_enough() -> None:
    groups = [[admitted(1)], [admitted(2), admitted(3)], [admitted(4), admitted(5), admitted(6)], [admitted(7)]]
    entries = [(10 + number, journal.encode(group)) for number, group in enumerate(groups)]

    pieces = [([record.seq for record in piece], last) for piece, last in journal.pieces(entries, 3)]  # type: ignore[union-attr]

    assert pieces == [([1, 2, 3], 11), ([4, 5, 6], 12), ([7], 13)]


def test_of_no_groups_there_is_no_piece() -> None:
    assert list(journal.pieces([], 3)) == []
