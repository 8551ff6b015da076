"""What the SQLite store drops, and when: jobs whose time is over, old output, and the oldest jobs where room is short.

Each of the three goes round its table a window at a time, by number, so that no call reads all of it; numbers grow with
time, so the oldest come first. Looked up by the reading connection, dropped by the writing one in short transactions; what
was decided in between (a requeue) wins, for a row that deletes a job asks once more whether its run has ended.

Room is counted in pages that hold something. The file itself never shrinks: what is dropped is room for what comes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from cluster.core.records import Digest, JobId
from cluster.core.states import JobState
from cluster.store import rows, scribe
from cluster.store.port import Room
from cluster.store.scribe import Row

WINDOW_ROWS = 100_000
# Of outputs: for each, the end of its run is read.
OUTPUT_WINDOW_ROWS = 5000
# One transaction drops no more: it holds what it deletes in the log, and other readers' locks for as long.
PRUNED_PER_TRANSACTION = 500
# A sweep for unused functions reads all of `jobs`, so it is worth one only after so large a part of it has gone.
SWEEP_SHARE = 20
# What a job takes besides what `room` adds up: its keys, seals, and entries of indexes, roughly.
JOB_BYTES = 400
LAST = 2**63 - 1


class Pruning:
    """Where each round stands. Used by the thread that commits, only."""

    def __init__(
        self, read: Callable[..., list[Any]], write: Callable[[Callable[[], list[Row]]], None], fresh: set[Digest]
    ) -> None:
        """Of one store.

        Args:
            read: answers a query by its name.
            write: writes rows, which are made once all that was committed is filed, and before anything else is.
            fresh: functions that a sweep must spare, for their first job is still to come.
        """
        self._read = read
        self._write = write
        self._fresh = fresh
        self._after = 0
        self._outputs_after = 0
        self._room_after = 0
        self._is_last_resort = False  # the room's round is at dead letters
        self._pruned_since_sweep = 1  # so that the first idle prune sweeps a store that was left in between

    def prune(self, wall: float, is_needed: Callable[[JobId], bool], limit: int) -> int:
        """See `Store.prune`."""
        read = self._read
        if read("are_answers_over", wall=wall):
            self._write(lambda: [scribe.answers_over_row(wall)])
        end = self._window_end("prune_window_end", self._after, WINDOW_ROWS)
        found = read("overdue", after=self._after, end=end, wall=wall, limit=limit)
        over = [seq for seq, job in found if not is_needed(job)]
        self._forget(over)
        if len(found) == limit:
            self._after = found[-1][0]
        else:
            self._after = 0 if end == LAST else end
        if not over and self._pruned_since_sweep:
            self._sweep_functions()
        return len(over)

    def drop_outputs(self, before: float, limit: int) -> int:
        """See `Store.drop_outputs`."""
        # Most of what is over is at the beginning, but something that stays may stand before it.
        over, end = self._old_outputs(0, before, limit)
        if len(over) < limit and end != LAST:
            more, end = self._old_outputs(max(end, self._outputs_after), before, limit - len(over))
            over += more
            self._outputs_after = 0 if end == LAST else end
        self._write_all([scribe.output_over_row(seq, run) for seq, run in over])
        return len(over)

    def _old_outputs(self, after: int, before: float, limit: int) -> tuple[list[tuple[int, int]], int]:
        """Runs of the next window that ended before then and printed something; and up to where that is."""
        end = self._window_end("output_window_end", after, OUTPUT_WINDOW_ROWS)
        over: list[tuple[int, int]] = []
        for seq, run, body in self._read("printed", after=after, end=end):
            if rows.ended_at(body) < before:
                over.append((seq, run))
                if len(over) == limit:
                    return over, int(seq)  # the rest of its runs can wait for the next round
        return over, end

    def make_room(self, max_bytes: int, is_needed: Callable[[JobId], bool], limit: int) -> Room:
        """See `Store.make_room`."""
        excess = self._used() - max_bytes
        if excess <= 0:
            self._room_after, self._is_last_resort = 0, False
            return Room(0, 0, is_exhausted=False)
        over, end = self._oldest(excess, is_needed, limit)
        if not over and end == LAST and not self._is_last_resort:
            self._room_after, self._is_last_resort = 0, True
            over, end = self._oldest(excess, is_needed, limit)
        self._forget(over)
        is_exhausted = end == LAST and self._is_last_resort
        if end == LAST:
            self._room_after, self._is_last_resort = 0, not self._is_last_resort
        else:
            self._room_after = end
        return Room(len(over), max(0, self._used() - max_bytes), is_exhausted)

    def _oldest(self, excess: int, is_needed: Callable[[JobId], bool], limit: int) -> tuple[list[int], int]:
        """Jobs of the next window that may go, until they make up for the excess; and up to where that is."""
        end = self._window_end("prune_window_end", self._room_after, WINDOW_ROWS)
        over: list[int] = []
        kind = {"dead": int(JobState.DEAD_LETTER), "is_dead": int(self._is_last_resort)}
        found = self._read("oldest", after=self._room_after, end=end, limit=limit, **kind)
        for seq, job, size in found:
            if not is_needed(job):
                over.append(seq)
                excess -= size + JOB_BYTES
                if excess <= 0:
                    return over, int(seq)
        return over, found[-1][0] if len(found) == limit else end

    def _used(self) -> int:
        ((used,),) = self._read("used_bytes")
        return int(used)

    def _window_end(self, query: str, after: int, count: int) -> int:
        """The number up to which a call looks."""
        found = self._read(query, after=after, rows=count)
        return int(found[0][0]) if found else LAST

    def _forget(self, over: Sequence[int]) -> None:
        self._write_all([scribe.job_row("forget", seq) for seq in over])
        self._pruned_since_sweep += len(over)

    def _write_all(self, over: list[Row]) -> None:
        for at in range(0, len(over), PRUNED_PER_TRANSACTION):
            self._write(functools.partial(list, over[at : at + PRUNED_PER_TRANSACTION]))

    def _sweep_functions(self) -> None:
        """Drop functions of which no job is left, now and then."""
        ((spread,),) = self._read("spread")
        if self._pruned_since_sweep * SWEEP_SHARE < spread:
            return
        # The board writes a function again with the first live job that needs it, in the same group or an earlier one:
        # what no stored job refers to can go, unless it is such an earlier one. Looked up while nobody writes, so that
        # no commit comes in between.
        self._write(self._unused_functions)
        self._pruned_since_sweep = 0

    def _unused_functions(self) -> list[Row]:
        unused = [digest for (digest,) in self._read("unused_functions") if digest not in self._fresh]
        return [scribe.function_over_row(digest) for digest in unused]
