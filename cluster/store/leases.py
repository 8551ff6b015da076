"""Which stored lease batches still have something outstanding.

A batch of leases is one row, written when it is handed out and deleted once all of it has ended, so the table holds
about as many leases as there are slots, however long the store lives. A lease that ends in the commit group that made
it, as those of short jobs do, is never written at all.

Only the thread that commits changes a book. It runs ahead of the disk while a commit fails: what has to be written
stays marked (`_touched`) until a commit that carried it succeeded, so a repeated commit says the same again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cluster.core.effects import Leased, LeasedJob
from cluster.core.records import Fence, WorkerId


class Batch:
    """Leases that were handed out together, less those that are over."""

    __slots__ = ("first", "left", "worker")

    def __init__(self, worker: WorkerId, jobs: Iterable[LeasedJob]) -> None:
        self.worker = worker
        self.left = {job.fence: job for job in jobs}
        self.first = min(self.left)

    def __repr__(self) -> str:
        return f"Batch({self.worker}, {list(self.left)})"


class LeaseBook:
    """All outstanding leases of one store."""

    def __init__(self) -> None:
        self._batches: dict[Fence, Batch] = {}  # by every outstanding fence
        self._fence_of: dict[int, Fence] = {}  # by job number; a job has one lease at most
        self._touched: dict[Fence, Batch] = {}  # by first fence: to be written, or deleted once nothing is left
        self._stored: set[Fence] = set()  # first fences of batches whose row is there, or may be

    def add(self, batch: Batch, *, is_stored: bool = False) -> None:
        """Enter a batch. `is_stored`: it was just read, and needs no writing unless nothing of it is left."""
        for fence, job in batch.left.items():
            self.end(job.seq)  # an earlier lease of the job, or this batch once more after a failed commit
            self._batches[fence] = batch
            self._fence_of[job.seq] = fence
        if is_stored:
            self._stored.add(batch.first)
        else:
            self._touched[batch.first] = batch

    def lease(self, record: Leased) -> None:
        """Leases were handed out."""
        if record.jobs:
            self.add(Batch(record.worker, record.jobs))

    def end(self, seq: int) -> None:
        """A job's attempt is over; the record that says so makes a rewrite of the batch needless."""
        fence = self._fence_of.get(seq)
        if fence is not None:
            batch = self._remove(fence)
            if not batch.left:
                self._touched[batch.first] = batch

    def give_back(self, fence: Fence) -> None:
        """A lease is over, and nothing but the batch's row can say so."""
        if fence in self._batches:
            batch = self._remove(fence)
            self._touched[batch.first] = batch

    def holder(self, seq: int) -> tuple[Fence, WorkerId]:
        """The lease of a job and who has it; (0, "") if nobody has."""
        fence = self._fence_of.get(seq)
        if fence is None:
            return 0, ""
        batch = self._batches.get(fence)
        return (fence, batch.worker) if batch else (0, "")

    def to_write(self) -> Iterator[Batch]:
        """The batches whose rows must be written, or deleted where nothing is left."""
        for first, batch in self._touched.items():
            if batch.left:
                self._stored.add(first)  # from now on it may be there, even if the commit is said to have failed
                yield batch
            elif first in self._stored:
                yield batch

    def written(self) -> None:
        """A commit with all of `to_write` succeeded."""
        self._stored.difference_update([first for first, batch in self._touched.items() if not batch.left])
        self._touched.clear()

    def _remove(self, fence: Fence) -> Batch:
        batch = self._batches.pop(fence)
        job = batch.left.pop(fence)
        if self._fence_of.get(job.seq) == fence:
            del self._fence_of[job.seq]
        return batch
