"""A long line of jobs that the garbage collector need not walk along.

A deque of a million jobs is one object that each full collection goes through from end to end, while everybody waits,
though none of the jobs can be part of a cycle. Here all but the two ends is cut into tuples: the collector looks at each
once, finds nothing in it that it could ever collect, and does not come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from cluster.core.job import Job

# Few enough for the collector to pass the ends in no time, and so many that a piece costs its jobs next to nothing.
PIECE = 512


class Line:
    """Jobs in order; both ends are cheap, and nothing in between can be reached."""

    __slots__ = ("_front", "_pieces", "_rear")

    def __init__(self) -> None:
        self._front: list[Job] = []  # backwards: the first job is its last
        self._pieces: deque[tuple[Job, ...]] = deque()  # of `PIECE` jobs each
        self._rear: list[Job] = []

    def __len__(self) -> int:
        return len(self._front) + PIECE * len(self._pieces) + len(self._rear)

    def __iter__(self) -> Iterator[Job]:
        yield from reversed(self._front)
        for piece in self._pieces:
            yield from piece
        yield from self._rear

    def append(self, job: Job) -> None:
        """Put a job behind all others."""
        rear = self._rear
        rear.append(job)
        if len(rear) >= PIECE:
            self._pieces.append(tuple(rear))
            self._rear = []

    def prepend(self, job: Job) -> None:
        """Put a job before all others."""
        front = self._front
        front.append(job)
        if len(front) >= 2 * PIECE:
            self._pieces.appendleft(tuple(reversed(front[:PIECE])))
            del front[:PIECE]

    def next_ones(self) -> list[Job]:
        """The next jobs, backwards: take them off the end. It is empty only if the line is, and good until it is changed."""
        if not self._front:
            if self._pieces:
                self._front.extend(reversed(self._pieces.popleft()))
            else:
                self._front, self._rear = self._rear, self._front
                self._front.reverse()
        return self._front
