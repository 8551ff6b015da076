"""What a worker has to say and the master has not taken yet.

Guarded by the lock of the desk that owns it. A batch is the front of each list; once told, exactly that front goes, and
what was added meanwhile stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.core.records import Certificate, Ending, Fence, Lease, Report, WorkerId
from cluster.wire.calls import Tell
from cluster.wire.messages import Progress

# One call takes so much, but one report at least; more follows with the next.
MAX_BATCH_BYTES = 4 << 20
MAX_BATCH_REPORTS = 2000
# What nobody could tell for so long is not worth telling; the newest is.
MAX_PROGRESS = 1000
# Of one running attempt's output, to be told again; and of all of them: beyond, who spoke first is forgotten.
MAX_SPOKEN_BYTES = 64 * 1024
MAX_ALL_SPOKEN_BYTES = 16 << 20


@dataclass(slots=True)
class Untold:
    """Reports, confirmations, give-backs and progress, in order; and what runs."""

    reports: list[Report] = field(default_factory=list)
    stopped: list[Fence] = field(default_factory=list)
    given_back: list[Fence] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    begun: list[Fence] = field(default_factory=list)
    # What running attempts have printed, as it was told: its end, for a master that has not heard it or is another one.
    spoken: dict[Fence, Progress] = field(default_factory=dict)
    spoken_bytes: int = 0

    @property
    def is_empty(self) -> bool:
        """Nothing is left to tell."""
        return not (self.reports or self.stopped or self.given_back or self.progress or self.begun)

    def batch(self, worker: WorkerId, credit: int, number: int, *, turn: int = 0) -> Tell:
        """What the next call says. What only watchers want leaves the list with it; of output see `say_again`."""
        reports: list[Report] = []
        size = 0
        for report in self.reports[:MAX_BATCH_REPORTS]:
            size += size_of(report)
            if reports and size > MAX_BATCH_BYTES:
                break
            reports.append(report)
        progress, self.progress = _newest(self.progress), []
        begun, self.begun = self.begun[-MAX_PROGRESS:], []
        for word in progress:
            if word.output:
                self._note_spoken(word)
        # A stop is confirmed, and a slot's room offered, only once the reports before it are told.
        is_whole = len(reports) == len(self.reports)
        return Tell(
            worker=worker,
            reports=tuple(reports),
            stopped=tuple(self.stopped) if is_whole else (),
            given_back=tuple(self.given_back) if is_whole else (),
            progress=tuple(progress),
            begun=tuple(begun),
            credit=credit,
            number=number,
            turn=turn,
        )

    def told(self, said: Tell) -> set[Fence]:
        """A batch was taken: the leases that ended with it."""
        del self.reports[: len(said.reports)]
        del self.stopped[: len(said.stopped)]
        del self.given_back[: len(said.given_back)]
        over = {*said.stopped, *said.given_back, *(report.fence for report in said.reports)}
        if self.spoken:
            for fence in over & self.spoken.keys():
                self._forget_spoken(fence)
        return over

    def say_again(self) -> None:
        """A batch may not have arrived, or the master is another one: have it told what running attempts have printed.

        Each word says where it belongs, so one that comes twice does no harm. The rest of progress was only for then.
        """
        self.progress[:0] = self.spoken.values()
        self.spoken.clear()
        self.spoken_bytes = 0

    def _note_spoken(self, word: Progress) -> None:
        known = self.spoken.get(word.fence)
        if known is not None:
            if known.offset + len(known.output) == word.offset:
                word = Progress(word.fence, 0.0, 0.0, output=known.output + word.output, offset=known.offset)
            self.spoken_bytes -= len(known.output)
        excess = len(word.output) - MAX_SPOKEN_BYTES
        if excess > 0:
            word = Progress(word.fence, 0.0, 0.0, output=word.output[excess:], offset=word.offset + excess)
        self.spoken[word.fence] = word
        self.spoken_bytes += len(word.output)
        while self.spoken_bytes > MAX_ALL_SPOKEN_BYTES:
            self._forget_spoken(next(iter(self.spoken)))

    def _forget_spoken(self, fence: Fence) -> None:
        self.spoken_bytes -= len(self.spoken.pop(fence).output)

    def refuse(self, lease: Lease, reason: str) -> None:
        """Say of a lease that it can't be run here."""
        certificate = Certificate(ending=Ending.CRASHED, reason=reason, attempt=lease.attempt)
        self.reports.append(Report(lease.fence, Ending.CRASHED, certificate=certificate))


def _newest(progress: list[Progress]) -> list[Progress]:
    size = 0
    for count, said in enumerate(reversed(progress)):
        size += len(said.output)
        if count >= MAX_PROGRESS or size > MAX_BATCH_BYTES:
            return progress[len(progress) - count :]
    return progress


def size_of(report: Report) -> int:
    """Bytes of a report's payloads."""
    return len(report.payload) + len(report.output) + sum(len(segment.data) for segment in report.segments)
