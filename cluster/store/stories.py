"""Jobs as the tables tell them: found by their ids, listed, and streamed to the board of a new master.

A *story* is a job with what its current run has been through (the view of `queries.sql`), a row from four tables. Most jobs
that wait have no past yet: `live` reads those from their one table, which costs half, and asks for the stories of the
others only. Each read is bounded by rows and by bytes, and what it gave is checked and decoded once the connection is free
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from cluster.core.effects import StoredJob
from cluster.core.records import JobId
from cluster.core.states import JobState
from cluster.errors import StoreTampered
from cluster.store import rows
from cluster.store.aside import Aside
from cluster.store.leases import LeaseBook
from cluster.store.port import without_payloads
from cluster.store.pruning import LAST
from cluster.store.rows import BadSealError

# One read ends at whichever comes first.
LIVE_JOBS_PER_READ = 500  # more of them are in the way of each other, in the processor's caches
FOUND_JOBS_PER_READ = 500  # each is a parameter of the statement, and SQLite before 3.32 takes 999
MAX_BYTES_PER_READ = 16 << 20

Values: TypeAlias = Sequence[object] | Mapping[str, object]
# Answers a statement, by these columns' bytes and so many of them at most: its rows, and whether there are more.
Read: TypeAlias = Callable[[str, Values, Sequence[int], int], tuple[list[Any], bool]]


class Stories:
    """Of one opening of one store. May be used from any thread."""

    def __init__(self, read: Read, queries: dict[str, str], reader: rows.Reader, aside: Aside) -> None:
        self._read = read
        self._queries = queries
        self._find_all = queries["find_all"].replace(":ids", ", ".join(["(?)"] * FOUND_JOBS_PER_READ))
        self._reader = reader
        self._aside = aside
        self._book = LeaseBook()

    def follow(self, book: LeaseBook) -> None:
        """Say of live jobs who holds their leases, as this book has it."""
        self._book = book

    def live(self, after: int) -> tuple[list[StoredJob], int | None]:
        """Some live jobs behind a number, and the number after which there may be more."""
        ((is_past_ahead,),) = self._all("is_past_ahead", after=after)
        query = self._queries["live_jobs" if is_past_ahead else "new_jobs"]
        values = {"after": after, "limit": LIVE_JOBS_PER_READ}
        found, is_cut = self._read(query, values, (rows.ARGS,), MAX_BYTES_PER_READ)
        is_last = len(found) < LIVE_JOBS_PER_READ and not is_cut
        return list(self._living(found)), None if is_last else found[-1][0]

    def _living(self, found: list[Any]) -> Iterator[StoredJob]:
        """Those of these rows that are as they were written, whole; the rest is named and left out."""
        admission, holder = self._reader.whole_admission, self._book.holder
        for row in found:
            try:
                if not row[rows.HAS_PAST]:
                    yield admission(row, holder(row[0]))
                    continue
                for story in self._all("live_story", seq=row[0]):
                    yield self._whole(story)
            except BadSealError as error:
                self._aside.put(row, error)
                self._aside.tell(error)

    def one(self, query: str, **values: str) -> StoredJob | None:
        """The job that a query finds. Raises `BadSealError`."""
        return next((self._whole(row) for row in self._all(query, **values)), None)

    def some(self, jobs: Sequence[JobId]) -> tuple[list[tuple[JobId, StoredJob | StoreTampered]], Sequence[JobId]]:
        """Some of these jobs, in this order, as far as they are there; and those that are still to be looked for."""
        asked, rest = jobs[:FOUND_JOBS_PER_READ], jobs[FOUND_JOBS_PER_READ:]
        names = [job for job in asked if _is_text(job)]
        # Padded, so that one statement is prepared, and once.
        values = [*names, *[None] * (FOUND_JOBS_PER_READ - len(names))]
        found, is_cut = self._read(self._find_all, values, (rows.ARGS, rows.PAYLOAD), MAX_BYTES_PER_READ)
        if is_cut:
            rest = [*asked[asked.index(found[-1][1]) + 1 :], *rest]
        return [(row[1], self._judged(row)) for row in found], rest

    def page(self, after: int, limit: int, state: JobState | None) -> list[StoredJob]:
        """See `Store.page`. A tampered job stands there as a dead letter that says so."""
        found = self._all("page", after=after, limit=limit, state=None if state is None else int(state))
        listed = {row[0]: self._listed(row) for row in found}
        if state is JobState.DEAD_LETTER:
            # No query finds them. What comes behind a full page is of the next one.
            listed |= self._aside.between(after, found[-1][0] if len(found) == limit else LAST)
        return [listed[seq] for seq in sorted(listed)[:limit]]

    def _whole(self, row: Sequence[Any]) -> StoredJob:
        try:
            return self._reader.whole_story(row, self._book.holder(row[0]))
        except BadSealError as error:
            self._aside.put(row, error)
            raise

    def _judged(self, row: Sequence[Any]) -> StoredJob | StoreTampered:
        try:
            return self._whole(row)
        except BadSealError as error:
            return self._aside.refusal(error)

    def _listed(self, row: Sequence[Any]) -> StoredJob:
        try:
            return without_payloads(self._reader.story(row, self._book.holder(row[0])))
        except BadSealError as error:
            self._aside.tell(error)
            return self._aside.put(row, error)

    def _all(self, query: str, **values: object) -> list[Any]:
        return self._read(self._queries[query], values, (), 0)[0]


def _is_text(name: str) -> bool:
    """Whether a column of text may hold it: half a surrogate pair it can't, and would spoil the whole statement."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
