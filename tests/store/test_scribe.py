from __future__ import annotations

from cluster.core.effects import Record, Undone
from cluster.store.leases import LeaseBook
from cluster.store.rows import Marks
from cluster.store.scribe import COLUMNS, PADDING, Scribe
from cluster.store.seal import Seal
from tests.store.build import FUNCTION, admitted, ended, failed, leased, requeued


def scribe() -> Scribe:
    return Scribe(Seal(b"k" * 32), LeaseBook(), Marks(1, 0))


def kinds(writer: Scribe, *records: Record) -> list[str | None]:
    return [row[0] for row in writer.rows(records)]


def test_rows_come_in_the_order_of_the_records_and_each_has_every_column() -> None:
    rows = scribe().rows(
        [FUNCTION, admitted(1), leased("w#1", (1, 1)), failed(1, 1), ended(1, 2), requeued(1, 2), Undone(1)]
    )

    assert [row[0] for row in rows] == ["function", "job", "attempt", "outcome", "requeue", "undo", "meta"]
    assert {len(row) for row in rows} == {len(PADDING)} == {COLUMNS}


def test_a_job_that_is_over_within_its_group_costs_two_rows() -> None:
    writer = scribe()

    written = kinds(writer, admitted(1), admitted(2), leased("w#1", (1, 1), (2, 2)), ended(1, 1), ended(2, 2))

    assert written == ["job", "job", "outcome", "outcome", "meta"]


def test_marks_are_written_only_when_they_rose() -> None:
    writer = scribe()
    kinds(writer, admitted(5), leased("w#1", (7, 5)))
    writer.written()

    assert kinds(writer, ended(5, 7)) == ["outcome", "lease over"]
    writer.written()
    assert kinds(writer, Undone(5)) == ["undo"]


def test_marks_of_a_failed_commit_are_written_with_the_next() -> None:
    writer = scribe()
    kinds(writer, admitted(5))

    assert kinds(writer, Undone(5)) == ["undo", "meta"]
